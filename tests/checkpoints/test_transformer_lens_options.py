"""`from_pretrained` takes TransformerLens's options that mean something, and refuses others by name."""

import pytest
import torch

import lens_audio as la

FOLDER = la.testbed.checkpoint_dir()
load = la.HookedAudioTransformer.from_pretrained
TOKENS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def model():
    return load(FOLDER)


def test_flags_that_ask_for_no_processing_are_taken(model):
    flags = dict(fold_ln=False, center_unembed=False, center_writing_weights=False)
    same = load(FOLDER, **flags, fold_value_biases=False, torch_dtype="float32")
    assert torch.equal(same(TOKENS), model(TOKENS))


@pytest.mark.parametrize(
    "flag", ["fold_ln", "center_unembed", "center_writing_weights", "fold_value_biases"]
)
def test_processing_is_refused_with_what_to_do_instead(flag):
    with pytest.raises(ValueError, match=rf"{flag}=True: .* Leave it out; "):
        load(FOLDER, **{flag: True})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(hf_model=object()), "from_hf"),
        (dict(trust_remote_code=True), "no code"),
        (dict(n_devices=2), "device="),
        (dict(default_padding_side="middle"), "'left' or 'right'"),
        (dict(dtype="float32", torch_dtype="float32"), "not both"),
        (dict(first_n_layers=0), "first_n_layers=0"),
        (dict(first_n_layers=9), "first_n_layers=9"),
    ],
)
def test_what_is_not_done_here_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        load(FOLDER, **options)


def test_an_unknown_option_is_an_error():
    with pytest.raises(TypeError, match="fold_layernorm"):
        load(FOLDER, fold_layernorm=False)


def test_from_pretrained_no_processing_is_from_pretrained(model):
    same = la.HookedAudioTransformer.from_pretrained_no_processing(FOLDER, device="cpu")
    assert torch.equal(same(TOKENS), model(TOKENS))


def test_the_first_layers_alone(model):
    first = load(FOLDER, first_n_layers=2)
    assert first.cfg.n_layers == len(first.blocks) == 2
    expected = model(TOKENS, stop_at_layer=2)
    assert torch.equal(first(TOKENS, stop_at_layer=2), expected)


def test_tokenizer_and_defaults_are_set(model):
    changed = load(
        FOLDER,
        tokenizer=model.tokenizer,
        default_prepend_bos=True,
        default_padding_side="left",
    )
    assert changed.tokenizer is model.tokenizer
    assert changed.to_tokens("What")[0, 0] == model.tokenizer.bos_token_id
    assert changed.tokenizer.padding_side == "left"
