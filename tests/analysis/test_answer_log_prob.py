"""The log-probability of a whole answer is transformers' own loss on its tokens."""

from dataclasses import replace

import pytest
import torch
from models import Layout, Sizes, hf_inputs, hf_model, make_prompt, with_sound_of

import lens_audio as la
from lens_audio import HookedAudioTransformer
from lens_audio.analysis.circuit import CircuitTest
from lens_audio.analysis.metrics import (
    answer_log_prob,
    log_prob,
    logit_diff,
    normalised,
    on_positions,
)
from lens_audio.analysis.patching import sweep
from lens_audio.analysis.patching.attribution import attribute
from lens_audio.analysis.patching.paths import path_patch

SIZES = Sizes()
THEIRS = hf_model(SIZES)
MODEL = HookedAudioTransformer.from_hf(THEIRS)
ROWS = Layout([6, 9, 8], [[17], [17], [17]])
TALKS = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
ITEM = la.testbed.demo_item()
SOUND = {"audio": ITEM.waveform, "sampling_rate": ITEM.sampling_rate}


def last_tokens(prompt, lengths):
    return [row[-n:].tolist() for row, n in zip(prompt.tokens, lengths, strict=True)]


@torch.no_grad()
def their_log_probs(prompt, lengths):
    """Minus the loss, summed over the answer's tokens, of each row."""
    found = []
    for row, n in enumerate(lengths):
        labels = torch.full_like(prompt.tokens, -100)
        labels[row, -n:] = prompt.tokens[row, -n:]
        found.append(-n * THEIRS(**hf_inputs(prompt), labels=labels).loss)
    return torch.stack(found)


@pytest.mark.parametrize("lengths", [(1, 1, 1), (2, 5, 1), (4, 3, 6)])
def test_it_is_the_loss_of_transformers(lengths):
    prompt = make_prompt(SIZES, ROWS)
    metric = answer_log_prob(prompt, last_tokens(prompt, lengths))
    found = metric(MODEL(prompt))
    torch.testing.assert_close(found, their_log_probs(prompt, lengths), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_every_analysis_gives_it_of_the_unpatched_runs():
    lengths = (2, 5, 1)
    clean = make_prompt(SIZES, ROWS)
    corrupted = with_sound_of(clean, make_prompt(SIZES, ROWS, 1))
    metric = answer_log_prob(clean, last_tokens(clean, lengths))
    results = [
        *(sweep(MODEL, clean, corrupted, "z", metric, positions="last", engine=engine, verbose=False)
          for engine in ("fast", "naive")),
        attribute(MODEL, clean, corrupted, metric, sites="z")["z"],
        path_patch(MODEL, clean, corrupted, metric, senders=[(0, 0)], verbose=False),
    ]  # fmt: skip
    expected = [their_log_probs(prompt, lengths) for prompt in (corrupted, clean)]
    circuit = CircuitTest(MODEL, clean, corrupted, metric)
    torch.testing.assert_close(circuit.whole, expected[1], atol=1e-4, rtol=1e-5)
    for result in results:
        torch.testing.assert_close(result.base[0], expected[0], atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(result.source[0], expected[1], atol=1e-4, rtol=1e-5)


def test_both_engines_agree_where_the_answer_is_patched():
    clean = make_prompt(SIZES, ROWS)
    corrupted = with_sound_of(clean, make_prompt(SIZES, ROWS, 1))
    metric = answer_log_prob(clean, last_tokens(clean, (2, 5, 1)))
    places = {str(n): [-n] for n in range(1, 8)}
    fast, naive = (
        sweep(MODEL, clean, corrupted, "mlp_out", metric, positions=places, engine=engine)
        for engine in ("fast", "naive")
    )
    torch.testing.assert_close(fast.values, naive.values, atol=1e-4, rtol=0)
    assert bool((fast.recovery()[0, 1:].abs() > 1e-3).all())  # the answer's own positions do act


@torch.no_grad()
def test_the_text_of_a_prefix_is_an_answer():
    choices = ["glass", "bark bark", "a motor, I think"]
    prompt = TALKS.prompt(
        [ITEM.question] * 3, audio=[(ITEM.waveform, ITEM.sampling_rate)] * 3, prefix=choices
    )
    found = answer_log_prob(prompt, choices)(TALKS(prompt))
    asked = TALKS.prompt(ITEM.question, **SOUND)
    expected = la.analysis.choice_log_probs(TALKS, asked, choices)[0]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_an_answer_may_be_the_end_of_a_prefix():
    prompt = TALKS.prompt(ITEM.question, **SOUND, prefix="I hear glass")
    begun = TALKS.prompt(ITEM.question, **SOUND, prefix="I hear")
    expected = la.analysis.choice_log_probs(TALKS, begun, [" glass"])[0]
    torch.testing.assert_close(answer_log_prob(prompt, " glass")(TALKS(prompt)), expected)


@torch.no_grad()
def test_a_difference_of_answers_that_share_all_but_the_last_token():
    words = [" glass", " bark"]
    tokens = [TALKS.to_single_token(word) for word in words]
    shared = TALKS.prompt(ITEM.question, **SOUND, prefix="I hear a")
    found = logit_diff(*tokens)(TALKS(shared)[:, -1])
    whole = [TALKS.prompt(ITEM.question, **SOUND, prefix="I hear a" + word) for word in words]
    log_probs = [
        answer_log_prob(prompt, "I hear a" + word)(TALKS(prompt))
        for prompt, word in zip(whole, words, strict=True)
    ]
    torch.testing.assert_close(found, log_probs[0] - log_probs[1], atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_one_token_is_the_log_probability_before_it():
    prompt = make_prompt(SIZES, ROWS)
    found = answer_log_prob(prompt, last_tokens(prompt, (1, 1, 1)))(MODEL(prompt))
    expected = log_prob(prompt.tokens[:, -1])(MODEL(prompt)[:, -2])
    torch.testing.assert_close(found, expected)


def test_gradients_reach_every_position_before_the_answer_and_no_other():
    prompt = make_prompt(SIZES, ROWS)
    logits = MODEL(prompt).detach().requires_grad_()
    answer_log_prob(prompt, last_tokens(prompt, (2, 5, 1)))(logits).sum().backward()
    reads = (logits.grad.abs().sum(-1) > 0).sum(1)
    assert reads.tolist() == [2, 5, 1]
    assert not bool(logits.grad[:, -1].any())


# Bad input


def test_an_answer_that_the_prompt_does_not_end_in():
    prompt = TALKS.prompt(ITEM.question, **SOUND, prefix="glass")
    for answer in ("bark", "", "I hear glass", [[5]], [[]]):
        with pytest.raises(ValueError, match=r"row 0 .* does not end in .*prefix=answer"):
            answer_log_prob(prompt, answer)


def test_an_answer_that_begins_within_a_token():
    prompt = TALKS.prompt(ITEM.question, **SOUND, prefix=" glass")
    assert len(TALKS.to_tokens(" glass")[0]) == 1
    with pytest.raises(ValueError, match="only where a token does"):
        answer_log_prob(prompt, "glass")


def test_answers_for_another_number_of_rows():
    with pytest.raises(ValueError, match="2 answers for 3 prompts"):
        answer_log_prob(make_prompt(SIZES, ROWS), [[5], [6]])


def test_a_prompt_of_tensors_needs_tokens():
    with pytest.raises(ValueError, match="no tokenizer"):
        answer_log_prob(make_prompt(SIZES, ROWS), "glass")


def test_padding_on_the_right():
    prompt = make_prompt(SIZES, Layout([6, 9], [[17], [17]], "right"))
    with pytest.raises(ValueError, match="pad the prompts on the left"):
        answer_log_prob(prompt, [[5], [6]])


@pytest.mark.parametrize("changed", ["clean", "corrupted"])
def test_a_run_of_another_answer_is_refused(changed):
    prompt = make_prompt(SIZES, ROWS)
    tokens = prompt.tokens.clone()
    tokens[1, -3] += 1
    prompts = {"clean": prompt, "corrupted": prompt} | {changed: replace(prompt, tokens=tokens)}
    metric = answer_log_prob(prompt, last_tokens(prompt, (2, 5, 1)))
    for one in (metric, normalised(metric, 1.0, 0.0)):
        with pytest.raises(ValueError, match=r"row 1 .*give both the same prefix="):
            sweep(MODEL, *prompts.values(), "z", one, verbose=False)


def test_a_metric_of_more_positions_than_a_row_has():
    prompt = make_prompt(SIZES, Layout([20, 4], [[], []], "left"))
    metric = on_positions(lambda logits: logits[:, -8, 5], 8)
    with pytest.raises(ValueError, match=r"reads 8 positions, and row 1 .* has"):
        sweep(MODEL, prompt, prompt, "z", metric, verbose=False)
