"""From a checkpoint folder or the hub: safetensors only, tensor by tensor, straight to the device."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm
from transformers import AutoProcessor, AutoTokenizer, Qwen2AudioConfig

from lens_audio.checkpoints.hf import assign
from lens_audio.checkpoints.qwen2_audio import ARCHITECTURE, hub_names, our_name
from lens_audio.config import AudioModelConfig
from lens_audio.model.audio_transformer import HookedAudioTransformer

WANTED_FILES = ["*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.*"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def load_pretrained(
    path_or_hub_id: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    revision: str | None = None,
    verbose: bool = True,
) -> HookedAudioTransformer:
    """Load a Qwen2-Audio checkpoint, such as `Qwen/Qwen2-Audio-7B-Instruct`.

    All names and shapes are checked before the first tensor is read. No pickle is opened and no
    remote code is run.

    Args:
        path_or_hub_id: a folder with config.json and *.safetensors (sharded or not), or a hub id.
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
    hf_config = read_config(folder)
    target = resolve_device(device)
    shards = find_shards(folder)
    cfg = AudioModelConfig.from_hf(hf_config, device=str(target))
    cfg.tie_word_embeddings = is_tied(hf_config, shards)
    with torch.device("meta"):
        model = HookedAudioTransformer(cfg)
    places = match_tensors(model, shards, hf_config)
    stored = read_tensors(shards, places, target, verbose)
    for name, tensor in stored:
        dtype = dtype or tensor.dtype
        assign(model, name, nn.Parameter(tensor.to(dtype)))
    if cfg.tie_word_embeddings:
        model.unembed.lm_head.weight = model.embed.W_E
    cfg.dtype = cfg.audio.dtype = dtype or torch.float32
    cfg.model_name = Path(path_or_hub_id).name
    eos = _read_json(folder / "generation_config.json").get("eos_token_id")
    if eos is not None:
        cfg.eos_token_ids = [eos] if isinstance(eos, int) else eos
    model.processor, tokenizer = read_processor(folder)
    model._tokenizer = tokenizer
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
        return Path(snapshot_download(name, revision=revision, allow_patterns=WANTED_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{name!r} is neither a folder nor a checkpoint that the hub could give: {error}"
        ) from error


def read_config(folder: Path) -> Qwen2AudioConfig:
    """The checkpoint's config, its architecture checked."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json, so it is no checkpoint")
    config = _read_json(folder / "config.json")
    architectures = config.get("architectures") or []
    if config.get("model_type") != "qwen2_audio" and ARCHITECTURE not in architectures:
        raise ValueError(
            f"{folder} holds a {architectures or config.get('model_type')!r}; lens_audio loads "
            f"{ARCHITECTURE}"
        )
    return Qwen2AudioConfig.from_dict(config)


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


def find_shards(folder: Path) -> list[Path]:
    """The single weight file, or those that the index names, or all there are."""
    if (folder / "model.safetensors").is_file():  # transformers looks there first, too
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(_read_json(index)["weight_map"].values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{folder} lacks the shards {missing} that its index names")
        return [folder / name for name in names]
    shards = sorted(folder.glob("*.safetensors"))
    if not shards:
        raise FileNotFoundError(
            f"{folder} has no *.safetensors (other formats are not read: they could run code)"
        )
    return shards


def is_tied(config: Any, shards: list[Path]) -> bool:
    """Whether the head is the embedding: so says the config, and no head of its own is stored."""
    says_so = (
        getattr(config, "tie_word_embeddings", False) or config.text_config.tie_word_embeddings
    )
    if not says_so:
        return False
    stored: list[str] = []
    for shard in shards:
        with _open(shard) as file:
            stored += file.keys()
    return "unembed.lm_head.weight" not in map(our_name, stored)


def match_tensors(model: nn.Module, shards: list[Path], config: Any) -> dict[str, str]:
    """Our name of every stored tensor, after checking names and shapes against the model."""
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    places: dict[str, str] = {}
    unknown, misshapen, twice, found_ours = [], [], [], set()
    for shard in shards:
        with _open(shard) as file:
            for stored in file.keys():  # noqa: SIM118 (no dictionary)
                ours, shape = our_name(stored), tuple(file.get_slice(stored).get_shape())
                if ours is None or ours not in expected:
                    unknown.append(stored)
                    continue
                if shape != expected[ours]:
                    misshapen.append(f"{stored} is {shape}, config.json makes it {expected[ours]}")
                elif ours in found_ours:
                    twice.append(stored)
                found_ours.add(ours)
                places[stored] = ours
    missing = sorted(set(expected) - found_ours)
    if missing:
        theirs = hub_names(config)
        missing = [theirs[name] for name in missing]
    problems = {
        "missing": missing,
        "unknown": unknown,
        "stored twice": twice,
        "of the wrong shape": misshapen,
    }
    found = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
    if found:
        raise ValueError(
            f"{shards[0].parent} does not fit its config.json. Tensors " + "; ".join(found)
        )
    return places


def read_tensors(
    shards: list[Path], places: dict[str, str], device: torch.device, verbose: bool
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor under our name, on the device."""
    bar = tqdm(total=len(places), desc="loading", unit="tensor", disable=not verbose, delay=1)
    with bar:
        for shard in shards:
            with _open(shard, str(device)) as file:
                for stored in file.keys():  # noqa: SIM118 (no dictionary)
                    if stored in places:
                        yield places[stored], file.get_tensor(stored)
                        bar.update()


def read_processor(folder: Path) -> tuple[Any, Any]:
    """Processor and tokenizer, or None for what has no files here."""
    tokenizer = processor = None
    if any((folder / name).is_file() for name in (*TOKENIZER_FILES, "vocab.json")):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if any((folder / name).is_file() for name in PROCESSOR_FILES):
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            tokenizer = processor.tokenizer
    return processor, tokenizer


def _open(shard: Path, device: str = "cpu") -> Any:
    try:
        return safe_open(shard, framework="pt", device=device)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{shard} cannot be read ({error}); it is truncated or not safetensors. Download it again"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
