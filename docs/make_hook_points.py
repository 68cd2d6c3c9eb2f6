"""Write docs/hook_points.md from the code: python docs/make_hook_points.py"""

from pathlib import Path

import torch

import lens_audio as la
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.config import AudioEncoderConfig, AudioModelConfig
from lens_audio.sites import is_by_clip

PAGE = Path(__file__).parent / "hook_points.md"

# Sizes that differ from each other, so that every number in a shape has one meaning.
NAMES = {
    1: "1", 2: "batch", 3: "audio", 19: "pos", 24: "d_model", 6: "n_heads", 4: "d_head",
    36: "d_mlp", 50: "d_vocab", 9: "n_mels", 32: "mel_frame", 16: "frame", 8: "token",
    30: "d_audio", 5: "audio_heads", 7: "audio_d_head", 40: "audio_d_mlp",
}  # fmt: skip
INTRO = """# Hook points

`python docs/make_hook_points.py` writes this page from a model's own activations. `{l}` is a layer.
Names, shapes and values in the decoder are those of HookedTransformer; `d_audio` is the encoder's
width.

With grouped-query attention, `hook_k`, `hook_v` and `hook_rot_k` have `kv_heads` heads; here there
are as many as `n_heads`. Scores and patterns exist only while a hook is attached to one of them.
"""
FLAGS = """
## Under a flag

| hook point | shape | switched on by |
|---|---|---|
| `blocks.{l}.attn.hook_result` | batch, pos, n_heads, d_model | `model.set_use_attn_result(True)` |
| `blocks.{l}.hook_q_input` | batch, pos, n_heads, d_model | `model.set_use_split_qkv_input(True)` |
| `blocks.{l}.hook_k_input`, `hook_v_input` | batch, pos, kv_heads, d_model | the same |
| `blocks.{l}.hook_attn_in` | batch, pos, n_heads, d_model | `model.set_use_attn_in(True)` |
| `blocks.{l}.hook_mlp_in` | batch, pos, d_model | `model.set_use_hook_mlp_in(True)` |
| `audio_projector.hook_pre`, `hook_post` | audio, token, d_hidden | `cfg.projector.d_hidden` |

Encoder blocks have the same hook points, switched on by `model.audio_encoder.set_use_…`.
"""


def model_and_prompt() -> tuple[HookedAudioTransformer, la.AudioPrompt]:
    audio = AudioEncoderConfig(
        d_model=30, d_head=7, n_heads=5, n_layers=1, n_ctx=16, d_mlp=40, n_mels=9
    )
    cfg = AudioModelConfig(
        d_model=24, d_head=4, n_heads=6, n_layers=1, n_ctx=64, d_mlp=36, d_vocab=50,
        audio=audio, audio_token_id=3,
    )  # fmt: skip
    tokens = torch.full((2, 19), 9)
    tokens[0, 1:9], tokens[1, 1:17] = 3, 3
    prompt = la.AudioPrompt.from_tensors(
        tokens, torch.randn(3, 9, 32), torch.tensor([32, 32, 32]), audio_token_id=3
    )
    return HookedAudioTransformer(cfg), prompt


def shape_of(name: str, shape: torch.Size) -> str:
    words = [NAMES[size] for size in shape]
    if name.endswith(("hook_pattern", "hook_attn_scores")):
        words[-2:] = ["query_" + words[-1], "key_" + words[-1]]
    return ", ".join(words)


def section(title: str, names: list[str], cache: dict[str, torch.Tensor]) -> str:
    rows = [
        f"| `{name.replace('blocks.0', 'blocks.{l}')}` | {shape_of(name, cache[name].shape)} |"
        for name in names
    ]
    return f"\n## {title}\n\n| hook point | shape |\n|---|---|\n" + "\n".join(rows) + "\n"


def page() -> str:
    model, prompt = model_and_prompt()
    _, cache = model.run_with_cache(prompt, return_cache_object=False)
    front = list(filter(is_by_clip, cache))
    decoder = [name for name in cache if name not in front]
    return (
        INTRO
        + section("Decoder", decoder, cache)
        + section("Audio front end", front, cache)
        + FLAGS
    )


if __name__ == "__main__":
    PAGE.write_text(page())
