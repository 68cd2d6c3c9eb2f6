"""Every edge of a model, against exact patching, autograd, and hooks on a transformers model."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from models import Layout, Sizes, hf_inputs, hf_model, make_prompt
from torch import Tensor

from lens_audio import HookedAudioTransformer
from lens_audio.analysis import circuits
from lens_audio.analysis.circuits.edges import edges_steps
from lens_audio.analysis.circuits.exact import exact
from lens_audio.analysis.circuits.runs import GROUPS, PairRuns, plain
from lens_audio.analysis.metrics import logit_diff, on_positions
from lens_audio.data import Pair

GROUPED = Sizes(n_layers=3)  # 4 heads over 2 key-value heads
EACH_ITS_OWN = Sizes(n_layers=1, kv_heads=4)
METRIC = logit_diff([7, 9], [20, 21])


@cache
def hf(sizes: Sizes):
    return hf_model(sizes, dtype=torch.float64)


MODELS = {sizes: HookedAudioTransformer.from_hf(hf(sizes)) for sizes in (GROUPED, EACH_ITS_OWN)}


def model(sizes: Sizes = GROUPED) -> HookedAudioTransformer:
    return MODELS[sizes]


def in_float64(prompt):
    return replace(prompt, mel=prompt.mel.double())


def make_pair(*layouts: Layout) -> Pair:
    """Other words and another sound, on either side of its layout."""
    return Pair(*(in_float64(make_prompt(GROUPED, one, seed)) for seed, one in enumerate(layouts)))


PADDED = make_pair(*[Layout([6, 8], [[23], [19]])] * 2)
EVEN = make_pair(*[Layout([6, 6], [[23], [23]])] * 2)


def scores(method: str = "eap", sizes: Sizes = GROUPED, **options) -> circuits.Graph:
    options = {"pairs": PADDED, "metric": METRIC, "by_example": True} | options
    return circuits.edges(model(sizes), method=method, **options)


def metrics_of(sizes: Sizes = GROUPED, both: Pair = PADDED) -> tuple[Tensor, Tensor]:
    """Of the clean and of the corrupted run."""
    with torch.no_grad():
        return tuple(METRIC(model(sizes)(p)[:, -1]) for p in (both.clean, both.corrupted))


def derivative(sizes: Sizes = GROUPED, metric=METRIC, groups=()) -> Tensor:
    """Of exact patching with a part of the difference, by central difference."""
    nodes = replace(circuits.Nodes.of(model(sizes).cfg), groups=groups)
    with plain(model(sizes)):
        runs = PairRuns.of(model(sizes), PADDED, metric, nodes)
        wanted = nodes.split(nodes.is_edge)
        ahead, behind = (nodes.joined(exact(runs, wanted, amount=a)) for a in (1e-4, -1e-4))
    return (ahead - behind) / 2e-4


def close_to_largest(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).abs().max()) < 1e-6 * float(expected.abs().max())


@pytest.mark.parametrize("sizes", [GROUPED, EACH_ITS_OWN], ids=["grouped", "each its own"])
def test_attribution_is_the_derivative_of_exact_patching(sizes):
    close_to_largest(scores(sizes=sizes).by_example, derivative(sizes))


def test_attribution_by_group_of_positions_is_the_derivative_of_exact_patching_there():
    close_to_largest(scores(by_group=True).by_example, derivative(groups=GROUPS))


@pytest.mark.parametrize("method", ["eap", "eap-ig-inputs", "eap-ig-activations"])
def test_groups_of_positions_add_up_to_the_whole_nodes(method):
    whole, split = scores(method, steps=1), scores(method, steps=1, by_group=True)
    summed = split.nodes.split(split.by_example).sum(-1)
    torch.testing.assert_close(summed, whole.by_example, atol=1e-12, rtol=1e-9)


def difference_of(name: str, both: Pair = EVEN) -> Tensor:
    """What a hook point holds in the corrupted run less the clean one, by plain hooks."""
    with torch.no_grad():
        clean, corrupted = (
            model().run_with_cache(p, names_filter=name)[1][name]
            for p in (both.clean, both.corrupted)
        )
    return corrupted - clean


def effect_on_transformers(register, hook) -> Tensor:
    """By how much a hook on a module of the transformers model changes the metric."""
    inputs = hf_inputs(EVEN.clean)
    with torch.no_grad():
        clean = METRIC(hf(GROUPED)(**inputs).logits[:, -1])
        handle = register(hook)
        try:
            return METRIC(hf(GROUPED)(**inputs).logits[:, -1]) - clean
        finally:
            handle.remove()


def same_as_in_transformers(found: Tensor, expected: Tensor) -> None:
    """But for its norms, which compute in float32."""
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def exact_effect(sender: str, receiver: str, letter: str = "resid") -> Tensor:
    found = scores("exact", senders=[sender], pairs=EVEN)
    row, column = found.senders.index(sender), found.receivers.index((receiver, letter))
    return found.by_example[:, row, column]


@pytest.mark.parametrize("letter", ["q", "k", "v"])
def test_an_exact_edge_into_a_head_is_that_of_hooks_on_transformers(letter):
    layers, d_head = hf(GROUPED).model.language_model.layers, GROUPED.d_head
    sender, receiver = slice(3 * d_head, 4 * d_head), slice(d_head, 2 * d_head)  # heads 3 and 1
    z = difference_of("blocks.0.attn.hook_z")[:, :, 3]
    moved = z @ layers[0].self_attn.o_proj.weight[:, sender].T
    resid = residual_before(layer=2)
    linear = getattr(layers[2].self_attn, f"{letter}_proj")

    def patch(_, inputs, out):
        normed = layers[2].input_layernorm(resid + moved)
        out[..., receiver] = F.linear(normed, linear.weight, linear.bias)[..., receiver]

    expected = effect_on_transformers(linear.register_forward_hook, patch)
    node = "L2H1" if letter == "q" else "L2KV1"
    same_as_in_transformers(exact_effect("L0H3", node, letter), expected)


def residual_before(layer: int) -> Tensor:
    """The transformers model's own, of the clean prompt."""
    with torch.no_grad():
        inputs = hf_inputs(EVEN.clean)
        return hf(GROUPED)(**inputs, output_hidden_states=True).hidden_states[layer]


def test_an_exact_edge_into_an_mlp_is_that_of_hooks_on_transformers():
    norm = hf(GROUPED).model.language_model.layers[1].post_attention_layernorm
    moved = difference_of("blocks.0.hook_mlp_out")
    register = norm.register_forward_pre_hook
    expected = effect_on_transformers(register, lambda _, args: (args[0] + moved,))
    same_as_in_transformers(exact_effect("MLP0", "MLP1"), expected)


def test_an_exact_edge_into_the_logits_is_that_of_hooks_on_transformers():
    moved = difference_of("hook_embed")
    register = hf(GROUPED).model.language_model.norm.register_forward_pre_hook
    expected = effect_on_transformers(register, lambda _, args: (args[0] + moved,))
    same_as_in_transformers(exact_effect("embed", "logits"), expected)


def test_a_senders_edges_add_up_to_its_node_attribution():
    both, found = PADDED, scores()
    held = {}

    def keep(activation, hook):
        held[hook.name] = activation

    names = [
        f"blocks.{layer}.{site}" for layer in range(3) for site in ("attn.hook_z", "hook_mlp_out")
    ]
    names.append("hook_embed")
    with model().hooks(fwd_hooks=[(name, keep) for name in names]):
        value = METRIC(model()(both.clean)[:, -1]).sum()
    gradients = dict(zip(names, torch.autograd.grad(value, [held[n] for n in names]), strict=True))
    real = both.clean.attention_mask
    expected = []
    for name in ("hook_embed", *names[:-1]):
        effect = difference_of(name, PADDED) * gradients[name]
        effect = (effect * real.view(*real.shape, *[1] * (effect.ndim - 2))).sum((1, -1))
        expected.append(effect.reshape(len(real), -1))
    torch.testing.assert_close(found.by_example.sum(2), torch.cat(expected, dim=1))


def test_integrated_over_inputs_the_edges_of_embed_add_up_to_the_difference_of_the_metric():
    sizes = EACH_ITS_OWN
    found = scores("eap-ig-inputs", sizes, steps=200, senders="embed").by_example.sum((1, 2))
    clean, corrupted = metrics_of(sizes)
    torch.testing.assert_close(found, corrupted - clean, atol=1e-4, rtol=1e-4)


def test_integrated_over_activations_a_layers_edges_add_up_to_corrupting_them():
    found = scores("eap-ig-activations", steps=50, senders=[f"L1H{head}" for head in range(4)])
    with torch.no_grad():
        name = "blocks.1.attn.hook_z"
        source = model().run_with_cache(PADDED.corrupted, names_filter=name)[1][name]
        patched = model().run_with_hooks(PADDED.clean, fwd_hooks=[(name, lambda z, hook: source)])
    expected = METRIC(patched[:, -1]) - metrics_of()[0]
    torch.testing.assert_close(found.by_example.sum((1, 2)), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", circuits.METHODS)
def test_a_padded_row_equals_the_row_alone(method):
    together = scores(method, steps=2).by_example
    for row in range(2):
        alone = [row_of(prompt, row) for prompt in (PADDED.clean, PADDED.corrupted)]
        metric = logit_diff([[7, 9][row]], [[20, 21][row]])
        found = scores(method, steps=2, pairs=Pair(*alone), metric=metric).by_example[0]
        torch.testing.assert_close(found, together[row], atol=1e-9, rtol=1e-6)


def row_of(prompt, row):
    real = prompt.attention_mask[row]
    cut = type(prompt).from_tensors(
        prompt.tokens[row : row + 1, real],
        prompt.mel[row : row + 1],
        prompt.mel_lengths[row : row + 1],
        audio_mask=prompt.audio_mask[row : row + 1, real],
    )
    return cut


def test_pairs_one_after_another_are_as_a_batch_of_them():
    batch = scores()
    rows = [
        (Pair(row_of(PADDED.clean, i), row_of(PADDED.corrupted, i)), logit_diff([a], [b]))
        for i, (a, b) in enumerate([(7, 20), (9, 21)])
    ]
    streamed = scores(pairs=(one for one in rows), metric=None)
    torch.testing.assert_close(streamed.scores, batch.scores, atol=1e-9, rtol=1e-6)
    assert streamed.about["n_examples"] == 2


@pytest.mark.parametrize(
    "flag",
    [
        "use_split_qkv_input",
        "use_attn_result",
        "ungroup_grouped_query_attention",
        "use_hook_mlp_in",
    ],
)
@pytest.mark.parametrize("method", ["eap", "exact"])
def test_flags_of_the_model_change_nothing_and_stay(flag, method):
    expected = scores(method).scores
    own = HookedAudioTransformer.from_hf(hf(GROUPED))
    getattr(own, f"set_{flag}")(True)
    found = circuits.edges(own, PADDED, METRIC, method).scores
    torch.testing.assert_close(found, expected)
    assert getattr(own.cfg, flag)


def test_a_metric_of_several_positions_reaches_the_logits_of_all_of_them():
    metric = on_positions(lambda logits: logits[:, 0, 7] + logits[:, 2, 8], 3)
    close_to_largest(scores(metric=metric).by_example, derivative(metric=metric))


def test_small_batches_of_exact_edges_give_the_same():
    torch.testing.assert_close(
        scores("exact", batch_tokens=1, senders="MLP0").scores[5],
        scores("exact").scores[5],
    )


def test_some_senders_have_the_scores_that_they_have_among_all():
    some, every = scores(senders=["embed", "MLP1"]), scores()
    rows = [some.senders.index(name) for name in ("embed", "MLP1")]
    assert torch.equal(some.scores[rows], every.scores[rows])
    assert some.kept.sum() == every.kept[rows].sum()
    assert set(some.to_dataframe()["sender"]) == {"embed", "MLP1"}


def test_some_receivers_have_the_scores_that_they_have_among_all():
    some, every = scores("exact", receivers=["L1KV0", "logits"]), scores("exact")
    columns = some.kept.any(0).nonzero().flatten()
    assert [str(some.receivers[i]) for i in columns] == ["L1KV0 k", "L1KV0 v", "logits"]
    assert torch.equal(some.scores[:, columns], every.scores[:, columns])


def test_nothing_is_left_on_the_model():
    scores()
    model().check_no_hooks()
    assert all(weight.grad is None for weight in model().parameters())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pairs": make_pair(Layout([6]), Layout([7]))}, "positions do not correspond"),
        ({"method": "acdc"}, "no method 'acdc'; there are eap"),
        ({"method": "eap-ig-inputs", "steps": 0}, "steps=0"),
        ({"metric": None}, "no metric was given"),
        ({"pairs": []}, "no pairs were given"),
        ({"pairs": [3]}, "pairs are la.data.pair"),
        ({"senders": ["L9H9"]}, r"no sender \['L9H9'\]"),
        ({"receivers": "L0H0 q"}, r"no receiver \['L0H0 q'\]"),
        ({"metric": lambda logits: logits[:, 0].detach()}, "has no gradient"),
        ({"metric": lambda logits: logits[:, 0] * torch.nan}, "is NaN"),
    ],
)
def test_what_cannot_be_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        scores(**change)


def test_a_model_with_hooks_is_refused():
    with (
        model().hooks(fwd_hooks=[("hook_embed", lambda x, hook: x)]),
        pytest.raises(ValueError, match="hooks are set"),
    ):
        scores()


def test_inference_mode_is_refused_where_gradients_are_needed():
    with torch.inference_mode(), pytest.raises(ValueError, match="needs gradients"):
        scores()


@pytest.mark.parametrize(
    ("method", "n"), [("eap", 1), ("eap-ig-inputs", 3), ("eap-ig-activations", 7 * 3)]
)
def test_edges_are_found_a_run_at_a_time(method, n):
    *steps, (done, total, graph) = edges_steps(model(), PADDED, METRIC, method, steps=3)
    assert steps == [(i, n, None) for i in range(1, n + 1)]
    assert (done, total) == (n, n)
    torch.testing.assert_close(graph.scores, scores(method, steps=3).scores, rtol=0, atol=0)


def test_between_runs_the_model_is_as_its_user_left_it():
    steps = edges_steps(model(), PADDED, METRIC, "eap-ig-inputs")
    next(steps)
    assert not model().cfg.use_hook_mlp_in
    with (
        model().hooks(fwd_hooks=[("hook_embed", lambda value, hook: None)]),
        pytest.raises(ValueError, match="hook"),
    ):
        next(steps)
