"""TransformerLens's own tools run unchanged: ActivationCache, SVDInterpreter, head_detector."""

import pytest
import torch
from models import Layout, Sizes, hooked_model, make_prompt
from transformer_lens import FactoredMatrix, SVDInterpreter
from transformer_lens.head_detector import detect_head

SIZES = Sizes(n_layers=3)
MODEL = hooked_model(SIZES)
PROMPT = make_prompt(SIZES, Layout([7, 5], [[23], [9, 12]], "left"))
REAL = PROMPT.attention_mask


@pytest.fixture(scope="module")
def run():
    with torch.no_grad():
        return MODEL.run_with_cache(PROMPT)


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=0)


def test_accumulated_resid_is_the_residual_stream_by_layer(run):
    _, cache = run
    stack = cache.accumulated_resid(incl_mid=True)
    assert stack.shape[0] == 2 * SIZES.n_layers + 1
    close(stack[0], cache["resid_pre", 0])
    close(stack[3], cache["resid_mid", 1])
    close(stack[-1], cache["resid_post", 2])


def test_accumulated_resid_with_ln_unembeds_to_the_logits(run):
    logits, cache = run
    last = cache.accumulated_resid(apply_ln=True)[-1]
    close((last @ MODEL.W_U)[REAL], logits[REAL])


def test_decomposed_resid_sums_to_the_residual_stream(run):
    """With audio too: the embedding is what enters the stream, sound written in."""
    _, cache = run
    close(cache.decompose_resid().sum(0), cache["resid_post", 2])


def test_decomposed_resid_up_to_a_layer_sums_to_its_input(run):
    _, cache = run
    close(cache.decompose_resid(layer=1).sum(0), cache["resid_pre", 1])


def test_head_results_sum_to_what_attention_writes(run):
    _, cache = run
    stack = cache.stack_head_results()
    close(stack[: SIZES.n_heads].sum(0), cache["attn_out", 0])
    assert stack.shape[0] == SIZES.n_layers * SIZES.n_heads


def test_head_results_computed_are_those_of_the_hook():
    model = hooked_model(SIZES)
    with torch.no_grad():
        _, plain = model.run_with_cache(PROMPT)
        model.set_use_attn_result(True)
        _, hooked = model.run_with_cache(PROMPT)
    plain.compute_head_results()
    close(plain["blocks.1.attn.hook_result"], hooked["blocks.1.attn.hook_result"])


def test_logit_attributions_sum_to_the_logit_difference(run):
    logits, cache = run
    right, wrong = torch.tensor([11, 12]), torch.tensor([21, 22])
    stack = cache.decompose_resid(pos_slice=-1)
    attrs = cache.logit_attrs(stack, tokens=right, incorrect_tokens=wrong, pos_slice=-1)
    rows = torch.arange(2)
    close(attrs.sum(0), logits[rows, -1, right] - logits[rows, -1, wrong])


def test_ln_applied_to_a_decomposition_sums_to_the_normalised_residual(run):
    """Before the norm's weight, as `apply_ln_to_stack` leaves it out."""
    _, cache = run
    parts = cache.apply_ln_to_stack(cache.decompose_resid())
    close(parts.sum(0)[REAL], cache["ln_final.hook_normalized"][REAL])


def test_full_decomposition_with_neurons_sums_to_the_residual(run):
    _, cache = run
    parts = cache.get_full_resid_decomposition(expand_neurons=True, pos_slice=-1)
    close(parts.sum(0), cache["resid_post", 2][:, -1])


def test_neuron_results_sum_to_what_the_mlp_writes(run):
    _, cache = run
    close(cache.get_neuron_results(1).sum(-2), cache["mlp_out", 1])


def test_logit_lens_of_the_last_layer_is_the_logits(run):
    logits, cache = run
    close(cache.logit_lens(return_type="logits").values[-1], logits[:, -1])


def test_cache_loses_its_batch_dimension(run):
    prompt = make_prompt(SIZES, Layout([7], [[23]]))
    with torch.no_grad():
        _, cache = MODEL.run_with_cache(prompt, remove_batch_dim=True)
    close(cache.decompose_resid().sum(0), cache["resid_post", 2])


@pytest.mark.parametrize("site", ["hook_audio_embed", "audio_encoder.hook_out"])
def test_cache_moves_and_lists_the_audio_front_end(run, site):
    assert site in run[1].to("cpu")


def test_ov_of_a_head_is_its_effect_on_a_value(run):
    """A value mixed by attention and written out: x W_V W_O."""
    x = torch.randn(SIZES.d_model)
    attn = MODEL.blocks[1].attn
    head, group = 3, 3 // (SIZES.n_heads // SIZES.kv_heads)
    d = SIZES.d_head
    v = attn.v_proj.weight[group * d : (group + 1) * d] @ x
    expected = attn.o_proj.weight[:, head * d : (head + 1) * d] @ v
    close(x @ MODEL.OV[1, head].AB, expected)


def test_qk_of_a_head_gives_its_unrotated_score():
    x, y = torch.randn(2, SIZES.d_model)
    attn = MODEL.blocks[1].attn
    head, group = 3, 3 // (SIZES.n_heads // SIZES.kv_heads)
    d = SIZES.d_head
    q = attn.q_proj.weight[head * d : (head + 1) * d] @ x
    k = attn.k_proj.weight[group * d : (group + 1) * d] @ y
    close(x @ MODEL.QK[1, head].AB @ y, q @ k)


def test_factored_products_of_w_o_and_w_u():
    product = FactoredMatrix(MODEL.W_O[0], MODEL.W_U)
    close(product.AB, MODEL.W_O[0] @ MODEL.W_U)
    assert product.AB.shape == (SIZES.n_heads, SIZES.d_head, SIZES.d_vocab)


def test_stacked_weights_have_the_shapes_of_hooked_transformer():
    l, h, d, m, f = SIZES.n_layers, SIZES.n_heads, SIZES.d_model, SIZES.d_head, SIZES.d_mlp
    shapes = {
        "W_Q": (l, h, d, m), "W_K": (l, h, d, m), "W_V": (l, h, d, m), "W_O": (l, h, m, d),
        "b_Q": (l, h, m), "b_K": (l, h, m), "b_V": (l, h, m), "b_O": (l, d),
        "W_in": (l, d, f), "W_gate": (l, d, f), "W_out": (l, f, d), "b_in": (l, f), "b_out": (l, d),
        "W_E": (SIZES.d_vocab, d), "W_U": (d, SIZES.d_vocab), "b_U": (SIZES.d_vocab,),
    }  # fmt: skip
    assert {name: tuple(getattr(MODEL, name).shape) for name in shapes} == shapes


def test_q_is_the_normalised_input_times_w_q(run):
    _, cache = run
    x = cache["normalized", 1, "ln1"] * MODEL.blocks[1].ln1.w
    q = torch.einsum("bpm,hmd->bphd", x, MODEL.W_Q[1]) + MODEL.b_Q[1]
    close(q, cache["q", 1])


def test_mlp_post_is_the_gated_product_of_the_weights(run):
    _, cache = run
    x = cache["normalized", 1, "ln2"] * MODEL.blocks[1].ln2.w
    post = torch.nn.functional.silu(x @ MODEL.W_gate[1]) * (x @ MODEL.W_in[1])
    close(post, cache["post", 1])


@pytest.mark.parametrize(("kind", "head"), [("OV", 2), ("w_in", None), ("w_out", None)])
def test_svd_interpreter_gives_the_leading_directions(kind, head):
    found = SVDInterpreter(MODEL).get_singular_vectors(
        kind, layer_index=1, num_vectors=3, head_index=head
    )
    matrix = {
        "OV": lambda: MODEL.W_V[1, 2] @ MODEL.W_O[1, 2],
        "w_in": lambda: MODEL.W_in[1].T * MODEL.blocks[1].ln2.w,
        "w_out": lambda: MODEL.W_out[1],
    }[kind]()
    _, _, directions = torch.linalg.svd(matrix)
    expected = (MODEL.W_U.T @ directions[:3].T)[:, None]
    close(found.abs(), expected.abs())


class Words:
    """A tokenizer of one number a word."""

    bos_token = None
    padding_side = "right"

    def __call__(self, texts, **_):
        ids = torch.tensor([[int(word) for word in text.split()] for text in texts])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("kind", ["previous_token_head", "induction_head", "duplicate_token_head"])
@torch.no_grad()
def test_head_detector_scores_the_pattern(kind):
    model = hooked_model(SIZES)
    model._tokenizer = Words()
    text = "5 9 11 30 5 9 11 30 8"
    scores = detect_head(model, text, kind)
    tokens = [int(word) for word in text.split()]
    _, cache = model.run_with_cache(torch.tensor([tokens]))
    pattern = cache["pattern", 1][0, 2]
    n = len(tokens)
    repeats = [(q, k) for q in range(n) for k in range(q) if tokens[k] == tokens[q]]
    hits = {
        "previous_token_head": [(q, q - 1) for q in range(1, n)],
        "duplicate_token_head": repeats,
        "induction_head": [(q, k + 1) for q, k in repeats],
    }[kind]
    assert scores[1, 2] == pytest.approx(sum(float(pattern[hit]) for hit in hits) / n, abs=1e-4)
    assert scores.shape == (SIZES.n_layers, SIZES.n_heads)


def test_composition_scores_are_zero_between_a_head_and_no_later_one():
    scores = MODEL.all_composition_scores("V")
    layers = torch.arange(SIZES.n_layers)
    not_later = layers[:, None] >= layers
    assert (scores.transpose(1, 2)[not_later] == 0).all()
    assert (scores.transpose(1, 2)[~not_later] != 0).all()


def test_v_composition_score_is_the_norm_of_the_product():
    scores = MODEL.all_composition_scores("V")
    first, second = MODEL.OV[0, 1].AB, MODEL.OV[2, 3].AB
    expected = (first @ second).norm() / (first.norm() * second.norm())
    close(scores[0, 1, 2, 3], expected)


def test_accumulated_bias_is_the_stream_of_zero_inputs():
    assert torch.equal(MODEL.accumulated_bias(SIZES.n_layers), torch.zeros(SIZES.d_model))


def test_residual_direction_of_a_token_reads_off_its_logit(run):
    logits, cache = run
    direction = MODEL.tokens_to_residual_directions(17)
    close(cache["ln_final.hook_normalized"] @ direction, logits[..., 17])


def test_residual_directions_keep_the_shape_of_the_tokens():
    tokens = torch.tensor([[5, 6, 7], [8, 9, 10]])
    assert MODEL.tokens_to_residual_directions(tokens).shape == (2, 3, SIZES.d_model)
