"""From a checkpoint folder or the hub, tensor by tensor, straight to the device."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn as nn
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tqdm.auto import tqdm

from lens_audio.checkpoints.families import family_of
from lens_audio.checkpoints.family import Family, Json, read_json
from lens_audio.checkpoints.hf import assign
from lens_audio.checkpoints.shards import find_shards, stored_shapes, stored_tensors
from lens_audio.model.audio_transformer import HookedAudioTransformer

WANTED_FILES = ["*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.*", "*.tiktoken"]
HEAD = "unembed.lm_head.weight"


def load_pretrained(
    path_or_hub_id: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    revision: str | None = None,
    verbose: bool = True,
) -> HookedAudioTransformer:
    """Load a checkpoint of one of the `FAMILIES`, such as `Qwen/Qwen2-Audio-7B-Instruct`.

    All names and shapes are checked before the first tensor is read. No remote code is run, and no
    pickle that holds anything but tensors is opened.

    Args:
        path_or_hub_id: a folder with config.json and *.safetensors or pytorch_model*.bin (sharded
            or not), or a hub id.
        device: by default the GPU if there is one.
        dtype: by default the one the weights are stored in.
        revision: the hub's branch, tag or commit.
        verbose: show a progress bar.

    Raises:
        FileNotFoundError: if there is no such folder or hub id, or no weights in it.
        ValueError: for another architecture, a device that does not exist, or a missing, extra,
            misshapen or unreadable tensor, each named.
    """
    folder = resolve_folder(path_or_hub_id, revision)
    config = read_config_json(folder)
    family = family_of(config)
    target = resolve_device(device)
    shards = find_shards(folder)
    shapes = {shard: stored_shapes(shard) for shard in shards}
    try:
        cfg = family.read_config(config, read_json(folder / "generation_config.json"))
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'} lacks {error}, a size of its model") from error
    is_head_stored = any(family.our_names(n) == (HEAD,) for names in shapes.values() for n in names)
    cfg.tie_word_embeddings = cfg.tie_word_embeddings and not is_head_stored
    with torch.device("meta"):
        model = HookedAudioTransformer(cfg)
    places = match_tensors(model, shapes, family)
    for name, tensor in read_tensors(model, places, target, verbose):
        dtype = dtype or tensor.dtype
        assign(model, name, nn.Parameter(tensor.to(dtype)))
    if cfg.tie_word_embeddings:
        model.unembed.lm_head.weight = model.embed.W_E
    cfg.dtype = cfg.audio.dtype = dtype or torch.float32
    cfg.device = cfg.audio.device = str(target)
    cfg.model_name = Path(path_or_hub_id).name
    model.processor, model.tokenizer = family.read_processor(folder, cfg)
    return model.eval()


def resolve_folder(path_or_hub_id: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The local folder of a checkpoint, downloaded if it is a hub id."""
    path = Path(path_or_hub_id).expanduser()
    if path.is_dir():
        return path
    name = os.fspath(path_or_hub_id)
    if path.exists():
        raise FileNotFoundError(f"{name} is a file; give the folder that holds config.json")
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=WANTED_FILES))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(name, revision=revision, allow_patterns=["pytorch_model*.bin"])
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{name!r} is neither a folder nor a checkpoint that the hub could give: {error}"
        ) from error


def read_config_json(folder: Path) -> Json:
    """The contents of the checkpoint's config.json."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json, so it is no checkpoint")
    return read_json(folder / "config.json")


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


Shapes = dict[Path, dict[str, tuple[int, ...]]]
Places = dict[Path, dict[str, tuple[str, ...]]]


def match_tensors(model: nn.Module, shapes: Shapes, family: Family) -> Places:
    """Our names for every stored tensor, after checking names and shapes against the model."""
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    places: Places = {shard: {} for shard in shapes}
    unknown, misshapen, twice = [], [], []
    found: set[str] = set()
    for shard, stored in shapes.items():
        for name, shape in stored.items():
            ours = family.our_names(name)
            if ours is None or not expected.keys() >= set(ours):
                unknown.append(name)
                continue
            parts = [expected[part] for part in ours]
            whole = (sum(part[0] for part in parts), *parts[0][1:]) if parts else shape
            if shape != whole:
                misshapen.append(f"{name} is {shape}, config.json makes it {whole}")
            elif found & set(ours):
                twice.append(name)
            found.update(ours)
            places[shard][name] = ours
    missing = {family.their_name(name): None for name in sorted(set(expected) - found)}
    problems = {
        "missing": list(missing),
        "unknown": unknown,
        "stored twice": twice,
        "of the wrong shape": misshapen,
    }
    said = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
    if said:
        folder = next(iter(shapes)).parent
        raise ValueError(f"{folder} does not fit its config.json. Tensors " + "; ".join(said))
    return places


def read_tensors(
    model: nn.Module, places: Places, device: torch.device, verbose: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor under our name, on the device; the parts of a fused one share its memory."""
    n_tensors = sum(map(len, places.values()))
    bar = tqdm(total=n_tensors, desc="loading", unit="tensor", disable=not verbose, delay=1)
    with bar:
        for shard, ours in places.items():
            for stored, tensor in stored_tensors(shard, device):
                names = ours[stored]
                if names:
                    sizes = [model.get_parameter(name).shape[0] for name in names]
                    yield from zip(names, tensor.split(sizes), strict=True)
                bar.update()


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
