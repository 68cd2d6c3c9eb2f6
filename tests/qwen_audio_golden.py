"""What Qwen-Audio's own reference code computed with a tiny random checkpoint.

`tests/data/qwen_audio_v1` holds the checkpoint, the inputs, the encoder's outputs and the logits
(`cases.safetensors`), and token ids of the real tokenizer (`tokenizer.json`).
"""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from lens_audio import AudioPrompt, HookedAudioTransformer

torch.set_num_threads(1)

FOLDER = Path(__file__).parent / "data" / "qwen_audio_v1"
CASES = ("short", "beyond_seq_length", "two_clips", "text", "text_long")
AUDIO_CASES = CASES[:3]
START, END, AUDIO_TOKEN = 390, 391, 392
SEQ_LENGTH = 64


@cache
def golden_model() -> HookedAudioTransformer:
    return HookedAudioTransformer.from_pretrained(FOLDER, device="cpu", verbose=False)


@cache
def golden_case(name: str) -> dict[str, Tensor]:
    """One case's tensors, by name."""
    tensors = load_file(FOLDER / "cases.safetensors")
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def golden_prompt(name: str) -> AudioPrompt:
    case = golden_case(name)
    tokens, mel = case["input_ids"], case.get("mel")
    lengths = None if mel is None else 2 * case["conv_frames"].reshape(-1)
    return AudioPrompt.from_tensors(tokens, mel, lengths, audio_token_id=AUDIO_TOKEN)


def golden_tokenizer() -> dict:
    return json.loads((FOLDER / "tokenizer.json").read_text())
