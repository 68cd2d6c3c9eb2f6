"""From a checkpoint folder or the hub, tensor by tensor, straight to the device."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from tqdm.auto import tqdm

from lens_audio.checkpoints import fields
from lens_audio.checkpoints.families import family_of
from lens_audio.checkpoints.family import Family, Json, read_json
from lens_audio.checkpoints.shards import find_shards, stored_shapes, stored_tensors
from lens_audio.checkpoints.tensors import DTYPES, assign, checked, match_tensors
from lens_audio.config import AudioModelConfig
from lens_audio.hub import SMALL_FILES, checkpoint_folder
from lens_audio.model import HookedTransformer

HEAD = "unembed.lm_head.weight"
Places = dict[Path, dict[str, tuple[str, ...]]]  # weight file, stored name, our names


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose config is right and whose weight files are there; no weight is read yet."""

    folder: Path
    config: Json  # config.json
    family: Family
    cfg: AudioModelConfig
    shapes: dict[Path, dict[str, tuple[int, ...]]]  # of each weight file, by stored name

    def match(self, model: nn.Module) -> Places:
        """Where the stored tensors go in a model of this config.

        Raises:
            ValueError: naming every tensor that is missing, unknown, stored twice or misshapen.
        """
        by_file = {str(shard): found for shard, found in self.shapes.items()}
        places = match_tensors(model, by_file, self.family, str(self.folder))
        return {Path(file): ours for file, ours in places.items()}

    @property
    def architecture(self) -> str:
        """As transformers calls it."""
        return self.family.architecture(self.config)

    def read_processor(self) -> tuple[Any, Any]:
        """The processor and the tokenizer; None where the folder lacks their files."""
        return self.family.read_processor(self.folder, self.cfg)


def open_checkpoint(
    path_or_hub_id: str | os.PathLike[str],
    revision: str | None = None,
    first_n_layers: int | None = None,
) -> Checkpoint:
    """Check a checkpoint as far as it goes without a model; raises what loading does.

    With `first_n_layers` it is one of so many layers of the decoder.
    """
    folder = resolve_folder(path_or_hub_id, revision)
    config = read_config_json(folder)
    family = family_of(config)
    cfg = read_config(folder, config, family)
    shapes = {shard: stored_shapes(shard) for shard in find_shards(folder)}
    is_head_stored = any(family.our_names(n) == (HEAD,) for names in shapes.values() for n in names)
    cfg.tie_word_embeddings = cfg.tie_word_embeddings and not is_head_stored
    if first_n_layers is not None:
        if not 1 <= first_n_layers <= cfg.n_layers:
            raise ValueError(f"first_n_layers={first_n_layers}; {folder} has {cfg.n_layers}")
        left_out = tuple(f"blocks.{layer}." for layer in range(first_n_layers, cfg.n_layers))
        for names in shapes.values():
            ours = {name: family.our_names(name) or () for name in names}
            for name in [name for name, to in ours.items() if to and to[0].startswith(left_out)]:
                del names[name]
        cfg.n_layers = first_n_layers
    return Checkpoint(folder, config, family, cfg, shapes)


def fill(
    model: HookedTransformer,
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype | str | None,
    verbose: bool,
) -> None:
    """Read the weights into a model without any, made from the checkpoint's `cfg`.

    Raises:
        ValueError: for tensors that do not fit the model, or one that is quantised, unreadable, or
            has NaN or infinite values; and for a dtype that the model cannot run in.
    """
    places, cfg = checkpoint.match(model), checkpoint.cfg
    if verbose and (left_out := parts_left_out(places)):
        tqdm.write(f"not read, as no part of this model: {left_out}", file=sys.stderr)
    wanted = resolve_dtype(dtype, checkpoint.config)
    in_float32 = checkpoint.family.float32
    for name, weight in read_tensors(places, model, device, wanted, verbose, in_float32):
        if name not in in_float32:
            cfg.dtype = cfg.audio.dtype = weight.dtype
        assign(model, name, nn.Parameter(weight))
    model.tie_weights()
    cfg.device = cfg.audio.device = str(device)


def parts_left_out(places: Places) -> str:
    """What a checkpoint holds beside the model, by the outermost names that tell it apart."""
    used = [name for ours in places.values() for name, to in ours.items() if to]
    counts: dict[str, int] = {}
    for name in (name for ours in places.values() for name, to in ours.items() if not to):
        pieces = name.split(".")
        prefixes = [".".join(pieces[:n]) for n in range(1, len(pieces) + 1)]
        part = next(p for p in prefixes if not any(one.startswith(f"{p}.") for one in used))
        counts[part] = counts.get(part, 0) + 1
    return ", ".join(f"{part} ({n} tensor{'s'[: n > 1]})" for part, n in counts.items())


def read_config(folder: Path, config: Json, family: Family) -> Any:
    """The sizes that config.json and generation_config.json give, each field checked."""
    path, generation_path = folder / "config.json", folder / "generation_config.json"
    generation = read_json(generation_path)
    fields.check_fields(generation, fields.GENERATION, str(generation_path))
    if quantised := config.get("quantization_config"):
        raise ValueError(
            f"{path} has a quantization_config ({quantised.get('quant_method')}): quantised weights "
            "are not supported. Use the checkpoint that they were made from"
        )
    return family.sizes(config, generation, str(path))


def resolve_dtype(dtype: torch.dtype | str | None, config: Json) -> torch.dtype | None:
    """What to load the weights as; None is as they are stored.

    Raises:
        ValueError: for a dtype that the model cannot run in.
    """
    if dtype == "auto":
        holders = [config, config.get("text_config") or {}]
        named = [holder.get(field) for holder in holders for field in ("dtype", "torch_dtype")]
        dtype = next((name for name in named if name not in (None, "auto")), None)
    if dtype is None:
        return None
    for name, known in DTYPES.items():
        if dtype in (name, known):
            return known
    raise ValueError(
        f"dtype cannot be {dtype!r}; it is 'auto', one of {', '.join(DTYPES)}, or None for as the "
        "weights are stored"
    )


def resolve_folder(path_or_hub_id: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The local folder of a checkpoint, downloaded if it is a hub id."""
    folder = checkpoint_folder(path_or_hub_id, ("*.safetensors", *SMALL_FILES), revision)
    if not any(folder.glob("*.safetensors")):
        checkpoint_folder(path_or_hub_id, ["pytorch_model*.bin"], revision)
    return folder


def read_config_json(folder: Path) -> Json:
    """The contents of the checkpoint's config.json."""
    path = folder / "config.json"
    if (folder / "adapter_config.json").is_file() and not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json but an adapter_config.json: it is an adapter, not a model. "
            "Load it with peft, merge it (merge_and_unload), and give the merged model to from_hf"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json, so it is no checkpoint")
    config = read_json(path)
    fields.check_fields(config, fields.COMMON, str(path))
    return config


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device, if this machine has it."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        present = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        reason = str(error).split("\n")[0]
        raise ValueError(f"no device {device!r} here ({reason}); present: {present}") from error
    return target


def read_tensors(
    places: Places,
    model: nn.Module,
    device: torch.device,
    dtype: torch.dtype | None,
    verbose: bool,
    in_float32: tuple[str, ...] = (),
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor under our name, on the device; the parts of a fused one share its memory.

    Without a dtype all are what the first is; but those of `in_float32` are always that.
    """
    n_tensors = sum(bool(names) for ours in places.values() for names in ours.values())
    bar = tqdm(total=n_tensors, desc="loading", unit="tensor", disable=not verbose, delay=1)
    with bar:
        for shard, ours in places.items():
            needed = {stored: names for stored, names in ours.items() if names}
            for stored, tensor in stored_tensors(shard, device, needed):
                names = needed[stored]
                kept = not {*names}.isdisjoint(in_float32)
                where = f"{stored} in {shard}"
                weight = checked(where, tensor, torch.float32 if kept else dtype)
                dtype = dtype or (None if kept else weight.dtype)
                sizes = [model.get_parameter(name).shape[0] for name in names]
                yield from zip(names, weight.split(sizes), strict=True)
                bar.update()
