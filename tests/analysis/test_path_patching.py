"""Path patching against a forward by hand, and against TransformerLens's direct path."""

from dataclasses import replace

import pytest
import torch
from models import Layout, Sizes, hooked_model, make_prompt
from transformer_lens import patching as transformer_lens_patching

from lens_audio.analysis.metrics import logit_diff
from lens_audio.analysis.patching.paths import path_patch
from lens_audio.model.rotary import apply_rotary, rotary_tables

SIZES = Sizes()
MODEL = hooked_model(SIZES)
LAYOUT = Layout([6, 6], [[23], [23]])
CLEAN, CORRUPTED = make_prompt(SIZES, LAYOUT, 1), make_prompt(SIZES, LAYOUT, 2)
METRIC = logit_diff([7, 9], [20, 21])
LENGTH = CLEAN.tokens.shape[1]


def run(**options):
    return path_patch(MODEL, CLEAN, CORRUPTED, METRIC, verbose=False, **options)


def caches(model=MODEL, clean=CLEAN, corrupted=CORRUPTED):
    with torch.no_grad():
        return model.run_with_cache(corrupted)[1], model.run_with_cache(clean)[1]


class ByHand:
    """A two-layer decoder over given inputs, one tensor operation after another."""

    def __init__(self, base, source, frozen_mlps=False):
        self.base, self.source, self.frozen_mlps = base, source, frozen_mlps

    def qkv(self, layer, resid):
        attn, x = MODEL.blocks[layer].attn, MODEL.blocks[layer].ln1(resid)
        return {
            name: torch.einsum("bpm,hmd->bphd", x, getattr(attn, f"W_{name.upper()}"))
            + getattr(attn, f"b_{name.upper()}")
            for name in "qkv"
        }

    def z(self, q, k, v):
        tables = rotary_tables(torch.arange(LENGTH)[None], SIZES.d_head, 10000.0, q.dtype)
        q, k = apply_rotary(q, *tables), apply_rotary(k, *tables)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / SIZES.d_head**0.5
        causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        pattern = scores.masked_fill(~causal, -torch.inf).softmax(-1)
        return torch.einsum("bhqk,bkhd->bqhd", pattern, v)

    def attn_out(self, layer, z):
        return torch.einsum("bphd,hdm->bpm", z, MODEL.blocks[layer].attn.W_O)

    def mlp_out(self, layer, resid_mid):
        block = MODEL.blocks[layer]
        return block.mlp(block.ln2(resid_mid))

    def resid_post_0(self, head, positions):
        """The stream after layer 0, where one head wrote what it wrote in the source run."""
        z = self.base["z", 0].clone()
        z[:, positions, head] = self.source["z", 0][:, positions, head]
        mid = self.base["resid_pre", 0] + self.attn_out(0, z)
        mlp = self.base["mlp_out", 0] if self.frozen_mlps else self.mlp_out(0, mid)
        return mid + mlp

    def logits(self, resid_pre_1, z_1, mlp=None):
        mid = resid_pre_1 + self.attn_out(1, z_1)
        mlp = self.mlp_out(1, mid) if mlp is None else mlp
        return MODEL.ln_final(mid + mlp)[:, -1] @ MODEL.W_U

    def to_head(self, sender, receiver, letter, positions):
        direct = self.qkv(1, self.resid_post_0(sender, positions))[letter]
        inputs = self.qkv(1, self.base["resid_pre", 1])
        n_groups = SIZES.n_heads // SIZES.kv_heads
        heads = [receiver] if letter == "q" else [receiver * n_groups + i for i in range(n_groups)]
        inputs[letter][:, :, heads] = direct[:, :, heads]
        return self.logits(self.base["resid_pre", 1], self.z(**inputs))

    def to_logits(self, sender, positions):
        resid = self.resid_post_0(sender, positions)
        frozen = self.base["mlp_out", 1] if self.frozen_mlps else None
        return self.logits(resid, self.base["z", 1], frozen)


POSITIONS = {"all": slice(None), "last": [-1], "audio": CLEAN.audio_positions(0).tolist()}


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("mlps", ["recompute", "freeze"])
@pytest.mark.parametrize("letter", "qkv")
@torch.no_grad()
def test_effect_on_a_head_is_that_by_hand(letter, mlps, positions):
    by_hand = ByHand(*caches(), frozen_mlps=mlps == "freeze")
    senders = [(0, head) for head in range(SIZES.n_heads)]
    found = run(
        receivers=[(1, 1)], receiver_input=letter, mlps=mlps, positions=positions, senders=senders
    )
    for sender in range(SIZES.n_heads):
        expected = METRIC(by_hand.to_head(sender, 1, letter, POSITIONS[positions]))
        torch.testing.assert_close(found.values[0, sender], expected, atol=1e-4, rtol=1e-4)
    if not (letter == "q" and positions == "audio"):
        assert (found.values - found.base[:, None]).abs().max() > 1e-3


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("mlps", ["recompute", "freeze"])
@torch.no_grad()
def test_effect_on_the_logits_is_that_by_hand(mlps, positions):
    by_hand = ByHand(*caches(), frozen_mlps=mlps == "freeze")
    found = run(mlps=mlps, positions=positions)
    for sender in range(SIZES.n_heads):
        expected = METRIC(by_hand.to_logits(sender, POSITIONS[positions]))
        torch.testing.assert_close(found.values[0, 0, sender], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_last_layer_reaches_the_logits():
    found = run(mlps="freeze")
    base, source = caches()
    z = base["z", 1].clone()
    z[:, :, 2] = source["z", 1][:, :, 2]
    resid = base["resid_post", 1] + ByHand(base, source).attn_out(1, z - base["z", 1])
    expected = METRIC(MODEL.ln_final(resid)[:, -1] @ MODEL.W_U)
    torch.testing.assert_close(found.values[0, 1, 2], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("letter", "qkv")
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_agrees_with_transformer_lens_on_direct_paths(letter, direction):
    sizes = Sizes(n_layers=3, kv_heads=4)
    model, layout = hooked_model(sizes), Layout([7], [[23]])
    clean, corrupted = make_prompt(sizes, layout, 1), make_prompt(sizes, layout, 2)
    base, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    metric = logit_diff(7, 20)
    base_cache, source_cache = caches(model, source, base)
    with torch.no_grad(), model.listening_to(base):
        expected = transformer_lens_patching.get_act_patch_direct_path(
            model.eval(), base.tokens, source_cache, base_cache,
            lambda logits: metric(logits[:, -1])[0], 0, 2, letter, verbose=False,
        )  # fmt: skip
    for layer in (1, 2):
        for head in range(4):
            found = path_patch(
                model, clean, corrupted, metric, senders=[(0, 2)], receivers=[(layer, head)],
                receiver_input=letter, mlps="freeze", direction=direction, verbose=False,
            )  # fmt: skip
            assert found.values.item() == pytest.approx(expected[layer, head].item(), abs=1e-4)


def test_senders_without_a_path_change_nothing():
    found = run(receivers=[(1, 0)])
    assert torch.equal(found.values[0, 1], found.base.expand(SIZES.n_heads, -1))
    assert not torch.isclose(found.values[0, 0], found.base[0]).all()


def test_several_receivers_hear_at_once():
    senders = [(0, 1)]
    both = run(senders=senders, receivers=[(1, 0), (1, 3)])
    first, second = (run(senders=senders, receivers=[r]) for r in ((1, 0), (1, 3)))
    assert not torch.allclose(both.values, first.values)
    assert not torch.allclose(both.values, second.values)


def test_padding_does_not_matter():
    layout = Layout([8, 5], [[23], [23]])
    clean, corrupted = make_prompt(SIZES, layout, 1), make_prompt(SIZES, layout, 2)
    batch = path_patch(MODEL, clean, corrupted, logit_diff(7, 20), verbose=False)
    rows = [make_row(prompt, 1, 3) for prompt in (clean, corrupted)]
    alone = path_patch(MODEL, *rows, logit_diff(7, 20), verbose=False)
    torch.testing.assert_close(batch.values[..., 1], alone.values[..., 0], atol=1e-4, rtol=1e-4)


def make_row(prompt, row, n_padding):
    rows = slice(row, row + 1)
    tokens, mask, audio = (
        getattr(prompt, name)[rows, n_padding:]
        for name in ("tokens", "attention_mask", "audio_mask")
    )
    return replace(
        prompt, tokens=tokens, attention_mask=mask, audio_mask=audio,
        mel=prompt.mel[rows], mel_lengths=prompt.mel_lengths[rows],
    )  # fmt: skip


def test_axes_and_base_values():
    found = run(direction="noise")
    assert list(found.axes) == ["metric", "layer", "head", "example"]
    with torch.no_grad():
        torch.testing.assert_close(found.base[0], METRIC(MODEL(CLEAN)[:, -1]))
        torch.testing.assert_close(found.source[0], METRIC(MODEL(CORRUPTED)[:, -1]))
    named = run(direction="noise", senders=[(-1, -2), (0, 1)])
    assert named.axes["sender"] == ["1.2", "0.1"]
    torch.testing.assert_close(named.values[0], found.values[0, [1, 0], [2, 1]])
    assert len(named.to_dataframe()) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"senders": [(2, 0)]}, r"sender \(2, 0\) does not exist: there are layers 0 to 1"),
        ({"senders": []}, "no senders"),
        ({"receivers": [(1, 4)]}, "heads 0 to 3"),
        ({"receivers": [(1, 2)], "receiver_input": "k"}, "heads 0 to 1"),
        ({"receivers": []}, "no receivers"),
        ({"receivers": "loss"}, "receivers must be 'logits'"),
        ({"receiver_input": "z"}, "'q' or 'k' or 'v'"),
        ({"mlps": "thaw"}, "'recompute' or 'freeze'"),
        ({"direction": "up"}, "'denoise' or 'noise'"),
        ({"positions": [99]}, "outside"),
        ({"positions": []}, "empty"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_refuses_a_nan_metric_and_unequal_clips():
    with pytest.raises(ValueError, match="NaN in rows"):
        path_patch(MODEL, CLEAN, CORRUPTED, lambda logits: logits[:, 0] * torch.nan, verbose=False)
    with pytest.raises(ValueError, match="Cut or pad"):
        path_patch(MODEL, CLEAN, make_prompt(SIZES, Layout([6, 6], [[9], [9]])), METRIC)
    assert not any(point.has_hooks() for point in MODEL.hook_points())
