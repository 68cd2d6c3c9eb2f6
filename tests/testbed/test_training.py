"""Training on a tiny run: resumable to the bit, packed rows equal single prompts."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from lens_audio.testbed.data import Pool, caption_trust, clarity, make_batch, make_pool
from lens_audio.testbed.processor import build_processor
from lens_audio.testbed.sounds import (
    MAX_EVENT_SECONDS,
    MAX_SNR_DB,
    MIN_EVENT_SECONDS,
    MIN_SNR_DB,
)
from lens_audio.testbed.train import Trainer, TrainingSettings, train

TINY = TrainingSettings(
    steps=5, tagging_steps=2, settling_steps=1, batch_size=2, questions=2, clips=32, warmup_steps=1
)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return make_pool(build_processor().feature_extractor, seed=0, n_events=TINY.clips)


def test_resumed_run_ends_in_the_same_weights(pool: Pool, tmp_path: Path) -> None:
    whole = Trainer(TINY, pool=pool)
    train(whole, tmp_path / "whole", tmp_path / "state")
    first = Trainer(TINY, pool=pool)
    for _ in range(3):
        first.train_step()
    first.save_state(tmp_path / "stopped")
    second = Trainer(TINY, pool=pool)
    second.load_state(tmp_path / "stopped")
    assert second.step == 3
    train(second, tmp_path / "resumed", tmp_path / "stopped")
    for (name, a), b in zip(
        whole.model.state_dict().items(), second.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert (tmp_path / "resumed" / "model.safetensors").exists()


def test_resuming_with_other_settings_or_nothing_is_refused(pool: Pool, tmp_path: Path) -> None:
    trainer = Trainer(TINY, pool=pool)
    with pytest.raises(ValueError, match="start without --resume"):
        trainer.load_state(tmp_path)
    trainer.save_state(tmp_path)
    other = Trainer(dataclasses.replace(TINY, seed=1), pool=pool)
    with pytest.raises(ValueError, match="repeat those settings"):
        other.load_state(tmp_path)


def test_resuming_with_other_versions_is_refused(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(TINY, pool=pool)
    trainer.save_state(tmp_path)
    monkeypatch.setattr("lens_audio.testbed.train.versions", lambda: {"torch": "0"})
    with pytest.raises(ValueError, match=r"versions torch was .* and is '0'"):
        trainer.load_state(tmp_path)


def test_pool_and_batches_are_determined_by_the_seed(pool: Pool) -> None:
    processor = build_processor()
    again = make_pool(processor.feature_extractor, seed=0, n_events=TINY.clips)
    assert np.array_equal(pool.mel, again.mel)
    a, b, c = (make_batch(pool, processor, 0, step, 3, 2) for step in (5, 5, 6))
    assert torch.equal(a.input_ids, b.input_ids)
    assert torch.equal(a.mel, b.mel)
    assert a.input_ids.shape != c.input_ids.shape or not torch.equal(a.input_ids, c.input_ids)


def test_packed_questions_score_as_single_prompts_do(pool: Pool) -> None:
    trainer = Trainer(dataclasses.replace(TINY, precision="float32"), pool=pool)
    batch = make_batch(pool, trainer.processor, 0, 3, 3, 2)
    model, audio = trainer.model.eval(), trainer.model.config.audio_token_index
    with torch.no_grad():
        packed = model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=batch.attention_mask,
            input_features=batch.mel,
            feature_attention_mask=batch.mel_mask,
        ).logits
    clip = -1
    for row, ids in enumerate(batch.input_ids):
        heard = bool((ids == audio).any())
        clip += heard
        for end in batch.answer_mask[row].nonzero().flatten()[1::2]:
            seen = batch.attention_mask[row, 0, end].nonzero().flatten()
            features = {}
            if heard:
                features["input_features"] = batch.mel[clip : clip + 1]
                features["feature_attention_mask"] = batch.mel_mask[clip : clip + 1]
            with torch.no_grad():
                alone = model(
                    input_ids=ids[seen][None], attention_mask=torch.ones(1, len(seen)), **features
                ).logits[0]
            torch.testing.assert_close(packed[row, seen], alone, atol=1e-4, rtol=1e-4)


def test_firm_captions_are_trusted_more_and_clear_events_less() -> None:
    assert caption_trust(True, 0.0) > caption_trust(False, 0.0)
    assert caption_trust(False, -0.5) > caption_trust(False, 0.5)
    assert caption_trust(False, 0.0) > caption_trust(False, 0.0, settling=True)
    assert clarity(MIN_SNR_DB, MIN_EVENT_SECONDS) == -1
    assert clarity(MAX_SNR_DB, MAX_EVENT_SECONDS) == pytest.approx(1)


def test_more_tagging_steps_than_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="lower --tagging-steps"):
        Trainer(dataclasses.replace(TINY, steps=1))
