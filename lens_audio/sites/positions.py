"""Which positions: a group of tokens, numbers, a slice or a mask.

Numbers, slices and masks select positions of the prompt, negative ones counting from its end;
generated tokens are reached by "last", "generated", "all", or by selecting nothing at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from lens_audio.sites.site import Site

Positions = str | slice | SupportsIndex | Sequence[Any] | Tensor | None

GROUPS = ("all", "last", "audio", "text", "generated")


@dataclass(frozen=True)
class TokenSequence:
    """What positions are counted in: a prompt and what is generated after it."""

    n_prompt: int
    n_total: int
    attention_mask: Bool[Tensor, "#row total"] | None = None  # None: no padding
    audio_mask: Bool[Tensor, "#row prompt"] | None = None  # None: no audio
    is_told: bool = True  # whether it is known which tokens are which
    n_rows: int | None = None  # if known

    @classmethod
    def of(cls, prompt: Any) -> "TokenSequence":
        """Of an AudioPrompt, its masks on the CPU."""
        n_rows, length = prompt.tokens.shape
        masks = prompt.attention_mask.cpu(), prompt.audio_mask.cpu()
        return cls(length, length, *masks, n_rows=n_rows)

    @classmethod
    def untold(cls, length: int, n_rows: int | None = None) -> "TokenSequence":
        """Frames of clips, or positions of which nothing is known."""
        return cls(length, length, is_told=False, n_rows=n_rows)


def check_positions(positions: Any, site: Site) -> Positions:
    """Positions that can select something: a group, a slice, or a tensor of integers or a mask.

    Raises:
        ValueError: for an unknown group or one the site lacks, a selection of nothing, or what is
            no position.
    """
    if isinstance(positions, str):
        return _check_group(positions, site)
    if positions is None:
        return None
    if site.template == "hook_audio_embed":
        raise ValueError(
            "the activation at 'audio_embed' is by clip, so positions of the prompt select nothing there; "
            "give 'audio' for all of it, or select at 'embed', which has it at the audio positions"
        )
    if isinstance(positions, slice):
        return positions
    if isinstance(positions, Mapping):
        raise ValueError("a mapping of positions makes cells of a sweep; give one selection")
    try:
        tensor = torch.as_tensor(positions)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"positions must be one group of {', '.join(GROUPS)}, integers, a slice or a boolean "
            f"mask, not {positions!r}; a sweep takes several groups as a mapping"
        ) from None
    is_mask = tensor.dtype == torch.bool
    if tensor.numel() == 0 or (is_mask and not bool(tensor.any())):
        raise ValueError("an empty selection of positions; leave it out to mean all of them")
    if tensor.is_floating_point() or tensor.ndim not in ((1, 2) if is_mask else (0, 1)):
        raise ValueError(
            "positions must be integers, the same for all rows, or a boolean mask [pos] or "
            f"[batch, pos]; not {tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    return tensor


def _check_group(group: str, site: Site) -> str:
    if group not in GROUPS:
        each = "; 'each' makes cells of a sweep" if group == "each" else ""
        raise ValueError(
            f"no group of positions is called {group!r}; there are {', '.join(GROUPS)}{each}"
        )
    if site.template == "hook_audio_embed" and group == "audio":
        return "all"
    if site.is_audio and group != "all":
        raise ValueError(f"{site.template} is before the decoder; it has no {group!r} tokens")
    return group


def select(
    positions: Positions, sequence: TokenSequence, device: torch.device | str = "cpu"
) -> Bool[Tensor, "rows pos"]:
    """Which positions of the whole sequence are selected; one row may stand for all.

    Args:
        positions: as `check_positions` gives them.

    Raises:
        ValueError: for positions or rows outside the prompt, or a group that this model cannot tell.
    """
    if positions is None or isinstance(positions, str):
        return _group(positions or "all", sequence, device)
    mask = _in_prompt(positions, sequence.n_prompt, device)
    if sequence.n_rows is not None and len(mask) not in (1, sequence.n_rows):
        raise ValueError(f"a selection of {len(mask)} rows in a batch of {sequence.n_rows}")
    return F.pad(mask, (0, sequence.n_total - sequence.n_prompt))


def _in_prompt(
    positions: Any, n_prompt: int, device: torch.device | str
) -> Bool[Tensor, "rows pos"]:
    if isinstance(positions, Tensor) and positions.dtype == torch.bool:
        mask = torch.atleast_2d(positions).to(device)
        if mask.shape[1] != n_prompt:
            raise ValueError(f"a mask of {mask.shape[1]} positions for a sequence of {n_prompt}")
        return mask
    mask = torch.zeros(1, n_prompt, dtype=torch.bool, device=device)
    if isinstance(positions, slice):
        mask[:, positions] = True
        if not bool(mask.any()):
            raise ValueError(f"{positions} selects none of the {n_prompt} positions")
        return mask
    mask[:, _counted(positions, n_prompt).to(device)] = True
    return mask


def _counted(positions: Any, n_prompt: int) -> Int[Tensor, " n"]:
    """Numbers of positions counted from 0."""
    wanted = torch.as_tensor(positions).long().reshape(-1)
    outside = wanted[(wanted < -n_prompt) | (wanted >= n_prompt)]
    if len(outside):
        raise ValueError(
            f"position {int(outside[0])} does not exist: it is outside the sequence of {n_prompt} "
            "positions; generated tokens are selected by 'generated' or 'last'"
        )
    return wanted % n_prompt


def _group(
    group: str, sequence: TokenSequence, device: torch.device | str
) -> Bool[Tensor, "rows pos"]:
    """The whole sequence's positions in a token group."""
    places = torch.arange(sequence.n_total, device=device)[None]
    in_prompt = places < sequence.n_prompt
    if group == "all":
        return places >= 0
    given = sequence.attention_mask
    real = in_prompt | True if given is None else given.to(device)
    if group == "last":  # of the prompt, and every token after it
        return (places == last_positions(real & in_prompt)[:, None]) | ~in_prompt
    if not sequence.is_told:
        raise ValueError(
            f"this model does not tell which tokens are {group!r}; pass a mask, prompt.audio_mask"
        )
    if group == "generated":
        return ~in_prompt
    audio = torch.zeros_like(in_prompt)
    if sequence.audio_mask is not None:
        heard = sequence.audio_mask.to(device)
        audio = F.pad(heard, (0, sequence.n_total - heard.shape[1]))
    if group == "audio" and not bool(audio.any()):
        raise ValueError("positions='audio', but the input has no audio tokens")
    return audio if group == "audio" else ~audio & real & in_prompt


def last_positions(attention_mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, " batch"]:
    """The last real position of each row, padded on either side."""
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask * places).argmax(1)


def check_prompt_positions(positions: Any, site: Site) -> Positions:
    """`check_positions` where the prompt alone is run.

    Raises:
        ValueError: as `check_positions`, and for "generated".
    """
    if isinstance(positions, str) and positions == "generated":
        raise ValueError("'generated' selects nothing here: the prompt alone is run")
    return check_positions(positions, site)


def position_indices(
    positions: Any, prompt: Any, *, takes_padding: bool = True
) -> Int[Tensor, "rows n"]:
    """The selected positions of a prompt by row, one row where all select the same.

    Numbers are in the order given.

    Raises:
        ValueError: as `check_prompt_positions` and `select`, for rows that select different counts,
            and unless it `takes_padding` for positions at padding.
    """
    positions = check_prompt_positions(positions, Site.of("resid_pre"))
    sequence = TokenSequence.of(prompt)
    if isinstance(positions, Tensor) and positions.dtype != torch.bool:
        places = _counted(positions, sequence.n_prompt)[None]
    else:
        places = row_indices(select(positions, sequence))
    real = prompt.attention_mask.cpu()
    padded = ~real.gather(1, places.expand(len(real), -1)).all(1)
    if not takes_padding and bool(padded.any()):
        raise ValueError(
            f"{positions!r} is at padding in rows {padded.nonzero().flatten().tolist()}; pad on the "
            "other side, take 'last', or positions that every row has"
        )
    return places


def is_one_position(positions: Any) -> bool:
    """Whether it is one position a row by its spelling: "last", or a number."""
    if isinstance(positions, str):
        return positions == "last"
    return not isinstance(positions, slice | None) and torch.as_tensor(positions).ndim == 0


def row_indices(mask: Bool[Tensor, "rows pos"]) -> Int[Tensor, "rows n"]:
    """Where each row is true, in order.

    Raises:
        ValueError: for rows with different counts.
    """
    counts = set(mask.sum(1).tolist())
    if len(counts) > 1:
        raise ValueError("the rows select different numbers of positions; take them all")
    return mask.nonzero()[:, 1].reshape(len(mask), -1)
