"""The options of forward, each against a straightforward computation."""

import pytest
import torch
import torch.nn.functional as F
from models import Layout, Sizes, hooked_model, make_prompt

from lens_audio import AudioPrompt

SIZES = Sizes(n_layers=3)
LAYOUT = Layout([7, 5], [[23], [9, 12]], "left")


@pytest.fixture(scope="module")
def model():
    return hooked_model(SIZES)


@pytest.fixture(scope="module")
def prompt():
    return make_prompt(SIZES, LAYOUT)


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -2])
@torch.no_grad()
def test_stop_at_layer_gives_its_resid_pre(model, prompt, layer):
    _, cache = model.run_with_cache(prompt)
    l = layer % 3 if layer < 3 else 3
    expected = cache["resid_pre", l] if l < 3 else cache["resid_post", 2]
    close(model(prompt, stop_at_layer=layer), expected)


@pytest.mark.parametrize("layer", [0, 1, 3, -1])
@torch.no_grad()
def test_start_at_layer_ends_in_the_same_logits(model, prompt, layer):
    resid = model(prompt, stop_at_layer=layer)
    close(model(resid, start_at_layer=layer, attention_mask=prompt.attention_mask), model(prompt))


@torch.no_grad()
def test_start_and_stop_run_only_the_layers_between(model, prompt):
    resid = model(prompt, stop_at_layer=1)
    mask = prompt.attention_mask
    found = model(resid, start_at_layer=1, stop_at_layer=2, attention_mask=mask)
    close(found, model(prompt, stop_at_layer=2))


@pytest.mark.parametrize("n", [1, 2, 5])
@torch.no_grad()
def test_logits_to_keep_gives_the_last_logits(model, prompt, n):
    close(model(prompt, logits_to_keep=n), model(prompt)[:, -n:])


@torch.no_grad()
def test_logits_to_keep_unembeds_no_other_position(model, prompt):
    _, cache = model.run_with_cache(prompt, names_filter="unembed.hook_in", logits_to_keep=2)
    assert cache["unembed.hook_in"].shape[1] == 2


def losses_by_hand(model, prompt):
    """[batch, pos - 1]: minus the log probability of each next real text token, else zero."""
    log_probs = F.log_softmax(model(prompt), dim=-1)
    losses = torch.zeros(prompt.tokens.shape[0], prompt.tokens.shape[1] - 1)
    for i in range(prompt.tokens.shape[0]):
        for t in range(prompt.tokens.shape[1] - 1):
            real = prompt.attention_mask[i, t] and prompt.attention_mask[i, t + 1]
            if real and not prompt.audio_mask[i, t + 1]:
                losses[i, t] = -log_probs[i, t, prompt.tokens[i, t + 1]]
    return losses


@torch.no_grad()
def test_loss_per_token_is_that_of_the_next_text_token(model, prompt):
    found = model(prompt, return_type="loss", loss_per_token=True)
    close(found, losses_by_hand(model, prompt))


@torch.no_grad()
def test_loss_is_the_mean_over_text_tokens(model, prompt):
    losses = losses_by_hand(model, prompt)
    close(model(prompt, return_type="loss"), losses.sum() / (losses != 0).sum())


@torch.no_grad()
def test_both_gives_logits_and_loss(model, prompt):
    out = model(prompt, return_type="both")
    close(out.logits, model(prompt))
    close(out.loss, model(prompt, return_type="loss"))


@torch.no_grad()
def test_return_type_none_gives_nothing(model, prompt):
    assert model(prompt, return_type=None) is None


@torch.no_grad()
def test_loss_from_a_residual_stream_takes_its_tokens(model):
    prompt = make_prompt(SIZES, Layout([9], [[]]))
    resid = model(prompt, stop_at_layer=1)
    found = model(resid, start_at_layer=1, tokens=prompt.tokens, return_type="loss")
    close(found, model(prompt, return_type="loss"))


@torch.no_grad()
def test_one_row_of_tokens_may_come_without_its_batch(model):
    tokens = torch.tensor([5, 9, 30, 11])
    close(model(tokens), model(tokens[None]))


@torch.no_grad()
def test_a_row_does_not_depend_on_the_padding_of_its_batch(model):
    one = make_prompt(SIZES, Layout([6], [[14]], "left"))
    tokens = torch.cat([torch.zeros(1, 5, dtype=torch.long), one.tokens], dim=1)
    mask = F.pad(one.attention_mask, (5, 0))
    padded = AudioPrompt.from_tensors(
        tokens, one.mel, one.mel_lengths, attention_mask=mask, audio_token_id=3
    )
    close(model(padded)[:, 5:], model(one))
