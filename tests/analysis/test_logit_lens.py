"""Logit lens, encoder lens and head attribution by source, against what they must sum or end to."""

import pytest
import torch
from models import Layout, hooked_model, make_prompt

from lens_audio.analysis.direct_attribution import head_attribution_by_source, mlp_attribution
from lens_audio.analysis.logit_lens import encoder_lens, logit_lens

PADDED = Layout(n_text=[6, 9], clips=[[31], [24]])


def test_the_last_layer_of_the_logit_lens_is_the_prediction():
    model, prompt = hooked_model(), make_prompt(layout=PADDED)
    read = logit_lens(model, prompt)
    expected = model(prompt).log_softmax(-1)
    torch.testing.assert_close(read[:, -1], expected, atol=1e-5, rtol=0)


def test_the_logit_lens_reads_the_cached_residual_stream():
    model, prompt = hooked_model(), make_prompt(layout=PADDED)
    _, cache = model.run_with_cache(prompt)
    resid = cache["resid_pre", 1][:, [-1]]
    expected = (model.ln_final(resid) @ model.W_U).log_softmax(-1)[..., [4, 9]]
    read = logit_lens(model, prompt, tokens=[4, 9], positions=[-1])
    torch.testing.assert_close(read[:, 1], expected, atol=1e-5, rtol=0)


def test_the_last_layer_of_the_encoder_lens_skips_nothing():
    model, prompt = hooked_model(), make_prompt(layout=PADDED)
    expected = model(prompt)[:, -1].log_softmax(-1)
    torch.testing.assert_close(encoder_lens(model, prompt)[:, -1], expected, atol=1e-5, rtol=0)


def test_the_encoder_lens_equals_a_model_without_the_later_blocks():
    model, prompt = hooked_model(), make_prompt(layout=PADDED)
    read = encoder_lens(model, prompt)[:, 1]
    model.audio_encoder.blocks = model.audio_encoder.blocks[:1]
    expected = model(prompt)[:, -1].log_softmax(-1)
    torch.testing.assert_close(read, expected, atol=1e-5, rtol=0)


def test_heads_from_audio_and_text_sum_to_their_direct_attribution():
    model, prompt = hooked_model(), make_prompt(layout=PADDED)
    right, wrong = model.tokens_to_residual_directions(torch.tensor([4, 9]))
    parts = head_attribution_by_source(model, prompt, right - wrong)
    _, cache = model.run_with_cache(prompt)
    stack = cache.stack_head_results(layer=-1, pos_slice=-1)
    scaled = cache.apply_ln_to_stack(stack, layer=-1, pos_slice=-1)
    expected = (scaled @ (right - wrong)).unflatten(0, (model.cfg.n_layers, -1)).permute(2, 0, 1)
    torch.testing.assert_close(parts["audio"] + parts["text"], expected, atol=1e-5, rtol=1e-4)


def test_each_rows_last_position_is_attributed_whatever_pads_it():
    model, right = hooked_model(), Layout(PADDED.n_text, PADDED.clips, "right")
    direction = model.tokens_to_residual_directions(4)
    found = head_attribution_by_source(model, make_prompt(layout=right), direction, "last")
    expected = head_attribution_by_source(model, make_prompt(layout=PADDED), direction)
    for source in ("audio", "text"):
        torch.testing.assert_close(found[source], expected[source], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="at padding in rows"):
        head_attribution_by_source(model, make_prompt(layout=right), direction)


def test_embedding_heads_mlps_and_biases_sum_to_the_logit_difference():
    model, prompt = hooked_model(), make_prompt(layout=PADDED)
    right, wrong = model.tokens_to_residual_directions(torch.tensor([4, 9]))
    direction = right - wrong
    heads = sum(head_attribution_by_source(model, prompt, direction).values()).sum((1, 2))
    mlps = mlp_attribution(model, prompt, direction).sum(1)
    logits, cache = model.run_with_cache(prompt)
    biases = sum(getattr(block.attn, "b_O", 0) for block in model.blocks)
    rest = (
        (cache["hook_embed"][:, -1] + biases) @ direction / cache["ln_final.hook_scale"][:, -1, 0]
    )
    found = heads + mlps + rest
    torch.testing.assert_close(found, logits[:, -1, 4] - logits[:, -1, 9], atol=1e-4, rtol=1e-4)


def test_a_prompt_without_audio_attributes_nothing_to_audio():
    model, prompt = hooked_model(), make_prompt(layout=Layout(n_text=[6], clips=[[]]))
    parts = head_attribution_by_source(model, prompt, model.tokens_to_residual_directions(4))
    assert not bool(parts["audio"].any())


def test_the_encoder_lens_needs_audio():
    prompt = make_prompt(layout=Layout(n_text=[6], clips=[[]]))
    with pytest.raises(ValueError, match="audio"):
        encoder_lens(hooked_model(), prompt)


@pytest.mark.parametrize("kwargs", [{"tokens": [1000]}, {"positions": [99]}, {"tokens": []}])
def test_tokens_and_positions_that_do_not_exist_are_refused(kwargs):
    with pytest.raises(ValueError, match=r"does not exist|empty selection"):
        logit_lens(hooked_model(), make_prompt(), **kwargs)
