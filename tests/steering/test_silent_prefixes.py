"""What prompts over silence have in common is read once, and the result is that of reading it all."""

import pytest
import torch

from lens_audio.steering import contrastive
from lens_audio.steering.audio_silence.silent_prefixes import SilentPrefixes, prefill_silence


@pytest.fixture
def positions_read(model):
    """How many positions each forward of the decoder reads."""
    read: list[int] = []
    handle = model.blocks[0].register_forward_pre_hook(
        lambda block, args: read.append(args[0].shape[0] * args[0].shape[1])
    )
    yield read
    handle.remove()


def test_another_question_reads_only_the_text_behind_the_audio(model, items, positions_read):
    audio = items[-1].audio
    first, second = (model.prompt(q, audio=audio) for q in ("What is heard?", "Is that a dog?"))
    with contrastive().attach(model):
        model(first)
        positions_read.clear()
        model(second)
    n_behind = second.tokens.shape[1] - 1 - int(second.audio_positions(0)[-1])
    assert sorted(positions_read) == [n_behind, second.tokens.shape[1]]


def test_more_lengths_than_are_kept_are_read_in_one_batch(model, items, positions_read):
    sounds = [(items[-1].audio[0][:n], 16000) for n in range(16000, 26000, 2000)]
    prompt = model.prompt(["What is heard?"] * 5, audio=sounds)
    with contrastive().attach(model):
        model(prompt)
    assert positions_read == [prompt.tokens.numel()] * 2


@torch.no_grad()
def test_equals_the_whole_prompt_over_silence_with_several_clips_and_lengths(model, items):
    (a, rate), (b, _) = (item.audio for item in items[-2:])
    sounds = [[(a[:8000], rate), (b[:16000], rate)], [(b[:12000], rate)]]
    prompt = model.prompt(["Which is louder?", "What may that be, in a word?"], audio=sounds)
    found, residuals = prefill_silence(model, prompt, [1], SilentPrefixes(), to_the_end=True)
    _, cache = model.run_with_cache(prompt.silenced())
    expected = cache["blocks.3.hook_resid_post"][:, -1], cache["blocks.1.hook_resid_post"][:, -1]
    torch.testing.assert_close((found.final, residuals[1]), expected, atol=1e-4, rtol=0)
