"""What a model, a prompt, a recording, a data set and hook functions are, as facts that can be compared.

What is resumed is resumed only where these are the same. Facts are JSON, large things in them hashes
(SHA-256, its first 128 bits) of every byte, wherever it lies. What cannot be hashed, such as the code
of a metric, is for the caller to hold by its values.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lens_audio.config import ProjectorConfig

Function = TypeVar("Function", bound=Callable[..., Any])

DIGITS = 32  # of a hash, in hexadecimal
SHOWN = 120  # letters of a value that differs
WITHOUT_EFFECT = (
    "device",
    "model_name",
    "prompt_parts",
    "tokenizer_name",
)  # of a config: they change no number
# Of a config: fields that came later, with what all models had before. They count where they differ,
# so that what was begun without them is still resumed.
LATER = {
    "chunk_frames": None,
    "conv_channels": None,
    "conv_stride": 2,
    "float32_positions": False,
    "masks_padding": True,
    "max_windows": 1,
    "mel_per_window": None,
    "pool": 2,
    "projector": ProjectorConfig(),
    "rotary_dim": None,
    "stack": 1,
    "ungroup_grouped_query_attention": False,
    "use_qk_norm": False,
    "window_frames": None,
    "zeros_after_clip": False,
}


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {name: version(name) for name in ("lens_audio", "torch", "transformers")}


def of_model(model: Any) -> dict[str, str]:
    """Hashes of the weights and of the config, the same on every device and wherever it was loaded.

    Every byte of every parameter and buffer counts, with its name, shape and dtype. Weights that
    accelerate keeps on the CPU or the disk are read from there, one after another.

    Raises:
        ValueError: for a weight that is nowhere.
    """
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    # A tied weight is hashed once.
    names = {id(tensor): name for name, tensor in reversed(named)}
    unique = {id(tensor): tensor for _, tensor in named}
    hashes = _in_threads(lambda key: of_tensor(at_hand(model, names[key], unique[key])), unique)
    weights = {name: hashes[id(tensor)] for name, tensor in named}
    return {
        "weights": of_request(weights),
        "config": of_request(_config(getattr(model, "cfg", None))),
    }


def at_hand(model: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """A parameter or buffer, or where accelerate has put its numbers elsewhere, those.

    Raises:
        ValueError: for one that is nowhere.
    """
    if not tensor.is_meta:
        return tensor
    parts = name.split(".")
    for depth in reversed(range(len(parts))):
        module = model.get_submodule(".".join(parts[:depth]))
        outer = getattr(module, "_hf_hook", None)
        for hook in getattr(outer, "hooks", [outer]):
            stored = getattr(hook, "weights_map", None)
            with contextlib.suppress(KeyError):  # it holds others
                if stored is not None:
                    return stored[".".join(parts[depth:])]
    raise ValueError(f"the numbers of {name} are not in memory; load the model's weights first")


def _config(cfg: Any) -> Any:
    """A config's fields, those of configs in it too, without what changes no number."""
    if not dataclasses.is_dataclass(cfg):
        return as_json(cfg)
    fields = {name: x for name, x in vars(cfg).items() if name not in WITHOUT_EFFECT}
    return {name: _config(x) for name, x in fields.items() if name not in LATER or x != LATER[name]}


def of_processor(processor: Any) -> str | None:
    """A hash of what makes prompts: vocabulary, chat template, features."""
    if processor is None:
        return None
    tokenizer, extractor = processor.tokenizer, processor.feature_extractor
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    for left_by_the_last_call in ("padding", "truncation"):
        vocabulary.pop(left_by_the_last_call, None)
    return of_request(
        {
            "classes": [type(part).__qualname__ for part in (processor, tokenizer, extractor)],
            "vocabulary": vocabulary,
            "template": getattr(processor, "chat_template", None),
            "template of the tokenizer": getattr(tokenizer, "chat_template", None),
            "features": extractor.to_dict(),
        }
    )


def of_prompt(prompt: Any) -> dict[str, str]:
    """A hash of each tensor of a prompt: tokens, masks, features and their lengths, whole."""
    fields = {field.name: getattr(prompt, field.name) for field in dataclasses.fields(prompt)}
    return {name: of_tensor(x) for name, x in fields.items() if isinstance(x, Tensor)}


def of_items(items: Iterable[Any], matches: Callable[..., bool]) -> str:
    """A hash of all that a benchmark asks, what is right, and its recordings by content.

    Args:
        items: `AudioQAItem`s.
        matches: what judges an answer, told by its name alone.
    """
    return of_request(
        {
            "matches": f"{matches.__module__}.{matches.__qualname__}",
            "items": [
                [i.id, i.question, i.choices, i.answer, i.facts, of_recording(i.audio)]
                for i in items
            ],
        }
    )


def of_recording(audio: Any) -> str:
    """A hash of a recording: a file's bytes, or samples and rate.

    Args:
        audio: a path, a file's bytes or something whose `read()` gives them, a torchcodec decoder,
            (samples, rate), or samples.

    Returns:
        "unreadable" for a file that cannot be read.
    """
    try:
        if isinstance(audio, (str, Path)):
            with open(audio, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]
        if hasattr(audio, "seek"):  # an open file: whole, wherever it was read up to
            audio.seek(0)
        if hasattr(audio, "read"):
            audio = audio.read()
        if isinstance(audio, (bytes, bytearray, memoryview)):
            return hashlib.sha256(audio).hexdigest()[:DIGITS]
        if hasattr(audio, "get_all_samples"):  # torchcodec's decoder
            samples = audio.get_all_samples()
            audio = samples.data, samples.sample_rate
    except (OSError, ValueError):
        return "unreadable"
    if isinstance(audio, tuple):
        samples, rate = audio
        audio = np.asarray(samples), rate
    return of_request(audio)


def of_tensor(tensor: Tensor | np.ndarray) -> str:
    """A hash of dtype, shape and every byte as it lies in memory, whatever the device."""
    if isinstance(tensor, Tensor):
        tensor = tensor.detach()
        head = f"{tensor.dtype} {tuple(tensor.shape)}".removeprefix("torch.")
        # Bytes, because numpy knows no bfloat16.
        tensor = tensor.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
        array = tensor.view(torch.uint8).numpy()
    else:
        head = f"{tensor.dtype} {tuple(tensor.shape)}"
        array = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    digest = hashlib.sha256(head.encode())
    digest.update(array)  # type: ignore[arg-type]  # a buffer
    return digest.hexdigest()[:DIGITS]


def of_hooks(
    fwd_hooks: Iterable[tuple[Any, Callable[..., Any]]], facts: Mapping[str, Any] | None = None
) -> str:
    """A hash of `facts_of_hooks`."""
    return of_request(facts_of_hooks(fwd_hooks, facts))


def facts_of_hooks(
    fwd_hooks: Iterable[tuple[Any, Callable[..., Any]]], facts: Mapping[str, Any] | None = None
) -> list[Any]:
    """What each function of (hook name, function) pairs does, and where, as JSON holds it.

    Args:
        fwd_hooks: functions of `lens_audio.hooks` say what they do themselves.
        facts: what the others do: all that their effect depends on, tensors included.

    Raises:
        ValueError: for a function of which nothing is known.
    """
    told = []
    for where, function in fwd_hooks:
        name = where if isinstance(where, str) else _own_facts(where) or facts
        does = _own_facts(function) or facts
        if not name or not does:
            raise ValueError(
                f"what {getattr(function, '__qualname__', function)} at "
                f"{where if isinstance(where, str) else 'chosen hook points'} does is not known, so "
                "a run with it cannot be told from another and resumed. Give facts={...}: a name "
                "for it and every value that its effect depends on, tensors too, such as "
                "facts={'what': 'halve', 'factor': 0.5}; or use the functions of lens_audio.hooks"
            )
        told.append([as_json(name), as_json(does)])
    return told


def carrying(function: Function, **facts: Any) -> Function:
    """The function, with what it does as its attribute `facts`; tensors in it are hashed when asked."""
    function.facts = facts  # type: ignore[attr-defined]
    return function


def of_request(request: Any) -> str:
    """A hash of facts: of their JSON with sorted keys, tensors in it by `of_tensor`."""
    text = json.dumps(as_json(request), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def as_json(value: Any) -> Any:
    """Facts as JSON holds them; a tensor is its hash, and what has `facts` is those.

    Raises:
        ValueError: for what is known by its address in memory alone, such as a function.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, (Tensor, np.ndarray)):
        return of_tensor(value)
    if isinstance(value, SupportsIndex):
        return value.__index__()
    if isinstance(value, np.floating):
        return as_json(float(value))
    if isinstance(value, (torch.dtype, torch.device, Path)):
        return str(value)
    if isinstance(value, slice):
        return ["slice", *map(as_json, (value.start, value.stop, value.step))]
    own = _own_facts(value)
    if own is not None:
        return as_json(own)
    if hasattr(value, "items"):  # an ActivationCache, too
        return {str(name): as_json(part) for name, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, (set, frozenset)):
        return sorted(map(as_json, value))
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray)):
        return [as_json(part) for part in value]
    raise ValueError(
        f"{value!r} cannot be told from another {type(value).__name__} by its value; give numbers, "
        "texts, tensors, or lists and dictionaries of them"
    )


def differences(before: Mapping[str, Any], now: Mapping[str, Any], name: str = "") -> list[str]:
    """What differs between two requests, in words."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        label = f"{name} {key}".strip()
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, label)
        elif old != new:
            found.append(f"{label} was {_shown(old)} and is {_shown(new)}")
    return found


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _own_facts(value: Any) -> Any:
    facts = getattr(value, "facts", None)
    return facts() if callable(facts) else facts


def _in_threads(function: Callable[[Any], str], keys: Collection[Any]) -> dict[Any, str]:
    """The function of each key; hashing lets other threads run."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
        return dict(zip(keys, threads.map(function, keys), strict=True))
