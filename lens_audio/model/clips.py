"""Which clips are of which row."""

from jaxtyping import Bool, Int
from torch import Tensor

from lens_audio.config import AudioTiming


def clips_by_row(
    audio_mask: Bool[Tensor, "batch pos"],
    mel_lengths: Int[Tensor, " audio"] | None,
    timing: AudioTiming,
) -> list[range]:
    """For each row, the range of its clips among all clips, which are flat in row order.

    Raises ValueError unless each row's audio tokens are made up exactly by whole clips in order.
    """
    counts = [] if mel_lengths is None else timing.n_tokens(mel_lengths).tolist()
    rows, clip = [], 0
    for row, wanted in enumerate(audio_mask.sum(1).tolist()):
        first, found = clip, 0
        while found < wanted and clip < len(counts):
            found, clip = found + counts[clip], clip + 1
        if found != wanted:
            raise ValueError(
                f"Row {row} holds {wanted} audio tokens, and its clips, from clip {first} on, make "
                f"{counts[first:clip]} = {found} ({_totals(audio_mask, counts)}). {_ADVICE}"
            )
        rows.append(range(first, clip))
    if clip != len(counts):
        raise ValueError(
            f"{len(counts) - clip} of the {len(counts)} clips have no audio tokens "
            f"({_totals(audio_mask, counts)}). {_ADVICE}"
        )
    return rows


_ADVICE = (
    "Give one mel (with its mel_lengths) for each clip of the prompt, in row order, and either one "
    "audio token a clip, which is expanded, or the clip's whole count (model.cfg.audio.n_tokens)."
)


def _totals(audio_mask: Bool[Tensor, "batch pos"], counts: list[int]) -> str:
    return f"in all: {int(audio_mask.sum())} audio tokens, {len(counts)} clips of {sum(counts)}"
