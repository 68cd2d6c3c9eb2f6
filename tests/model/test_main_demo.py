"""The sections of TransformerLens's main demo, on text and on an audio prompt.

The calls are those of the demo; the right values come from the model's own parts, or the algebra.
"""

import pytest
import torch
from transformer_lens import FactoredMatrix, patching
from transformer_lens.utilities import get_act_name

import lens_audio as la

MODEL = la.HookedAudioTransformer.from_pretrained_no_processing(la.testbed.checkpoint_dir())
ITEM = la.testbed.demo_item()
HALF_A_SECOND = ITEM.waveform[:8000]
AUDIO = MODEL.prompt("What do you hear?", HALF_A_SECOND, sampling_rate=ITEM.sampling_rate)
TEXT = MODEL.to_tokens(["What do you hear?", "What is that sound?"], padding_side="left")


@pytest.fixture(params=["text", "audio"])
def tokens(request):
    """Tokens as the demo passes them; inside `listening_to` for the audio prompt."""
    if request.param == "text":
        yield TEXT
    else:
        with MODEL.listening_to(AUDIO):
            yield AUDIO.tokens


def test_caching_all_activations(tokens):
    logits, cache = MODEL.run_with_cache(tokens)
    pattern = cache["pattern", 0, "attn"]
    assert pattern.shape == (*tokens.shape[:1], MODEL.cfg.n_heads, *[tokens.shape[1]] * 2)
    normalized = cache["ln_final.hook_normalized"]
    torch.testing.assert_close(
        (normalized * MODEL.ln_final.w) @ MODEL.W_U + MODEL.b_U, logits, atol=1e-4, rtol=1e-4
    )


def test_loss_of_an_ablated_head(tokens):
    def head_ablation_hook(value, hook):
        value[:, :, 3, :] = 0.0
        return value

    name = get_act_name("v", 2)
    original = MODEL(tokens, return_type="loss")
    ablated = MODEL.run_with_hooks(
        tokens, return_type="loss", fwd_hooks=[(name, head_ablation_hook)]
    )
    assert torch.isfinite(ablated)
    assert ablated != original
    assert MODEL(tokens, return_type="loss") == original


def test_patching_the_residual_stream(tokens):
    corrupted = tokens.clone()
    corrupted[:, -2] = 7
    clean_logits, clean_cache = MODEL.run_with_cache(tokens)
    answers = clean_logits[:, -1].topk(2).indices

    def metric(logits):
        return logits[:, -1].gather(1, answers).diff(dim=1).mean()

    found = patching.get_act_patch_resid_pre(MODEL, corrupted, clean_cache, metric)
    n_last, n_layers = tokens.shape[1] - 1, MODEL.cfg.n_layers
    assert found.shape == (n_layers, n_last + 1)
    # At the first layer only the changed position matters; patched there, the clean run is back.
    clean, broken = metric(clean_logits), metric(MODEL(corrupted))
    torch.testing.assert_close(found[0, n_last - 1], clean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[0, n_last], broken, atol=1e-4, rtol=1e-4)


def test_a_score_read_from_patterns_of_some_layers(tokens):
    scores = torch.zeros(MODEL.cfg.n_layers, MODEL.cfg.n_heads)

    def induction_score_hook(pattern, hook):
        stripe = pattern.diagonal(dim1=-2, dim2=-1, offset=1 - 3)
        scores[hook.layer()] = stripe.mean(dim=(0, -1))

    def pattern_filter(name):
        return name.endswith("pattern") and name.startswith("blocks")

    MODEL.run_with_hooks(
        tokens, return_type=None, fwd_hooks=[(pattern_filter, induction_score_hook)]
    )
    _, cache = MODEL.run_with_cache(tokens)
    expected = cache["pattern", 1].diagonal(dim1=-2, dim2=-1, offset=-2).mean(dim=(0, -1))
    torch.testing.assert_close(scores[1], expected)
    assert bool((scores > 0).all())


def test_factored_matrices():
    OV = MODEL.OV
    assert isinstance(OV, FactoredMatrix)
    torch.testing.assert_close(OV[2, 3].AB, MODEL.W_V[2, 3] @ MODEL.W_O[2, 3])
    full = MODEL.W_E @ OV[2, 3] @ MODEL.W_U
    values = full.eigenvalues
    copying = values.sum(dim=-1).real / values.abs().sum(dim=-1)
    assert -1 <= float(copying.detach()) <= 1
    torch.testing.assert_close(
        OV[0, 0].norm(), torch.linalg.matrix_norm(OV[0, 0].AB), atol=1e-4, rtol=1e-4
    )


def test_generating_text():
    text = MODEL.generate("What do you", max_new_tokens=5, verbose=False)
    assert isinstance(text, str)
    assert text.startswith("What do you")
    sampled = MODEL.generate(
        "What do you", max_new_tokens=5, do_sample=True, temperature=0.7, prepend_bos=True,
        return_type="tokens", verbose=False,
    )  # fmt: skip
    assert sampled[0, 0] == MODEL.tokenizer.bos_token_id


def test_direct_logit_attribution_of_the_answer():
    logits, cache = MODEL.run_with_cache(AUDIO)
    right, wrong = (MODEL.to_single_token(word) for word in ITEM.choices[:2])
    parts, labels = cache.get_full_resid_decomposition(
        layer=-1, mlp_input=False, expand_neurons=False, apply_ln=False, pos_slice=-1,
        return_labels=True,
    )  # fmt: skip
    found = cache.logit_attrs(parts, tokens=right, incorrect_tokens=wrong, pos_slice=-1)
    assert len(labels) == len(found)
    torch.testing.assert_close(
        found.sum(0), logits[:, -1, right] - logits[:, -1, wrong], atol=1e-3, rtol=1e-3
    )
