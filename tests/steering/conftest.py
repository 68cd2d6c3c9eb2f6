"""The embedded checkpoint, ours and transformers', with a batch of conflict items."""

import pytest
import torch
from transformers import Qwen2AudioForConditionalGeneration

from lens_audio import AudioPrompt, HookedAudioTransformer, testbed
from lens_audio.analysis.dataset import LabelledItem, labelled

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def hf_model() -> Qwen2AudioForConditionalGeneration:
    return Qwen2AudioForConditionalGeneration.from_pretrained(testbed.checkpoint_dir()).eval()


@pytest.fixture(scope="session")
def model() -> HookedAudioTransformer:
    return HookedAudioTransformer.from_pretrained(testbed.checkpoint_dir(), device="cpu")


@pytest.fixture(scope="session")
def items() -> list[LabelledItem]:
    """Eight of each caption condition."""
    return [
        item
        for number, caption in enumerate(("none", "true", "false"))
        for item in labelled(testbed.make_items(8, 40 + number, caption=caption))
    ]


@pytest.fixture(scope="session")
def prompt(model: HookedAudioTransformer, items: list[LabelledItem]) -> AudioPrompt:
    """Three conflict items of different lengths, left-padded."""
    some = items[-3:]
    return model.prompt([i.question for i in some], audio=[i.audio for i in some])
