"""The first generation against its own reference code."""

import pytest
import torch
from qwen_audio_golden import (
    AUDIO_CASES,
    CASES,
    golden_case,
    golden_model,
    golden_prompt,
)

CLOSE = {"atol": 5e-4, "rtol": 0}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits(name):
    torch.testing.assert_close(
        golden_model()(golden_prompt(name)), golden_case(name)["logits"], **CLOSE
    )


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("name", AUDIO_CASES)
@torch.no_grad()
def test_what_stands_for_a_clip(name, hooked):
    """The encoder's output, between the embeddings of the clip's edges; hooks change nothing."""
    model, prompt, case = golden_model(), golden_prompt(name), golden_case(name)
    hooks = [("audio_encoder.hook_conv1", lambda x, hook: x)] if hooked else []
    with model.hooks(fwd_hooks=hooks):
        embedded = model(prompt, stop_at_layer=0)[0]
    expected = [case[key] for key in sorted(case) if key.startswith("audio_embed")]
    opens = (prompt.tokens[0] == 390).nonzero().flatten()
    for start, clip in zip(opens, expected, strict=True):
        torch.testing.assert_close(embedded[start : start + len(clip)], clip, **CLOSE)
