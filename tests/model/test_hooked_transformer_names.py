"""What people call on a HookedTransformer is here, with its meaning."""

import numpy as np
import pytest
import torch
import transformer_lens
from models import Layout, Sizes, hooked_model, make_prompt
from transformer_lens import evals
from transformer_lens.tools.analysis.attribution_patching import (
    EdgeAttributionConfig,
    attribution_patch,
)
from transformer_lens.utilities import test_prompt as print_ranks

import lens_audio as la

SIZES = Sizes()
MODEL = hooked_model(SIZES)
PROMPT = make_prompt(SIZES, Layout([7, 5], [[23], [9, 12]], "left"))
TOKENS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.fixture(scope="module")
def listen():
    return la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())


def test_a_bos_is_prepended_when_asked_for(listen):
    bos, plain = listen.tokenizer.eos_token_id, listen.to_tokens("What do you hear?")
    with_bos = listen.to_tokens("What do you hear?", prepend_bos=True)
    assert with_bos.tolist() == [[bos, *plain[0].tolist()]]
    assert listen.tokenizer.bos_token_id == bos


def test_the_first_cell_of_the_exploratory_demo_runs(listen, capsys):
    print_ranks("What do you", "hear", listen, prepend_bos=True, prepend_space_to_answer=False)
    assert "Performance on answer token" in capsys.readouterr().out


def test_ioi_eval_runs(listen):
    data = evals.IOIDataset(listen.tokenizer, num_samples=4)
    found = evals.ioi_eval(listen, dataset=data)
    assert np.isfinite(float(found["Logit Difference"]))


def test_bos_by_default(listen):
    listen.cfg.default_prepend_bos = True
    try:
        text = listen.generate("hear", max_new_tokens=1, return_type="tokens", verbose=False)
        assert text[0, 0] == listen.tokenizer.bos_token_id
        alone = listen.generate(
            "hear", max_new_tokens=1, return_type="tokens", prepend_bos=False, verbose=False
        )
        assert alone.shape[1] == text.shape[1] - 1
    finally:
        listen.cfg.default_prepend_bos = False


@pytest.mark.parametrize("given", [PROMPT, TOKENS], ids=["prompt", "tokens"])
def test_what_input_to_embed_gives_can_be_continued(given):
    with torch.no_grad():
        resid, tokens, nothing, mask = MODEL.input_to_embed(given)
        continued = MODEL(resid, start_at_layer=0, attention_mask=mask)
        torch.testing.assert_close(continued, MODEL(given))
    assert nothing is None
    assert torch.equal(tokens, getattr(given, "tokens", given))


def test_get_residual_is_the_embedding():
    embed = MODEL.embed(TOKENS)
    resid, nothing = MODEL.get_residual(embed)
    assert torch.equal(resid, embed)
    assert nothing is None
    assert torch.equal(MODEL.get_residual(embed, return_shortformer_pos_embed=False), embed)


def test_a_datapoint_is_a_text_of_the_models_data_set(listen):
    with pytest.raises(ValueError, match=r"model\.dataset"):
        listen.sample_datapoint()
    listen.dataset = [{"text": "What do you hear?"}]
    assert listen.sample_datapoint() == "What do you hear?"
    assert torch.equal(
        listen.sample_datapoint(tokenize=True), listen.to_tokens("What do you hear?")
    )


def test_parameters_are_counted_as_in_transformer_lens():
    cfg = MODEL.cfg
    stacks = (MODEL.W_Q, MODEL.W_K, MODEL.W_V, MODEL.W_O, MODEL.W_in, MODEL.W_out, MODEL.W_gate)
    assert cfg.n_params == sum(stack.numel() for stack in stacks)
    assert MODEL.n_params_total == sum(p.numel() for p in MODEL.parameters())
    assert cfg.attn_scale == cfg.d_head**0.5


def test_a_model_without_a_tokenizer_has_none():
    assert MODEL.tokenizer is None
    assert hasattr(MODEL, "tokenizer")
    with pytest.raises(ValueError, match="no tokenizer"):
        MODEL.to_tokens("text")


def test_a_filter_that_selects_nothing_is_told_by_add_hook():
    with pytest.raises(ValueError, match="selects none"):
        MODEL.add_hook(lambda name: name.endswith("hook_resid_prae"), lambda x, hook: x)


def test_tokens_under_the_names_of_transformers():
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    with torch.no_grad():
        theirs = MODEL(input_ids=TOKENS, attention_mask=mask)
        assert torch.equal(theirs, MODEL(TOKENS, attention_mask=mask))
    with pytest.raises(ValueError, match="one input"):
        MODEL(TOKENS, input_ids=TOKENS)
    with pytest.raises(ValueError, match="one input"):
        MODEL()


def test_a_cache_of_transformer_lens_is_refused_with_ours_named():
    theirs = transformer_lens.cache.key_value_cache.TransformerLensKeyValueCache.init_cache(
        MODEL.cfg, "cpu", 1
    )
    with pytest.raises(ValueError, match=r"la\.KeyValueCache"):
        MODEL(TOKENS[:1], past_kv_cache=theirs)


@pytest.fixture
def ungrouped():
    model = hooked_model(SIZES)
    model.set_ungroup_grouped_query_attention(True)
    return model


@pytest.mark.parametrize("split", [False, True], ids=["one input", "split inputs"])
def test_ungrouped_heads_have_their_own_keys_and_the_same_logits(ungrouped, split):
    ungrouped.set_use_split_qkv_input(split)
    with torch.no_grad():
        logits, cache = ungrouped.run_with_cache(PROMPT)
        expected, grouped = MODEL.run_with_cache(PROMPT)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    for name in ("k", "v", "rot_k"):
        whole, shared = cache[name, 1], grouped[name, 1]
        torch.testing.assert_close(whole, shared.repeat_interleave(2, dim=2))
    if split:
        assert cache["blocks.1.hook_k_input"].shape[2] == SIZES.n_heads


def test_one_ungrouped_key_is_of_one_query_head(ungrouped):
    def zero(k, hook):
        k[:, :, 1] = 0.0
        return k

    with torch.no_grad():
        _, before = ungrouped.run_with_cache(TOKENS, names_filter="blocks.0.attn.hook_z")
        with ungrouped.hooks(fwd_hooks=[("blocks.0.attn.hook_k", zero)]):
            _, after = ungrouped.run_with_cache(TOKENS, names_filter="blocks.0.attn.hook_z")
    changed = ((after["z", 0] - before["z", 0]).abs() > 1e-5).flatten(0, 1).any(0).any(-1)
    assert changed.tolist() == [False, True, False, False]


def test_ungrouped_generation_is_the_same(ungrouped):
    run = dict(max_new_tokens=4, return_type="tokens", stop_at_eos=False, verbose=False)
    assert torch.equal(ungrouped.generate(TOKENS, **run), MODEL.generate(TOKENS, **run))


def run(model, given, **options):
    return model.generate(given, max_new_tokens=3, stop_at_eos=False, verbose=False, **options)


def test_embeddings_are_continued_as_their_tokens_are():
    expected = run(MODEL, TOKENS)
    embeds = MODEL.embed(TOKENS)
    assert torch.equal(run(MODEL, embeds, return_type="tokens"), expected[:, 4:])
    assert torch.equal(run(MODEL, embeds), MODEL.embed(expected))
    assert torch.equal(run(MODEL, TOKENS, return_type="embeds"), MODEL.embed(expected))
    again = run(MODEL, embeds, return_type="tokens", use_past_kv_cache=False)
    assert torch.equal(again, expected[:, 4:])


def test_embeddings_with_a_mask_are_continued_as_their_tokens_are():
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    expected = run(MODEL, TOKENS, attention_mask=mask)
    found = run(MODEL, MODEL.embed(TOKENS), attention_mask=mask, return_type="tokens")
    assert torch.equal(found, expected[:, 4:])


def test_sampling_at_temperature_zero_is_greedy():
    found = run(MODEL, TOKENS, do_sample=True, temperature=0.0)
    assert torch.equal(found, run(MODEL, TOKENS))


def test_options_without_effect_are_told():
    with pytest.warns(UserWarning, match="temperature, top_k given, but decoding is greedy"):
        run(MODEL, TOKENS, temperature=5.0, top_k=3)


def test_only_left_padding_can_be_continued():
    with pytest.raises(ValueError, match="pad on the left"):
        run(MODEL, TOKENS, padding_side="right")


@pytest.mark.parametrize("use_past_kv_cache", [True, False])
def test_tokens_that_listen_are_continued_as_the_prompt_is(use_past_kv_cache):
    options = dict(return_type="tokens", use_past_kv_cache=use_past_kv_cache)
    expected = run(MODEL, PROMPT, **options)
    with MODEL.listening_to(PROMPT):
        found = run(MODEL, PROMPT.tokens, **options)
    assert torch.equal(found, torch.cat([PROMPT.tokens, expected], dim=1))


def test_edge_attribution_of_transformer_lens_runs_and_sums_to_node_attribution():
    model = hooked_model(Sizes(kv_heads=4))
    clean, corrupted = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 9, 7, 8]])

    def metric(logits):
        return logits[0, -1, 3] - logits[0, -1, 4]

    nodes = attribution_patch(model, clean, corrupted, metric).node_scores
    config = EdgeAttributionConfig(granularity="edge")
    edges = attribution_patch(model, clean, corrupted, metric, config)
    assert max(map(abs, nodes.values())) > 1e-3
    for node, score in nodes.items():
        assert edges.node_scores[node] == pytest.approx(score, abs=1e-5)


def test_a_filter_that_fits_both_names_of_a_hook_point_acts_once():
    model = hooked_model(SIZES)
    model.set_use_split_qkv_input(True)
    seen = []
    hooks = [(lambda name: name.endswith("hook_q_input"), lambda x, hook: seen.append(hook.name))]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        model(TOKENS)
    assert seen == ["blocks.0.hook_q_input", "blocks.1.hook_q_input"]
