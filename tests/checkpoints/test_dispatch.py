"""A model spread by accelerate: the same logits, generation and evaluation as in one place."""

import pytest
import torch

import lens_audio as la
from lens_audio.checkpoints.dispatch import dispatch
from lens_audio.evals.answering import generate
from lens_audio.evals.prefill import prefill
from lens_audio.model.attention_context import AttentionContext
from lens_audio.steering.audio_silence.silent_prefixes import SilentPrefixes


def load():
    return la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(), device="cpu")


@pytest.fixture(scope="module")
def model():
    return load()


@pytest.fixture(scope="module")
def prompt(model):
    items = la.testbed.make_items(2, seed=9)
    return model.prompt([i.question for i in items], audio=[(i.waveform, 16000) for i in items])


def parts(**elsewhere):
    """Every module on the CPU but those named, by accelerate's names."""
    names = ["embed", "ln_final", "unembed", "audio_encoder", "audio_projector"]
    return {**dict.fromkeys([*names, *(f"blocks.{n}" for n in range(4))], "cpu"), **elsewhere}


@pytest.fixture(
    params=[
        {"device_map": {"": "cpu"}, "force_hooks": True},
        {"device_map": parts(), "force_hooks": True},
        {"device_map": parts(**{"blocks.1": "disk", "blocks.3": "disk", "unembed": "disk"})},
        {"device_map": "auto"},
    ],
    ids=["whole", "parts", "on disk", "auto"],
)
def spread(request, tmp_path):
    return dispatch(load(), **request.param, offload_dir=tmp_path)


@torch.no_grad()
def test_a_spread_model_computes_the_same(model, spread, prompt):
    torch.testing.assert_close(spread(prompt), model(prompt))
    ours, theirs = (
        m.generate(prompt, 3, return_type="str", verbose=False) for m in (spread, model)
    )
    assert ours == theirs


def test_a_spread_model_is_evaluated_the_same(model, spread, prompt):
    said = []
    for one in (model, spread):
        heard = prefill(one, prompt, [0, 3], SilentPrefixes(), answer_silence=True)
        steps = torch.stack([beta * heard.direction([0, 3]) for beta in (0.0, 4.0)])
        said.append(generate(one, heard.prefill, steps, 4, lambda text: False))
    assert said[0] == said[1]


def test_what_blocks_share_moves_with_them(model):
    x = torch.zeros(2, 5, model.cfg.d_model)
    mask = torch.tensor([[False, True, True, True, True], [True] * 5])
    context = AttentionContext.of(model.cfg, x, mask)
    moved = context.to("meta")
    assert context.to("cpu") is context
    assert moved.key_mask.device == moved.rotary[0].device == moved.mask.device == moved.device


def test_another_word_than_auto_is_refused(model):
    with pytest.raises(ValueError, match="'auto' or a dictionary, not 'some'"):
        dispatch(model, "some")
