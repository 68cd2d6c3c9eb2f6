"""AudioPrompt.from_tensors: layouts, expansion of older prompts, and what it refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_audio.inputs import AudioPrompt, build_prompt, n_audio_tokens

AUDIO = 151646
PAD = 9


def mel_of(*lengths, frames=200):
    return torch.zeros(len(lengths), 16, frames), torch.tensor(lengths)


def row(*counts):
    """Tokens 1, then for each count that many audio tokens and a 2."""
    return [1] + [t for n in counts for t in [AUDIO] * n + [2]]


def batch(rows, side="left"):
    """Rows padded to one length, and their attention mask."""
    width = max(map(len, rows))
    pads = [[PAD] * (width - len(r)) for r in rows]
    tokens = [p + r if side == "left" else r + p for p, r in zip(pads, rows, strict=True)]
    real = [[0] * len(p) + [1] * len(r) for p, r in zip(pads, rows, strict=True)]
    real = real if side == "left" else [r[::-1] for r in real]
    return torch.tensor(tokens), torch.tensor(real)


def test_the_audio_mask_is_where_the_audio_token_is():
    prompt = AudioPrompt.from_tensors(torch.tensor([row(25)]), *mel_of(100))
    assert prompt.audio_positions(0).tolist() == list(range(1, 26))
    assert prompt.attention_mask.all()
    other = AudioPrompt.from_tensors(torch.tensor([[5, 7, 7, 5]]), *mel_of(8), audio_token_id=7)
    assert other.audio_positions(0).tolist() == [1, 2]


def test_an_audio_mask_may_be_given():
    mask = torch.tensor([[0, 1, 1, 0]])
    prompt = AudioPrompt.from_tensors(torch.tensor([[5, 6, 7, 8]]), *mel_of(8), audio_mask=mask)
    assert prompt.audio_positions(0).tolist() == [1, 2]


def test_text_only():
    prompt = AudioPrompt.from_tensors(torch.tensor([[1, 2, 3]], dtype=torch.int32))
    assert prompt.mel is None
    assert not prompt.audio_mask.any()
    assert prompt.tokens.dtype == torch.long


def test_times_come_from_the_valid_frames():
    prompt = AudioPrompt.from_tensors(torch.tensor([row(25)]), *mel_of(101))
    assert prompt.audio_times(0)[-1].tolist() == [0.96, 1.01]


def test_clips_are_consumed_in_order_even_without_a_gap():
    tokens, mask = batch([[1] + [AUDIO] * 3 + [2], row(), row(2, 1)])
    prompt = AudioPrompt.from_tensors(tokens, *mel_of(8, 3, 7, 4), mask)
    assert [prompt.clips_of(i) for i in range(3)] == [range(2), range(2, 2), range(2, 4)]
    assert prompt.positions_between(0, 0, 0.03, clip=1).tolist() == [prompt.audio_positions(0)[2]]


def test_it_gives_what_build_prompt_gave(processor, noise):
    made = build_prompt(processor, ["a", "bb?"], [noise(9000), None], sampling_rate=16000)
    prompt = AudioPrompt.from_tensors(
        made.tokens, made.mel, made.mel_lengths, made.attention_mask, processor=processor
    )
    assert torch.equal(prompt.audio_mask, made.audio_mask)
    assert prompt.str_tokens(0) == made.str_tokens(0)
    assert torch.equal(prompt.silenced().mel, made.silenced().mel)


def test_silence_has_as_many_frames_as_the_mel_given(processor):
    mel, lengths = mel_of(8, frames=11)
    prompt = AudioPrompt.from_tensors(
        torch.tensor([row(2)]), mel.bfloat16(), lengths, audio_token_id=AUDIO, processor=processor
    )
    silent = prompt.silenced()
    assert silent.mel.shape == mel.shape
    assert silent.mel.dtype == torch.bfloat16
    assert (silent.mel == -1.5).all()
    assert silent.waveforms is None
    narrow = AudioPrompt.from_tensors(
        prompt.tokens, mel[:, :8], lengths, audio_token_id=AUDIO, processor=processor
    )
    with pytest.raises(ValueError, match="pass the processor that made them"):
        narrow.silenced()


def test_what_needs_a_processor_says_so():
    prompt = AudioPrompt.from_tensors(torch.tensor([row(2)]), *mel_of(8))
    with pytest.raises(ValueError, match=r"no tokenizer.*tokenizer="):
        prompt.str_tokens(0)
    with pytest.raises(ValueError, match=r"no processor.*processor="):
        prompt.silenced()
    with pytest.raises(ValueError, match="made from tensors"):
        prompt.with_audio(np.zeros(16000), 16000)


# Older prompts: one audio token a clip


@pytest.mark.parametrize("side", ["left", "right"])
def test_one_token_a_clip_is_expanded(side):
    lengths = (100, 8, 3, 50)
    counts = [n_audio_tokens(n) for n in lengths]
    old = batch([row(1, 1), row(), row(1), row(1)], side)
    new = batch([row(*counts[:2]), row(), row(counts[2]), row(counts[3])], side)
    prompt = AudioPrompt.from_tensors(old[0], *mel_of(*lengths), old[1])
    assert torch.equal(prompt.tokens, new[0])
    assert torch.equal(prompt.attention_mask, new[1].bool())
    assert [prompt.clips_of(i) for i in range(4)] == [
        range(2), range(2, 2), range(2, 3), range(3, 4),
    ]  # fmt: skip


def test_expansion_without_padding_pads_on_the_left():
    tokens = torch.tensor([row(1), row(1)])
    prompt = AudioPrompt.from_tensors(tokens, *mel_of(8, 16))
    assert prompt.attention_mask.tolist() == [[False] * 2 + [True] * 4, [True] * 6]


@given(
    rows=st.lists(st.lists(st.integers(3, 200), max_size=3), min_size=1, max_size=4).filter(any),
    side=st.sampled_from(["left", "right"]),
)
def test_expansion_is_the_same_as_writing_the_tokens_out(rows, side):
    lengths = [n for clips in rows for n in clips]
    old, old_mask = batch([row(*[1] * len(clips)) for clips in rows], side)
    new, new_mask = batch([row(*map(n_audio_tokens, clips)) for clips in rows], side)
    mel, mel_lengths = mel_of(*lengths)
    expanded = AudioPrompt.from_tensors(old, mel, mel_lengths, old_mask)
    written = AudioPrompt.from_tensors(new, mel, mel_lengths, new_mask)
    assert [expanded.clips_of(i) for i in range(len(rows))] == [
        written.clips_of(i) for i in range(len(rows))
    ]
    for i in range(len(rows)):
        real, real_written = expanded.attention_mask[i], written.attention_mask[i]
        assert expanded.tokens[i, real].tolist() == written.tokens[i, real_written].tolist()
        assert torch.equal(expanded.audio_mask[i, real], written.audio_mask[i, real_written])
    assert expanded.tokens.shape == written.tokens.shape


# Bad input


@pytest.mark.parametrize(
    ("counts", "lengths"),
    [([24], [100]), ([26], [100]), ([25, 25], [100]), ([25], [100, 100]), ([1, 1, 1], [100, 100])],
)
def test_prompt_and_mel_counts_that_disagree(counts, lengths):
    with pytest.raises(ValueError, match=r"in all: \d+ audio tokens, \d+ clips of .*one mel"):
        AudioPrompt.from_tensors(torch.tensor([row(*counts)]), *mel_of(*lengths))


def test_a_clip_that_straddles_two_rows():
    tokens, mask = batch([row(3), row(1)])
    with pytest.raises(ValueError, match=r"Row 0 holds 3 audio tokens.*\[2, 2\] = 4"):
        AudioPrompt.from_tensors(tokens, *mel_of(8, 8), mask)


def test_audio_tokens_without_mel():
    with pytest.raises(ValueError, match="25 audio tokens, 0 clips"):
        AudioPrompt.from_tensors(torch.tensor([row(25)]))


@pytest.mark.parametrize("which", [(True, False), (False, True)])
def test_mel_without_lengths_or_lengths_without_mel(which):
    given_ = [t if keep else None for t, keep in zip(mel_of(8), which, strict=True)]
    with pytest.raises(ValueError, match="is given without"):
        AudioPrompt.from_tensors(torch.tensor([row(2)]), *given_)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.ones(3, dtype=torch.long), r"\[batch, pos\]"),
        (torch.ones(1, 2, 3, dtype=torch.long), r"\[batch, pos\]"),
        (torch.ones(1, 0, dtype=torch.long), "at least one token"),
        (torch.ones(1, 3), "integers"),
        (torch.ones(1, 3, dtype=torch.bool), "integers"),
        (torch.tensor([[1, -1]]), "negative"),
    ],
)
def test_bad_tokens(tokens, message):
    with pytest.raises(ValueError, match=message):
        AudioPrompt.from_tensors(tokens)


@pytest.mark.parametrize(
    ("mel", "message"),
    [
        (torch.zeros(16, 200), r"\[audio, mel, frame\]"),
        (torch.zeros(1, 16, 200, dtype=torch.long), "floats"),
        (torch.zeros(1, 16, 0), r"\[audio, mel, frame\]"),
        (torch.full((1, 16, 200), float("nan")), r"NaN or infinite values, in clips \[0\]"),
        (torch.full((1, 16, 200), float("inf")), "NaN or infinite"),
    ],
)
def test_bad_mel(mel, message):
    with pytest.raises(ValueError, match=message):
        AudioPrompt.from_tensors(torch.tensor([row(2)]), mel, torch.tensor([8]))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([0], "from 1 to mel's 200"),
        ([201], "from 1 to mel's 200"),
        ([8, 8], "one a clip"),
        ([8.0], "integers"),
        ([[8]], "one a clip"),
        ([2], "too short"),
    ],
)
def test_bad_mel_lengths(lengths, message):
    with pytest.raises(ValueError, match=message):
        AudioPrompt.from_tensors(
            torch.tensor([row(2)]), torch.zeros(1, 16, 200), torch.tensor(lengths)
        )


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1, 1]], "attention_mask has shape"),
        ([[0, 0, 0, 0]], "all padding"),
        ([[1, 0, 1, 1]], "marks as padding"),
        ([[1, 2, 1, 1]], "only 0 and 1"),
    ],
)
def test_bad_attention_mask(mask, message):
    with pytest.raises(ValueError, match=message):
        AudioPrompt.from_tensors(torch.tensor([row(2)]), *mel_of(8), torch.tensor(mask))


def test_bad_audio_mask():
    with pytest.raises(ValueError, match="audio_mask has shape"):
        AudioPrompt.from_tensors(torch.tensor([row(2)]), *mel_of(8), audio_mask=torch.ones(1, 3))
