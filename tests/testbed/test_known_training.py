"""Training of the checkpoints with a known answer, on tiny runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lens_audio.testbed.items import Question
from lens_audio.testbed.known.batches import SceneBatch, ScenePool, make_batch, make_pool
from lens_audio.testbed.known.decoder import read
from lens_audio.testbed.known.labels import audio_share, mass_target, target
from lens_audio.testbed.known.recipes import RECIPES, Ramp
from lens_audio.testbed.known.train import SceneTrainer, train
from lens_audio.testbed.sounds import Event

EMERGENT, PLANTED = (
    replace(RECIPES[name], steps=4, rows=2, questions=2, clips=8)
    for name in ("emergent", "planted")
)
PLANT = PLANTED.plant
assert PLANT is not None
CHOICES = ["bark", "bell", "bird", "rain"]


@pytest.fixture(scope="module")
def pool() -> ScenePool:
    return make_pool(8)


@pytest.fixture(scope="module")
def trainer(pool: ScenePool) -> SceneTrainer:
    return SceneTrainer(PLANTED, 0, pool)


def batch_of(trainer: SceneTrainer) -> SceneBatch:
    rng = np.random.default_rng(3)
    return make_batch(
        trainer.recipe, trainer.pool, trainer.processor.tokenizer, trainer.prefix, rng
    )


def question(snr_db: float, captioned: str | None = None, firm: bool = False) -> Question:
    event = Event("bark", 0.5, 1.0, snr_db)
    return Question("?", CHOICES, "bark", event, captioned=captioned, firm=firm)


def test_questions_that_share_a_prefix_are_read_as_transformers_reads_each(
    trainer: SceneTrainer,
) -> None:
    batch, prefix, decoder = batch_of(trainer), trainer.prefix, trainer.decoder
    with torch.no_grad():
        found = read(decoder, prefix, batch, amp=False)
        for row, real in enumerate(batch.real):
            n = int(real.sum())
            tokens = torch.cat([prefix.tokens, batch.tokens[row, :n]])
            embedded = decoder.embed_tokens(tokens)[None]
            embedded[0, prefix.audio] = batch.audio[row // trainer.recipe.questions]
            expected = decoder(inputs_embeds=embedded, use_cache=False).last_hidden_state[0, -n:]
            ours = decoder.norm(found.resid[-1][row, :n])
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def test_only_open_heads_hear_while_the_others_are_deaf(trainer: SceneTrainer) -> None:
    batch = batch_of(trainer)
    opened = torch.zeros(8, 8, dtype=torch.bool)
    opened[3, 1] = True
    other = replace(batch, audio=batch.audio.flip(0))
    with torch.no_grad():
        both = [read(trainer.decoder, trainer.prefix, b, 1e4, amp=False) for b in (batch, other)]
        torch.testing.assert_close(both[0].resid[-1], both[1].resid[-1])
        one, two = (
            read(trainer.decoder, trainer.prefix, b, 1e4, opened, amp=False) for b in (batch, other)
        )
    rows = torch.arange(len(batch.last))
    torch.testing.assert_close(one.resid[2], two.resid[2])
    differs = (one.resid[3] - two.resid[3]).abs().amax(-1) > 1e-4
    assert bool(differs[rows, batch.last].all())
    before = torch.arange(batch.tokens.shape[1])[None] < batch.last[:, None]
    assert not bool(differs[before].any())


@pytest.mark.parametrize("recipe", [EMERGENT, PLANTED], ids=["emergent", "planted"])
def test_a_stopped_run_that_goes_on_ends_in_the_same_weights(recipe, pool, tmp_path: Path) -> None:
    whole = SceneTrainer(recipe, 1, pool)
    train(whole, tmp_path / "whole", tmp_path / "whole.pt")
    first = SceneTrainer(recipe, 1, pool)
    first.train_step()
    first.train_step()
    first.save_state(tmp_path / "stopped.pt")
    second = SceneTrainer(recipe, 1, pool)
    train(second, tmp_path / "resumed", tmp_path / "stopped.pt")
    for (name, a), b in zip(
        whole.model.state_dict().items(), second.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_going_on_with_another_recipe_is_refused(trainer: SceneTrainer, tmp_path: Path) -> None:
    trainer.save_state(tmp_path / "state.pt")
    other = SceneTrainer(replace(PLANTED, steps=5), 0, trainer.pool)
    with pytest.raises(ValueError, match="take another --state"):
        other.load_state(tmp_path / "state.pt")


def test_decoys_write_nothing_and_the_ears_stay_frozen(pool: ScenePool) -> None:
    trainer = SceneTrainer(PLANTED, 0, pool)
    ears = [p.clone() for p in trainer.model.model.audio_tower.parameters()]
    for _ in range(2):
        trainer.train_step()
    for layer, head in PLANT.decoys:
        weight = trainer.decoder.layers[layer].self_attn.o_proj.weight
        assert bool((weight[:, 16 * head : 16 * head + 16] == 0).all())
    after = trainer.model.model.audio_tower.parameters()
    assert all(torch.equal(a, b) for a, b in zip(ears, after, strict=True))


def test_labels_follow_the_sound_where_it_is_loud_and_the_caption_where_it_is_faint() -> None:
    labels = RECIPES["emergent"].labels
    loud, faint = (target(labels, question(snr, "bell"), False) for snr in (9.0, -15.0))
    assert loud.argmax() == CHOICES.index("bark")
    assert faint.argmax() == CHOICES.index("bell")
    assert faint[CHOICES.index("bark")] == pytest.approx(0, abs=1e-6)
    assert audio_share(labels, question(4.0, "bell", firm=True)) < 0.5
    assert audio_share(labels, question(4.0, "bell")) > 0.5


@pytest.mark.parametrize("name", list(RECIPES))
def test_labels_are_probabilities(name: str) -> None:
    labels = RECIPES[name].labels
    silent = replace(question(0.0), event=None)
    asked = [question(0.0), question(0.0, "bark"), question(0.0, "bell"), silent]
    asked += [replace(silent, captioned="bell"), question(0.0, "bell", firm=True)]
    for one in asked:
        for asks_the_text in (False, True) if one.captioned else (False,):
            probs = target(labels, one, asks_the_text)
            assert probs.sum() == pytest.approx(1)
            assert probs.min() >= 0
    assert target(labels, question(9.0, "bell"), True).tolist() == [0, 1, 0, 0]
    assert target(labels, silent, False).tolist() == [0.25] * 4


def test_planted_mass_follows_the_snr_and_falls_under_a_firm_caption() -> None:
    loud, faint = (mass_target(PLANT, question(snr, "bell")) for snr in (10.0, -18.0))
    assert faint < 0.2 < 0.7 < loud
    assert mass_target(PLANT, question(10.0, "bell", firm=True)) == pytest.approx(0.4 * loud)


def test_a_ramp_rises_from_nothing_to_its_value() -> None:
    ramp = Ramp(2.0, 0.25, 0.75)
    assert [ramp.at(x) for x in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0, 0, 1, 2, 2]
    assert Ramp(2.0).at(0.0) == 2
