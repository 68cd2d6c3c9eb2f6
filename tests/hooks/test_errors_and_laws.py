"""What hook functions refuse, and what holds for all of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, Sizes, hooked_model, make_prompt

from lens_audio import hooks

SIZES = Sizes()
MODEL = hooked_model(SIZES)
LAYOUT = Layout([7, 5], [[23], [9, 12]])
RUN, OTHER = make_prompt(SIZES, LAYOUT, 1), make_prompt(SIZES, LAYOUT, 2)
LENGTH = RUN.tokens.shape[1]
D = SIZES.d_model
with torch.no_grad():
    PLAIN, OTHER_LOGITS = MODEL(RUN), MODEL(OTHER)
    _, SOURCE = MODEL.run_with_cache(OTHER)
NAN = torch.full((D,), torch.nan)


def run(fwd_hooks):
    with torch.no_grad():
        return MODEL.run_with_hooks(RUN, fwd_hooks=fwd_hooks)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hooks.patch("resid_prf", source=SOURCE), "there are resid_pre"),
        (lambda: hooks.ablate("encoder.z"), "no site is called 'encoder.z'"),
        (lambda: hooks.ablate("z", layers=[]), "an empty selection of layers"),
        (lambda: hooks.ablate("z", layer=0, layers=[1]), "not both"),
        (lambda: hooks.ablate("z", layers=[0.5]), "layers must be integers"),
        (lambda: hooks.ablate("z", layers=[(0, 1)]), "layers must be"),
        (lambda: hooks.ablate("embed", layer=0), "takes no layer"),
        (lambda: hooks.ablate("blocks.0.hook_mlp_out", layer=0), "takes no layer"),
        (lambda: hooks.ablate("z", heads=[]), "an empty selection of heads"),
        (lambda: hooks.ablate("z", layers=[1], heads=[(0, 1)]), "bring their layers"),
        (lambda: hooks.ablate("z", heads=[(0, 1), 2]), "heads must be"),
        (lambda: hooks.ablate("z", heads=[(0, 1, 2)]), "pairs"),
        (lambda: hooks.ablate("z", heads="all"), "heads must be integers"),
        (lambda: hooks.ablate("z", positions="speech"), "there are all, last, audio"),
        (lambda: hooks.ablate("z", positions=[]), "an empty selection of positions"),
        (lambda: hooks.ablate("z", positions=torch.zeros(4).bool()), "an empty selection"),
        (lambda: hooks.ablate("z", positions=[0.5]), "positions must be integers"),
        (lambda: hooks.ablate("z", positions=[[1, 2]]), "the same for all rows"),
        (lambda: hooks.ablate("audio_encoder.z", positions="audio"), "before the decoder"),
        (lambda: hooks.capture({}, "audio_embed", positions="last"), "before the decoder"),
        (lambda: hooks.ablate("z", how="median"), "how must be"),
        (lambda: hooks.ablate("z", how="resample"), "needs source="),
        (lambda: hooks.steer(NAN), "NaN"),
        (lambda: hooks.steer(torch.ones(D), coefficient=float("nan")), "finite"),
        (lambda: hooks.steer(torch.ones(2, 3, D)), "shape"),
        (lambda: hooks.project_out(NAN), "NaN"),
        (lambda: hooks.project_out(torch.zeros(D)), "all zero"),
    ],
)
def test_refuses_when_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("fwd_hooks", "message"),
    [
        (hooks.ablate("z", layer=7), "Layers run from 0 to 1"),
        (hooks.ablate("blocks.0.hook_resid_prf"), "blocks.0.hook_resid_pre"),
        (hooks.ablate("result", layer=0), "set_use_attn_result"),
        (hooks.ablate("result"), "set_use_attn_result"),
        (
            hooks.ablate("z", heads=4),
            "head 4 does not exist: .*heads 0 to 3",
        ),
        (hooks.ablate("mlp_out", heads=0), "has no heads"),
        (hooks.ablate("z", positions=LENGTH), f"sequence of {LENGTH} positions"),
        (hooks.ablate("z", positions=-LENGTH - 1), f"sequence of {LENGTH} positions"),
        (hooks.ablate("z", positions=slice(3, 3)), "selects none"),
        (hooks.ablate("z", positions=torch.ones(LENGTH - 1).bool()), f"mask of {LENGTH - 1}"),
        (hooks.ablate("z", positions=torch.ones(3, LENGTH).bool()), "3 rows in a batch of 2"),
        (hooks.knock_out_attention(keys=torch.ones(3, LENGTH).bool()), "3 rows in a batch of 2"),
        (hooks.knock_out_attention(keys=[LENGTH]), "outside"),
        (hooks.steer(torch.ones(D + 1)), f"width {D + 1}.*width is {D}"),
        (hooks.steer(torch.ones(1)), "width 1"),
        (hooks.steer(torch.ones(3, D)), "3 rows"),
        (hooks.steer(torch.ones(D), coefficient=torch.ones(3)), "3 rows"),
        (hooks.project_out(torch.ones(D + 1)), "width"),
        (hooks.patch("z", source={}), "the source has no 'blocks.0.attn.hook_z'"),
        (hooks.patch("z", layer=0, source=torch.ones(2, LENGTH, 4, 9)), "source has shape"),
        (hooks.patch("z", layer=0, source=torch.ones(3, LENGTH, 4, 8)), "source has shape"),
        (hooks.patch("z", layer=0, source=torch.ones(2, LENGTH + 1, 4, 8)), "same length"),
        (hooks.patch("z", layer=0, source=torch.ones(2, LENGTH - 1, 4, 8)), "same length"),
        (hooks.patch("audio_embed", source=torch.ones(3, 4, D)), "same length"),
        (hooks.ablate("z", how="mean", source=torch.ones(5, 3, 4, 9)), "source has shape"),
    ],
)
def test_refuses_when_run_and_leaves_no_hook(fwd_hooks, message):
    with pytest.raises(ValueError, match=message):
        run(fwd_hooks)
    assert not any(point.has_hooks() for point in MODEL.hook_points())
    with torch.no_grad():
        assert torch.equal(MODEL(RUN), PLAIN)


def test_a_selection_of_audio_needs_audio():
    for prompt in (make_prompt(SIZES, Layout([7], [[]])), torch.tensor([[5, 6, 7]])):
        with pytest.raises(ValueError, match="no audio tokens"):
            MODEL.run_with_hooks(prompt, fwd_hooks=hooks.knock_out_attention(keys="audio"))
        zeros = hooks.ablate("resid_post", layer=-1, positions="text")
        assert not MODEL.run_with_hooks(prompt, fwd_hooks=zeros).any()


INTERVENTIONS = {
    "patch": hooks.patch("resid_pre", layer=1, source=SOURCE, positions="audio"),
    "patch heads": hooks.patch("z", heads=[(0, 1), (1, 3)], source=SOURCE),
    "mean": hooks.ablate("mlp_out", how="mean", source=SOURCE, layer=1),
    "resample": hooks.ablate("attn_out", how="resample", source=SOURCE, positions="last"),
    "steer": hooks.steer(torch.linspace(-1, 1, D), layer=1, positions="all"),
    "project out": hooks.project_out(torch.linspace(-1, 1, D), layer=0),
    "knock out": hooks.knock_out_attention(keys="audio", heads=[0]),
    "scale": hooks.scale_attention(keys=RUN.audio_mask, factor=3.0),
}
several = st.lists(st.sampled_from(sorted(INTERVENTIONS)), min_size=2, max_size=4)


def together(names):
    return [hook for name in names for hook in INTERVENTIONS[name]]


@settings(deadline=None, max_examples=20)
@given(names=several)
def test_adding_is_nesting(names):
    with torch.no_grad():
        added = MODEL.run_with_hooks(RUN, fwd_hooks=together(names))
        contexts = [MODEL.hooks(INTERVENTIONS[name]) for name in names]
        for context in contexts:
            context.__enter__()
        nested = MODEL(RUN)
        for context in reversed(contexts):
            context.__exit__(None, None, None)
    assert torch.equal(added, nested)
    assert not any(point.has_hooks() for point in MODEL.hook_points())


@settings(deadline=None, max_examples=20)
@given(names=several)
def test_nothing_given_is_modified(names):
    """Neither the source nor the activations that come in: cached before the edits, they stay."""
    kept = {name: value.clone() for name, value in SOURCE.items()}
    seen = []

    def keep(activation, hook):
        seen.append((activation, activation.clone()))

    sites = ("resid_pre", "z", "mlp_out", "attn_out", "attn_scores", "resid_post")
    watch = [(name, keep) for site in sites for name in hooks.hook_names(site)]
    run(watch + together(names))
    assert all(torch.equal(before, after) for before, after in seen)
    assert all(torch.equal(SOURCE[name], value) for name, value in kept.items())


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10**6),
    site=st.sampled_from(["resid_post", "resid_pre", "resid_mid"]),
)
def test_patching_everything_gives_the_other_run(seed, site):
    sizes = Sizes.random(seed)
    layout = Layout.random(seed, max_frames=2 * sizes.n_frames)
    model = hooked_model(sizes, seed)
    prompt, other = (make_prompt(sizes, layout, seed + i) for i in (0, 1))
    with torch.no_grad():
        expected, source = model.run_with_cache(other)
        for layer in (0, -1):
            patched = hooks.patch(site, layer=layer, source=source)
            found = model.run_with_hooks(prompt, fwd_hooks=patched)
            real = prompt.attention_mask
            torch.testing.assert_close(found[real], expected[real], atol=1e-4, rtol=1e-4)


def test_patching_a_run_with_itself_changes_nothing():
    with torch.no_grad():
        _, own = MODEL.run_with_cache(RUN)
    for site in ("z", "q", "pattern", "mlp_post", "audio_encoder.resid_mid", "audio_embed"):
        torch.testing.assert_close(run(hooks.patch(site, source=own)), PLAIN, atol=1e-5, rtol=0)


def test_bfloat16_takes_float32_sources_and_directions():
    model = hooked_model(SIZES).to(torch.bfloat16)
    edits = (
        hooks.patch("z", source=SOURCE, layer=0)
        + hooks.steer(torch.ones(D), layer=0)
        + hooks.project_out(torch.ones(D), layer=1)
        + hooks.scale_attention(keys="audio", factor=2.0)
        + hooks.ablate("mlp_out", how="mean", source=SOURCE, layer=1)
    )
    with torch.no_grad():
        logits = model.run_with_hooks(RUN, fwd_hooks=edits)
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()
