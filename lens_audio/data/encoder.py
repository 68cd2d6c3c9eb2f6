"""The encoder's activations of many recordings, as one array."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.batches import as_clip, check_batch_size
from lens_audio.data.collect import collecting
from lens_audio.progress_bar import ProgressBar
from lens_audio.sites import Layers, Site


@torch.no_grad()
def encoder_activations(
    model: HookedAudioTransformer,
    clips: Sequence[Any],
    site: str = "resid_post",
    *,
    layers: Layers = None,
    every_frame: bool = False,
    batch_size: int = 8,
    verbose: bool = True,
) -> Float[np.ndarray, "clip layer *frame width"]:
    """What the encoder's blocks hold of each recording, in float32; the decoder does not run.

    By default the mean over a recording's own frames, [clip, layer, width], so recordings may
    differ in length. `every_frame=True` keeps the frames (20 ms each in Qwen-Audio),
    [clip, layer, frame, width] up to the longest recording, NaN after the end of a shorter one.
    Sites with heads end in [head, d_head] instead of a width.

    Args:
        clips: each as `model.prompt(audio=...)` takes it; an array goes with its rate, as (array, rate).
        site: of the encoder's blocks, such as "resid_pre", "mlp_post" or "z"; not patterns.
        layers: of the encoder, negative ones from the end; all by default.

    Raises:
        ValueError: for no clips, and for a site or layer that the encoder's blocks do not have.
    """
    check_batch_size(batch_size)
    if not len(clips):
        raise ValueError("give at least one clip")
    where = Site.of(site if site.startswith("audio_encoder.") else f"audio_encoder.{site}")
    if not where.is_in_blocks or where.is_pattern:
        raise ValueError(
            f"{site!r} has no frames of the encoder's blocks; take one such as 'resid_post'"
        )
    names = [where.in_layer(layer) for layer in where.layers(model.cfg, layers)]
    found: list[Tensor] = []
    with ProgressBar(
        total=len(clips), desc="encoding", unit="clip", disable=not verbose, delay=1, leave=False
    ) as bar:
        for start in range(0, len(clips), batch_size):
            batch = [as_clip(clip) for clip in clips[start : start + batch_size]]
            # The encoder does not read the question, but a prompt has one.
            prompt = model.prompt(["What do you hear?"] * len(batch), audio=batch)
            assert prompt.mel is not None
            assert prompt.mel_lengths is not None
            with collecting(model, names) as kept:
                model.audio_encoder(prompt.mel, prompt.mel_lengths)
            lengths = model.cfg.audio.n_frames(prompt.mel_lengths).tolist()
            for clip, n_frames in enumerate(lengths):
                own = torch.stack([kept[name][clip, :n_frames] for name in names]).float()
                found.append((own if every_frame else own.mean(1)).cpu())
            bar.update(len(batch))
    return (_padded(found) if every_frame else torch.stack(found)).numpy()


def _padded(found: Sequence[Float[Tensor, "layer _ *width"]]) -> Tensor:
    """[clip, layer, frame, …], NaN where a clip has ended."""
    n_layers, _, *width = found[0].shape
    longest = max(clip.shape[1] for clip in found)
    array = torch.full((len(found), n_layers, longest, *width), torch.nan)
    for row, clip in zip(array, found, strict=True):
        row[:, : clip.shape[1]] = clip
    return array
