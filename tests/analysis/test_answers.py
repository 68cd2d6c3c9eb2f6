"""Probabilities of answers are those of a whole forward by transformers."""

import pytest
import torch
from models import Layout, Sizes, hf_model, make_prompt

from lens_audio import AudioPrompt, HookedAudioTransformer
from lens_audio.analysis import choice_log_probs, choice_probs, next_token_probs


class Letters:
    """A tokenizer of one token a letter: 'a' is 10."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        assert not add_special_tokens
        return [ord(letter) - ord("a") + 10 for letter in text]


CHOICES = ["a", "bird", "cat", "ca"]


def both(seed: int = 0):
    sizes = Sizes(n_heads=4, kv_heads=2)
    theirs = hf_model(sizes, seed)
    ours = HookedAudioTransformer.from_hf(theirs)
    ours.set_tokenizer(Letters())
    return theirs, ours


@torch.no_grad()
def teacher_forced(theirs, prompt: AudioPrompt, row: int, ids: list[int]) -> float:
    """log p(ids | row's prompt) from one forward over prompt and answer, without padding."""
    real = prompt.attention_mask[row]
    tokens = torch.cat([prompt.tokens[row][real], torch.tensor(ids)])[None]
    clips = list(prompt.clips_of(row))
    frames = torch.arange(prompt.mel.shape[2]) < prompt.mel_lengths[clips, None]
    logits = theirs(
        input_ids=tokens,
        input_features=prompt.mel[clips],
        feature_attention_mask=frames,
        attention_mask=torch.ones_like(tokens),
    ).logits[0, -len(ids) - 1 : -1]
    return float(logits.log_softmax(-1)[torch.arange(len(ids)), ids].sum())


@pytest.mark.parametrize("seed", range(3))
def test_equal_a_teacher_forced_forward_by_transformers(seed: int) -> None:
    theirs, ours = both(seed)
    prompt = make_prompt(layout=Layout([8, 5], [[40], [23, 12]]), seed=seed)
    found = choice_log_probs(ours, prompt, CHOICES)
    assert found.shape == (2, 4)
    for row in range(2):
        for choice, log_prob in zip(CHOICES, found[row], strict=True):
            ids = Letters().encode(choice, add_special_tokens=False)
            expected = teacher_forced(theirs, prompt, row, ids)
            assert float(log_prob) == pytest.approx(expected, abs=1e-4)


def test_the_order_of_choices_does_not_matter() -> None:
    _, ours = both()
    prompt = make_prompt()
    forth = choice_log_probs(ours, prompt, CHOICES)
    back = choice_log_probs(ours, prompt, CHOICES[::-1])
    torch.testing.assert_close(forth, back.flip(1))


def test_choice_probabilities_sum_to_one_among_the_choices() -> None:
    _, ours = both()
    log_probs = choice_log_probs(ours, make_prompt(), CHOICES)
    probs = choice_probs(log_probs)
    assert float(probs.sum()) == pytest.approx(1)
    torch.testing.assert_close(probs[:, 0] / probs[:, 1], (log_probs[:, 0] - log_probs[:, 1]).exp())


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([], "at least one"),
        ("dog", "must be a list"),
        (["dog", " "], r"choices \[1\] are empty"),
        (["dog", "cat", "dog"], r"more than once: \['dog'\]"),
    ],
)
def test_refuses_choices_that_are_none(choices: list[str], message: str) -> None:
    _, ours = both()
    with pytest.raises(ValueError, match=message):
        choice_log_probs(ours, make_prompt(), choices)


def test_refuses_right_padding() -> None:
    _, ours = both()
    prompt = make_prompt(layout=Layout([8, 5], [[40], [23]], "right"))
    with pytest.raises(ValueError, match="pad the prompts on the left"):
        choice_log_probs(ours, prompt, CHOICES)
    with pytest.raises(ValueError, match="pad the prompts on the left"):
        next_token_probs(ours, prompt)


def test_next_token_probabilities_are_those_of_one_token_answers() -> None:
    _, ours = both()
    prompt = make_prompt(layout=Layout([8, 5], [[40], [23]]))
    probs = next_token_probs(ours, prompt)
    torch.testing.assert_close(probs.sum(1), torch.ones(2))
    token = Letters().encode("a", add_special_tokens=False)[0]
    torch.testing.assert_close(probs[:, token].log(), choice_log_probs(ours, prompt, ["a"])[:, 0])
