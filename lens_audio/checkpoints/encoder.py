"""The encoder of a checkpoint, without the rest: of Whisper, or of a model of the `FAMILIES`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn as nn

from lens_audio.checkpoints import families, hf
from lens_audio.checkpoints.family import Family
from lens_audio.checkpoints.pretrained import (
    read_config,
    read_config_json,
    read_tensors,
    resolve_dtype,
    resolve_folder,
)
from lens_audio.checkpoints.shards import find_shards, stored_shapes
from lens_audio.checkpoints.tensors import assign, checked, match_tensors
from lens_audio.config import AudioEncoderConfig, AudioModelConfig

ROOM = "audio_encoder"
Stored = TypeVar("Stored")


def open_encoder(
    path_or_hub_id: str | os.PathLike[str], revision: str | None
) -> tuple[Path, dict[str, Any], Family, AudioModelConfig | AudioEncoderConfig]:
    """A checkpoint's folder, its config.json, its family, and its sizes (`encoder_cfg`).

    Raises:
        FileNotFoundError, ValueError: as `from_pretrained` of the whole model.
    """
    folder = resolve_folder(path_or_hub_id, revision)
    config = read_config_json(folder)
    family = families.family_of(config, [*families.ENCODERS, *families.FAMILIES])
    return folder, config, family, read_config(folder, config, family)


def fill_encoder(
    encoder: nn.Module,
    folder: Path,
    config: dict[str, Any],
    family: Family,
    device: torch.device,
    dtype: torch.dtype | str | None,
    verbose: bool,
) -> None:
    """Read the encoder's tensors, and no others, into an encoder on the meta device."""
    alone = as_part(encoder)
    shapes = {str(shard): of_encoder(stored_shapes(shard), family) for shard in find_shards(folder)}
    places = match_tensors(alone, shapes, family, str(folder))
    by_file = {Path(file): ours for file, ours in places.items()}
    wanted = resolve_dtype(dtype, config)
    for name, weight in read_tensors(by_file, alone, device, wanted, verbose, family.float32):
        assign(alone, name, nn.Parameter(weight))


def encoder_in_hf(hf_model: nn.Module) -> tuple[Family, AudioEncoderConfig]:
    """The family of a transformers model, and its encoder's sizes.

    Raises:
        ValueError: as `from_hf` of the whole model.
    """
    family, cls = hf.family_of_model(hf_model, [*families.ENCODERS, *families.FAMILIES])
    hf.check_no_adapter(hf_model)
    weight = hf.check_weights(hf_model, hf.weights_of(hf_model), family)
    model: Any = hf_model
    cfg = encoder_cfg(
        family.sizes(model.config.to_dict(), {}, f"the config of this {cls.__name__}")
    )
    cfg.device, cfg.dtype = str(weight.device), weight.dtype
    return family, cfg


def share_encoder(hf_model: nn.Module, family: Family, encoder: nn.Module) -> None:
    """Put the transformers model's own parameters into an encoder of its sizes."""
    _, cls = hf.family_of_model(hf_model, [family])
    alone, weights = as_part(encoder), of_encoder(hf.weights_of(hf_model), family)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    places = match_tensors(alone, {"": shapes}, family, f"this {cls.__name__}")[""]
    hf.check_parts(hf_model, cls)
    for name, parameter in weights.items():
        checked(name, parameter)
        assign(alone, places[name][0], parameter)


def as_part(encoder: nn.Module) -> nn.Module:
    """What stands for the whole model, in which the encoder's parameters have their names."""
    return nn.ModuleDict({ROOM: encoder})


def of_encoder(stored: Mapping[str, Stored], family: Family) -> dict[str, Stored]:
    """Those of the stored tensors that are the encoder's, or unknown to the family."""

    def is_wanted(name: str) -> bool:
        ours = family.our_names(name)
        return ours is None or any(part.startswith(f"{ROOM}.") for part in ours)

    return {name: tensor for name, tensor in stored.items() if is_wanted(name)}


def encoder_cfg(cfg: AudioModelConfig | AudioEncoderConfig) -> AudioEncoderConfig:
    """Of a model's sizes its encoder's."""
    return cfg.audio if isinstance(cfg, AudioModelConfig) else cfg
