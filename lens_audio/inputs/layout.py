"""Where the clips of a batch sit among its tokens."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lens_audio.config import AudioTiming


def expand_audio_tokens(
    tokens: Int[Tensor, "batch pos"],
    audio_mask: Bool[Tensor, "batch pos"],
    attention_mask: Bool[Tensor, "batch pos"],
    mel_lengths: Int[Tensor, " audio"],
    timing: AudioTiming | None = None,
) -> tuple[
    Int[Tensor, "batch expanded"], Bool[Tensor, "batch expanded"], Bool[Tensor, "batch expanded"]
]:
    """Older prompts, which hold one audio token a clip: repeats it to the clip's token count.

    `timing` is the model's `cfg.audio` (default: Qwen2-Audio's).
    Returns (tokens, audio_mask, attention_mask). Rows keep their padding side: right when a row
    of the batch ends in padding and none begins with it, else left. New padding takes the id of
    the padding that is there, or 0; it is masked either way.
    """
    n_tokens = int(audio_mask.sum())
    if n_tokens != len(mel_lengths):
        raise ValueError(
            f"{n_tokens} audio tokens and {len(mel_lengths)} clips: to be expanded, a prompt must "
            f"hold exactly one audio token for each clip."
        )
    repeats = torch.ones_like(tokens)
    repeats[audio_mask] = (timing or AudioTiming()).n_tokens(mel_lengths).to(repeats)
    is_padding = ~attention_mask
    pad_id = tokens[is_padding][0].item() if is_padding.any() else 0
    right = bool(is_padding[:, -1].any()) and not bool(is_padding[:, 0].any())
    length = int(repeats.sum(1).max())
    expanded = []
    for source, fill in ((tokens, pad_id), (audio_mask, False), (attention_mask, False)):
        out = source.new_full((len(tokens), length), fill)
        for row, (values, times) in enumerate(zip(source, repeats, strict=True)):
            values = values.repeat_interleave(times)
            out[row, slice(len(values)) if right else slice(length - len(values), None)] = values
        expanded.append(out)
    used = expanded[2].any(0)
    new_tokens, new_audio_mask, new_attention_mask = (tensor[:, used] for tensor in expanded)
    return new_tokens, new_audio_mask, new_attention_mask


def check_tokens(tokens: Tensor, attention_mask: Tensor | None, audio_mask: Tensor | None) -> None:
    """ValueError unless tokens are `[batch, pos]` ids and the masks, where given, fit them."""
    if tokens.ndim != 2 or tokens.numel() == 0:
        raise ValueError(
            f"tokens must be [batch, pos] and hold at least one token, not {list(tokens.shape)}."
        )
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"tokens must be integers, not {tokens.dtype}.")
    if tokens.min() < 0:
        raise ValueError(f"tokens must not be negative: the least is {tokens.min().item()}.")
    for name, mask in (("attention_mask", attention_mask), ("audio_mask", audio_mask)):
        if mask is None:
            continue
        if mask.shape != tokens.shape:
            raise ValueError(
                f"{name} has shape {list(mask.shape)} and tokens {list(tokens.shape)}: "
                f"they must agree."
            )
        if not ((mask == 0) | (mask == 1)).all():
            raise ValueError(f"{name} must hold only 0 and 1 (or be bool).")


def check_masks(
    attention_mask: Bool[Tensor, "batch pos"], audio_mask: Bool[Tensor, "batch pos"]
) -> None:
    """ValueError where a row is all padding or an audio token is masked as padding."""
    empty = torch.nonzero(~attention_mask.any(1)).flatten().tolist()
    if empty:
        raise ValueError(f"Rows {empty} are all padding: every row needs at least one real token.")
    hidden = torch.nonzero((audio_mask & ~attention_mask).any(1)).flatten().tolist()
    if hidden:
        raise ValueError(
            f"Rows {hidden} have audio tokens that attention_mask marks as padding: "
            f"set attention_mask to 1 there, or give the audio_mask."
        )


def check_mel(mel: Tensor | None, mel_lengths: Tensor | None, timing: AudioTiming) -> None:
    """ValueError unless mel is finite `[audio, mel, frame]` and mel_lengths `[audio]` fits it."""
    if (mel is None) != (mel_lengths is None):
        given, missing = ("mel", "mel_lengths") if mel_lengths is None else ("mel_lengths", "mel")
        raise ValueError(f"{given} is given without {missing}: give both, or neither for text.")
    if mel is None or mel_lengths is None:
        return
    if mel.ndim != 3 or not mel.is_floating_point() or mel.numel() == 0:
        raise ValueError(
            f"mel must be floats of shape [audio, mel, frame], not {mel.dtype} {list(mel.shape)}."
        )
    if not mel.isfinite().all():
        clips = torch.nonzero(~mel.isfinite().flatten(1).all(1)).flatten().tolist()
        raise ValueError(f"mel holds NaN or infinite values, in clips {clips}.")
    lengths = mel_lengths
    if lengths.shape != mel.shape[:1] or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(
            f"mel_lengths must be integers of shape [{len(mel)}], one a clip of mel, "
            f"not {lengths.dtype} {list(lengths.shape)}."
        )
    if lengths.min() < 1 or lengths.max() > mel.shape[2]:
        raise ValueError(
            f"mel_lengths must lie from 1 to mel's {mel.shape[2]} frames, not {lengths.tolist()}."
        )
    shortest = timing.min_mel_frames
    too_short = lengths < shortest
    if timing.mel_per_window is not None:  # the last window of a clip may make no token
        too_short[1:] &= lengths[:-1] != timing.mel_per_window
    if too_short.any():
        raise ValueError(
            f"Clips {torch.nonzero(too_short).flatten().tolist()} are too short to "
            f"make one audio token: at least {shortest} mel frames are needed."
        )
