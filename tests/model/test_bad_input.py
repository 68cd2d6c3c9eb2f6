"""Bad input is refused with a message that names it."""

from dataclasses import dataclass, replace

import pytest
import torch
from jaxtyping import TypeCheckError
from models import Layout, Sizes, hooked_model, make_prompt
from torch import Tensor

from lens_audio import KeyValueCache

SIZES = Sizes()
MODEL = hooked_model(SIZES)
PROMPT = make_prompt(SIZES, Layout([7], [[23]]))


@dataclass
class Bare:
    """A prompt whose own checks have been passed by."""

    tokens: Tensor
    attention_mask: Tensor
    audio_mask: Tensor
    mel: Tensor | None
    mel_lengths: Tensor | None


def bare(**changes):
    fields = {name: getattr(PROMPT, name) for name in Bare.__dataclass_fields__}
    return Bare(**fields | changes)


def fails(match, *args, **kwargs):
    with pytest.raises(ValueError, match=match):
        MODEL(*args, **kwargs)


def test_more_audio_tokens_than_the_clips_make():
    mask = PROMPT.audio_mask.clone()
    mask[0, -1] = True
    fails("7 audio tokens, but its 1 clips make 6", bare(audio_mask=mask))


def test_fewer_audio_tokens_than_the_clips_make():
    mask = PROMPT.audio_mask.clone()
    mask[0, int(mask[0].nonzero()[0])] = False
    fails("audio tokens", bare(audio_mask=mask))


def test_audio_tokens_without_mel():
    fails("no mel spectrogram", bare(mel=None, mel_lengths=None))


def test_two_clips_and_one_length():
    with pytest.raises((ValueError, TypeCheckError), match=r"mel_lengths|mel lengths"):
        MODEL(bare(mel=PROMPT.mel.repeat(2, 1, 1)))


def test_mel_length_beyond_the_spectrogram():
    fails("mel lengths", bare(mel_lengths=torch.tensor([41])))


def test_mel_length_of_nothing():
    fails("mel lengths", bare(mel_lengths=torch.tensor([0])))


def test_wrong_number_of_mel_bins():
    fails("9 bins; this encoder reads 8", bare(mel=torch.zeros(1, 9, 40)))


def test_spectrogram_longer_than_the_encoder_reads():
    fails("60 frames; this encoder reads exactly 40", bare(mel=torch.zeros(1, 8, 60)))


@pytest.mark.parametrize("token", [-1, SIZES.d_vocab])
def test_token_outside_the_vocabulary(token):
    fails(f"token {token} is outside the vocabulary of {SIZES.d_vocab}", torch.tensor([[5, token]]))


@pytest.mark.parametrize(
    "tokens", [torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 1, 1).long()]
)
def test_tokens_of_another_shape(tokens):
    fails("tokens of shape", tokens)


def test_floats_for_tokens():
    fails("tokens must be integers", torch.rand(1, 4))


def test_something_else_for_tokens():
    fails("expected a prompt", [1, 2, 3])


def test_no_texts():
    fails("an empty list of texts", [])


def test_context_longer_than_the_models():
    fails("129 positions; this model's context is 128", torch.ones(1, 129, dtype=torch.long))


def test_context_longer_than_the_models_over_a_cache():
    cache = KeyValueCache(SIZES.n_layers)
    with torch.no_grad():
        MODEL(torch.ones(1, 100, dtype=torch.long), past_kv_cache=cache)
    fails("130 positions", torch.ones(1, 30, dtype=torch.long), past_kv_cache=cache)


@pytest.mark.parametrize("name", ["start_at_layer", "stop_at_layer"])
@pytest.mark.parametrize("layer", [3, -3])
def test_layer_out_of_range(name, layer):
    input = torch.zeros(1, 2, SIZES.d_model) if name == "start_at_layer" else torch.tensor([[5, 6]])
    fails(f"{name}={layer}; this model has 2 layers", input, **{name: layer})


def test_residual_stream_of_another_width():
    fails("width 7, not 32", torch.zeros(1, 2, 7), start_at_layer=1)


def test_tokens_where_a_residual_stream_belongs():
    fails("residual stream", torch.tensor([[5, 6]]), start_at_layer=1)


def test_unknown_return_type():
    fails("return_type", torch.tensor([[5, 6]]), return_type="logit")


@pytest.mark.parametrize("n", [-1, 3])
def test_more_logits_than_positions(n):
    fails("logits_to_keep", torch.tensor([[5, 6]]), logits_to_keep=n)


def test_attention_mask_of_another_shape():
    fails("attention_mask of shape", torch.tensor([[5, 6]]), attention_mask=torch.ones(1, 3))


def test_loss_without_tokens():
    fails("tokens=", torch.zeros(1, 2, SIZES.d_model), start_at_layer=0, return_type="loss")


def test_loss_of_a_single_token():
    fails("no position", torch.tensor([[5]]), return_type="loss")


def nothing(value, hook):
    return None


def run_with_hooks(name):
    MODEL.run_with_hooks(PROMPT, fwd_hooks=[(name, nothing)])


def run_with_cache(name):
    MODEL.run_with_cache(PROMPT, names_filter=name)


def run_with_cache_of_several(name):
    MODEL.run_with_cache(PROMPT, names_filter=["hook_embed", name])


def add_hook(name):
    MODEL.add_hook(name, nothing)


RUNS = [run_with_hooks, run_with_cache, run_with_cache_of_several, add_hook]


@pytest.mark.parametrize("run", RUNS)
def test_misspelt_hook_name_suggests_the_nearest(run):
    with pytest.raises(ValueError, match=r"Did you mean .*blocks\.1\.hook_resid_post"):
        run("blocks.1.hook_resid_pots")


@pytest.mark.parametrize("run", RUNS)
def test_hook_layer_out_of_range_says_the_range(run):
    with pytest.raises(ValueError, match="0 to 1"):
        run("blocks.7.hook_resid_post")


def test_hook_name_function_that_selects_nothing():
    with pytest.raises(ValueError, match="selects none"):
        MODEL.run_with_hooks(PROMPT, fwd_hooks=[(lambda name: "hook_zz" in name, nothing)])


def test_a_wrong_name_sets_none_of_the_hooks_beside_it():
    with pytest.raises(ValueError, match="hook_zz"):
        MODEL.run_with_hooks(PROMPT, fwd_hooks=[("hook_embed", nothing), ("hook_zz", nothing)])
    assert not MODEL.list_hooks()


def raising(value, hook):
    raise RuntimeError("from the hook")


SITES = ["hook_embed", "blocks.1.attn.hook_pattern", "audio_encoder.blocks.0.hook_resid_pre"]


@pytest.mark.parametrize("site", SITES)
def test_an_exception_in_a_hook_leaves_no_hook_behind(site):
    hooks = [("blocks.0.hook_resid_pre", nothing), (site, raising)]
    with pytest.raises(RuntimeError, match="from the hook"):
        MODEL.run_with_hooks(PROMPT, fwd_hooks=hooks)
    assert not MODEL.list_hooks()


def test_an_exception_in_a_hook_under_run_with_cache_leaves_no_hook_behind():
    with pytest.raises(RuntimeError), MODEL.hooks([("blocks.1.hook_resid_pre", raising)]):
        MODEL.run_with_cache(PROMPT)
    assert not MODEL.list_hooks()


def test_an_exception_in_a_hook_during_generation_leaves_no_hook_behind():
    with pytest.raises(RuntimeError), MODEL.hooks([("blocks.1.hook_resid_pre", raising)]):
        MODEL.generate(PROMPT, 3, return_cache=True, return_type="tokens", verbose=False)
    assert not MODEL.list_hooks()


def test_an_exception_in_a_backward_hook_leaves_no_hook_behind():
    with (
        pytest.raises(RuntimeError, match="from the hook"),
        MODEL.hooks(bwd_hooks=[("blocks.0.hook_resid_pre", raising)]),
    ):
        MODEL(PROMPT).sum().backward()
    assert not MODEL.list_hooks()


def test_listening_to_with_tokens_of_another_shape():
    with MODEL.listening_to(PROMPT):
        fails("tokens have shape", torch.tensor([[5, 6, 7]]))


def test_listening_to_with_audio_tokens_elsewhere():
    moved = PROMPT.tokens.roll(1, dims=1)
    with MODEL.listening_to(PROMPT):
        fails("audio tokens are not where", moved)


@pytest.mark.parametrize(
    "options", [{"temperature": -1.0, "do_sample": True}, {"max_new_tokens": -1}]
)
def test_generation_options_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MODEL.generate(PROMPT, **{"max_new_tokens": 2} | options)


def test_unknown_generation_option():
    with pytest.raises(TypeError, match="beams"):
        MODEL.generate(PROMPT, 2, beams=4)


def test_text_without_a_tokenizer_names_the_missing_files():
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        MODEL("hello")


def test_prompt_without_a_processor_says_what_is_missing():
    with pytest.raises(ValueError, match="processor"):
        MODEL.prompt("What do you hear?", audio=torch.zeros(16000))


def test_a_cache_of_another_batch_size():
    cache = KeyValueCache(SIZES.n_layers)
    with torch.no_grad():
        MODEL(torch.tensor([[5, 6]]), past_kv_cache=cache)
    fails("batch", torch.tensor([[5], [6]]), past_kv_cache=cache)


def test_a_nan_is_not_hidden():
    """What goes wrong in the model is seen in the logits."""
    with torch.no_grad():
        logits = MODEL(replace(PROMPT, mel=PROMPT.mel * torch.nan))
    assert logits.isnan().any()


def test_spectrogram_shorter_than_the_encoder_reads():
    with pytest.raises(ValueError, match="20 frames; this encoder reads exactly 40"):
        encoder = MODEL.audio_encoder
        encoder(torch.zeros(1, encoder.cfg.n_mels, 20), torch.tensor([20]))
