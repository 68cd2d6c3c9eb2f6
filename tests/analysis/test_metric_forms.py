"""A metric's form: of the last position's logits, or TransformerLens's, of [batch, pos, d_vocab]."""

import pytest
import torch
import transformer_lens.patching as tl_patching
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Layout, Sizes, hooked_model, make_prompt, with_sound_of

from lens_audio import hooks
from lens_audio.analysis import metrics
from lens_audio.analysis.circuit import CircuitTest, circuit_edges
from lens_audio.analysis.patching import sweep
from lens_audio.analysis.patching.attribution import attribute
from lens_audio.analysis.patching.paths import path_patch

A, B = 5, 7
SIZES = Sizes()
MODEL = hooked_model(SIZES)
ONE_ROW, TWO_ROWS = Layout([8], [[17]]), Layout([6, 9], [[17], [17]])


def pair(layout=ONE_ROW, seed=0):
    clean = make_prompt(SIZES, layout, seed)
    return clean, with_sound_of(clean, make_prompt(SIZES, layout, seed + 1))


def by_row(logits):
    return logits[:, A] - logits[:, B]


def by_position(logits):
    return logits[:, -1, A] - logits[:, -1, B]


def of_one_row(logits):
    return logits[0, -1, A] - logits[0, -1, B]


def mean_of_last_three(logits):
    """No sum of a position's own: the product needs the positions to be in their places."""
    return logits[:, -3, A] * logits[:, -1, B] + logits[:, -2, A]


def swept(metric, prompts, engine="fast"):
    places = {"audio": "audio", "before the last": [-2], "last": "last"}
    options = {"positions": places, "engine": engine, "verbose": False}
    return sweep(MODEL, *prompts, "resid_pre", metric, **options).values


ANALYSES = {
    "fast sweep": swept,
    "naive sweep": lambda metric, prompts: swept(metric, prompts, engine="naive"),
    "attribution": lambda metric, prompts: (
        attribute(MODEL, *prompts, metric, sites="z", steps=2)["z"].values
    ),
    "paths to the logits": lambda metric, prompts: (
        path_patch(MODEL, *prompts, metric, verbose=False).values
    ),
    "paths to a head": lambda metric, prompts: (
        path_patch(MODEL, *prompts, metric, receivers=[(1, 2)], verbose=False).values
    ),
    "circuit": lambda metric, prompts: (
        CircuitTest(MODEL, *prompts, metric).only([(0, 1), (1, 2)]).metric
    ),
    "circuit's edges": lambda metric, prompts: torch.tensor(
        circuit_edges(MODEL, *prompts, [(0, 1), (1, 2)], metric)["recovery"]
    ),
}
analyses = pytest.mark.parametrize("analysis", ANALYSES.values(), ids=ANALYSES)


@analyses
@pytest.mark.parametrize(
    ("metric", "layout"), [(by_position, TWO_ROWS), (of_one_row, ONE_ROW)], ids=["rows", "scalar"]
)
def test_a_metric_of_transformer_lens_means_the_same(analysis, metric, layout):
    prompts = pair(layout)
    torch.testing.assert_close(analysis(metric, prompts), analysis(by_row, prompts))


@analyses
def test_a_metric_of_other_positions_is_refused_unless_it_says_so(analysis):
    for metric in (lambda logits: logits[:, -3, A], lambda logits: logits[:, 0, A]):
        with pytest.raises(ValueError, match=r"on_positions\(metric, n_last\)"):
            analysis(metric, pair())


@pytest.mark.parametrize(("site", "direction"), [("resid_pre", "denoise"), ("mlp_out", "noise")])
@torch.no_grad()
def test_the_same_function_serves_transformer_lens(site, direction):
    prompts = pair()
    clean, corrupted = prompts if direction == "denoise" else prompts[::-1]
    _, cache = MODEL.run_with_cache(clean)
    several = metrics.on_positions(mean_of_last_three, 3)
    for metric, reduce in ((of_one_row, "scalar"), (several, "mean")):
        with MODEL.listening_to(corrupted):
            theirs = getattr(tl_patching, f"get_act_patch_{site}")
            expected = theirs(MODEL, corrupted.tokens, cache, metric, reduce=reduce)
        ours = sweep(MODEL, *prompts, site, metric, direction=direction, verbose=False)
        torch.testing.assert_close(ours.mean(), expected.cpu(), atol=1e-4, rtol=0)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_last=st.integers(1, 9),
    site=st.sampled_from(["resid_pre", "mlp_out", "z", "v", "pattern", "audio_encoder.resid_post"]),
    positions=st.sampled_from([{str(n): [-n] for n in (1, 2, 4, 8)}, "last", "all"]),
    batch_tokens=st.sampled_from([1, 40, None]),
    n_rows=st.integers(1, 2),
)
def test_both_engines_agree_on_several_positions(
    seed, n_last, site, positions, batch_tokens, n_rows
):
    prompts = pair(Layout([5 + seed % 5, 7][:n_rows], [[17]] * n_rows), seed)
    weights = torch.randn(n_last, SIZES.d_vocab, generator=torch.Generator().manual_seed(seed))
    metric = metrics.on_positions(lambda logits: (logits * weights).sum((1, 2)), n_last)
    if site.startswith("audio"):
        positions = "all"
    fast, naive = (
        sweep(
            MODEL, *prompts, site, {"several": metric, "one": by_row},
            positions=positions, engine=engine, batch_tokens=batch_tokens, verbose=False,
        )
        for engine in ("fast", "naive")
    )  # fmt: skip
    torch.testing.assert_close(fast.values, naive.values, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_several_positions_are_those_of_a_whole_run():
    clean, corrupted = pair(TWO_ROWS)
    metric = metrics.on_positions(mean_of_last_three, 3)
    result = sweep(MODEL, clean, corrupted, "resid_mid", metric, layers=[1], verbose=False)
    _, cache = MODEL.run_with_cache(clean)
    for position in range(clean.tokens.shape[1]):
        patch = hooks.patch("resid_mid", layer=1, positions=[position], source=cache)
        expected = mean_of_last_three(MODEL.run_with_hooks(corrupted, fwd_hooks=patch))
        torch.testing.assert_close(result.values[0, 0, position], expected, atol=1e-4, rtol=1e-4)


@analyses
def test_every_analysis_reads_several_positions(analysis):
    prompts = pair(TWO_ROWS)
    one = metrics.on_positions(lambda logits: logits[:, -1, A] + logits[:, -2, B], 2)
    whole = metrics.on_positions(lambda logits: logits[:, -1, A] + logits[:, -2, B], 9)
    torch.testing.assert_close(analysis(one, prompts), analysis(whole, prompts))
    with pytest.raises(ValueError, match="reads 40 positions"):
        analysis(metrics.on_positions(by_position, 40), prompts)


def test_a_plain_function_may_say_how_many_positions_it_reads():
    def metric(logits):
        return mean_of_last_three(logits)

    metric.logits_to_keep = 3
    expected = swept(metrics.on_positions(mean_of_last_three, 3), pair())
    torch.testing.assert_close(swept(metric, pair()), expected)


@analyses
def test_a_metric_that_fits_both_forms_with_other_values_is_refused(analysis):
    """With one row, logits[:, -1] of [example, d_vocab] broadcasts: the last token's logit."""
    weights = torch.linspace(-1, 2, SIZES.d_vocab)

    def metric(logits):
        return (logits[:, -1] * weights[None]).sum(-1)

    with pytest.raises(ValueError, match="could mean two things"):
        analysis(metric, pair())
    declared = analysis(metrics.on_positions(metric, 1), pair())
    expected = analysis(lambda logits: logits @ weights, pair())
    torch.testing.assert_close(declared, expected, atol=1e-4, rtol=1e-4)


def test_a_metric_that_fits_both_forms_with_the_same_value_is_taken():
    found = swept(lambda logits: logits.flatten(1)[:, A] - logits.flatten(1)[:, B], pair())
    torch.testing.assert_close(found, swept(by_row, pair()))


def test_a_metric_of_the_last_axis_is_not_misread():
    expected = swept(metrics.log_prob(A), pair(TWO_ROWS))
    found = swept(lambda logits: logits.log_softmax(-1)[..., A], pair(TWO_ROWS))
    torch.testing.assert_close(found, expected)
    found = swept(lambda logits: logits.log_softmax(-1)[..., -1, A], pair(TWO_ROWS))
    torch.testing.assert_close(found, expected)


def test_the_first_token_of_the_vocabulary_is_not_a_position():
    found = swept(lambda logits: logits[:, 0], pair(TWO_ROWS))
    torch.testing.assert_close(found, swept(lambda logits: logits[:, -1, 0], pair(TWO_ROWS)))


def test_a_mean_over_the_examples_is_no_metric():
    with pytest.raises(ValueError, match="one number a row"):
        swept(lambda logits: (logits[:, -1, A] - logits[:, -1, B]).mean(), pair(TWO_ROWS))


def test_the_form_is_not_guessed_anew_for_every_cell():
    """In the unpatched runs it reads as TransformerLens's; later it can only be called as that."""
    shapes = []

    def metric(logits):
        shapes.append(logits.ndim)
        return logits[:, -1, A]

    swept(metric, pair())
    first = shapes.index(3)
    assert set(shapes[first:]) == {3}


def test_recovery_of_a_metric_of_transformer_lens():
    prompts = pair()
    found = swept(metrics.normalised(of_one_row, 2.0, 1.0), prompts)
    torch.testing.assert_close(found, swept(metrics.normalised(by_row, 2.0, 1.0), prompts))
    several = metrics.on_positions(mean_of_last_three, 3)
    found = swept(metrics.normalised(several, 2.0, 1.0), prompts)
    torch.testing.assert_close(found, swept(several, prompts) - 1.0)


@pytest.mark.parametrize("n_last", [0, -1, True, 1.5])
def test_a_number_of_positions_is_a_positive_integer(n_last):
    def metric(logits):
        return by_position(logits)

    metric.logits_to_keep = n_last
    with pytest.raises(ValueError, match="logits_to_keep"):
        swept(metric, pair())


def test_the_users_own_error_comes_through():
    def metric(logits):
        raise KeyError("glass")

    with pytest.raises(KeyError, match="glass"):
        swept(metric, pair())
