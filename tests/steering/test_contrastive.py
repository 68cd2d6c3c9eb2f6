"""Contrastive decoding is two forward passes, with the audio and over silence."""

from dataclasses import replace

import torch

from lens_audio.data.answers import choice_logits, first_tokens
from lens_audio.steering.audio_silence.contrastive import contrastive_choices
from lens_audio.steering.audio_silence.item_activations import item_activations


def test_equals_two_forward_passes(model, items) -> None:
    some = items[-6:]
    found = item_activations(model, some, batch_size=4, verbose=False)
    prompt = model.prompt([i.question for i in some], audio=[i.audio for i in some])
    with torch.no_grad():
        heard, silent = (model(p, logits_to_keep=1)[:, -1] for p in (prompt, prompt.silenced()))
    tokens = first_tokens(model, some)
    for strength in (0.0, 1.0, 4.0):
        expected = choice_logits((1 + strength) * heard - strength * silent, tokens).argmax(-1)
        assert torch.equal(contrastive_choices(model, found, strength), expected)
    assert not torch.equal(contrastive_choices(model, found, 4.0), found.chosen(model))


def test_items_of_fewer_choices_never_choose_one_that_they_lack(model, items) -> None:
    found = item_activations(model, items[-2:], verbose=False)
    found.choices[0, 2:] = -1
    assert int(contrastive_choices(model, found, 2.0)[0]) < 2


def test_without_audio_nothing_changes(model, items) -> None:
    text = [replace(item, audio=None) for item in items[-4:]]
    found = item_activations(model, text, verbose=False)
    assert torch.equal(contrastive_choices(model, found, 4.0), found.chosen(model))
