"""Write docs/hook_points.md from the code: python docs/make_hook_points.py"""

from pathlib import Path

import torch

import lens_audio as la
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.config import AudioEncoderConfig, AudioModelConfig, ProjectorConfig
from lens_audio.sites import is_by_clip

PAGE = Path(__file__).parent / "hook_points.md"

# Sizes that differ from each other, so that every number in a shape has one meaning.
NAMES = {
    1: "1", 2: "batch", 3: "audio", 19: "pos", 24: "d_model", 6: "n_heads", 4: "d_head",
    36: "d_mlp", 50: "d_vocab", 9: "n_mels", 32: "mel_frame", 16: "frame", 8: "token",
    30: "d_audio", 5: "audio_heads", 7: "audio_d_head", 40: "audio_d_mlp",
}  # fmt: skip
MORE_NAMES = NAMES | {
    37: "pos", 88: "n_mels", 104: "mel_frame", 21: "channel", 33: "d_hidden",
    52: "mel_frame / 2", 26: "mel_frame / 4", 13: "frame",
    44: "n_mels / 2", 22: "n_mels / 4", 11: "n_mels / 8",
}  # fmt: skip
# What a field of the config adds, by the beginning of the hook points' names.
WHERE = {
    "blocks.0.attn.": "`cfg.use_qk_norm`: Qwen3-ASR",
    "audio_encoder.hook_conv": "`cfg.audio.conv_channels`, in place of `hook_conv1`, `hook_conv2`: AuT",
    "audio_encoder.blocks.0.attn.": '`cfg.audio.positional_embedding_type` "rotary": GLM-ASR',
    "audio_projector.": "`cfg.projector.d_hidden`: the Flamingos, Voxtral, GLM-ASR, Qwen3-ASR",
}
INTRO = """# Hook points

Written by `python docs/make_hook_points.py` from a model's own activations. `{l}` is a layer.
Names, shapes and values in the decoder are HookedTransformer's; `d_audio` is the encoder's width.

With grouped keys, `hook_k`, `hook_v`, `hook_rot_k` and those of `k_norm` have `kv_heads` heads; here
there are as many as `n_heads`. Scores and patterns exist only while a hook is attached to one of them.
"""
NOTES = """
"audio" counts spectrograms: a clip of several windows has one for each. `audio_encoder.hook_conv1` to
`hook_conv3` are after GELU; where a spectrogram is read in chunks, their frames stand one chunk behind
the other. With `cfg.audio.stack`, so many of the encoder's outputs stand side by side in one token:
`audio_projector.hook_in` is `stack * d_audio` wide there. There is no `hook_pos_embed` where positions
are rotary.
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

Encoder blocks have the same ones, switched on by `model.audio_encoder.set_use_…`.
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


def model_with_more() -> tuple[HookedAudioTransformer, la.AudioPrompt]:
    """With every hook point that a field of the config adds, as no one family has them."""
    audio = AudioEncoderConfig(
        d_model=30, d_head=7, n_heads=5, n_layers=1, n_ctx=13, d_mlp=40, n_mels=88,
        conv_channels=21, conv_stride=8, chunk_frames=104, pool=1,
        positional_embedding_type="rotary", rotary_dim=6,
    )  # fmt: skip
    cfg = AudioModelConfig(
        d_model=24, d_head=4, n_heads=6, n_layers=1, n_ctx=64, d_mlp=36, d_vocab=50,
        audio=audio, audio_token_id=3, use_qk_norm=True, projector=ProjectorConfig(d_hidden=33),
    )  # fmt: skip
    tokens = torch.full((2, 37), 9)
    tokens[0, 1:14], tokens[1, 1:27] = 3, 3
    prompt = la.AudioPrompt.from_tensors(
        tokens, torch.randn(3, 88, 104), torch.tensor([104] * 3), audio_token_id=3, cfg=cfg
    )
    return HookedAudioTransformer(cfg), prompt


def shape_of(name: str, shape: torch.Size, names: dict[int, str] = NAMES) -> str:
    words = [names[size] for size in shape]
    if name.startswith("audio_projector"):
        words[1] = "token"
    if name.endswith(("hook_pattern", "hook_attn_scores")):
        words[-2:] = ["query_" + words[-1], "key_" + words[-1]]
    return ", ".join(words)


def section(title: str, names: list[str], cache: dict[str, torch.Tensor]) -> str:
    rows = [
        f"| `{name.replace('blocks.0', 'blocks.{l}')}` | {shape_of(name, cache[name].shape)} |"
        for name in names
    ]
    return f"\n## {title}\n\n| hook point | shape |\n|---|---|\n" + "\n".join(rows) + "\n"


def added(known: dict[str, torch.Tensor]) -> str:
    """The section of what fields of the config add to, or change in, what every model has."""
    model, prompt = model_with_more()
    _, cache = model.run_with_cache(prompt, return_cache_object=False)
    text = "\n## Where the config says so\n\n| hook point | shape | where |\n|---|---|---|\n"
    for name, activation in cache.items():
        where = next((w for start, w in WHERE.items() if name.startswith(start)), None)
        if where and (name not in known or activation.ndim != known[name].ndim):
            shape = shape_of(name, activation.shape, MORE_NAMES)
            text += f"| `{name.replace('blocks.0', 'blocks.{l}')}` | {shape} | {where} |\n"
    return text + NOTES


def page() -> str:
    model, prompt = model_and_prompt()
    _, cache = model.run_with_cache(prompt, return_cache_object=False)
    front = list(filter(is_by_clip, cache))
    decoder = [name for name in cache if name not in front]
    return (
        INTRO
        + section("Decoder", decoder, cache)
        + section("Audio front end", front, cache)
        + added(cache)
        + FLAGS
    )


if __name__ == "__main__":
    PAGE.write_text(page())
