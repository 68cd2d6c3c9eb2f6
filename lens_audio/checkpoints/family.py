"""A checkpoint family: all that sets one kind of checkpoint apart from another, as data."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers

from lens_audio.checkpoints.fields import Check, check_fields
from lens_audio.config import AudioModelConfig, PromptParts

Json = dict[str, Any]
DEEPEST = 64  # levels of lists and objects in a JSON file; a published config.json has four


@dataclass(frozen=True, kw_only=True)
class InTransformers:
    """Where transformers, without remote code, has a family: its classes, and paths of modules."""

    decoder: str  # what has `layers`
    encoder_blocks: str
    encoder_out: str
    projector: str
    classes: Any = transformers  # has a class by the name of every architecture
    # Architectures that hold a model of the family among others, and the attribute that is it.
    inside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Family:
    """How to read the sizes, the weights and the prompts of one kind of checkpoint.

    `names` maps a stored tensor's name to the model's. A `*` stands for any text, the same on both
    sides in order, and the first pattern that fits counts. Several names on the right are the parts
    of a fused tensor, stacked in its first dimension; none is a tensor that is not needed.
    """

    name: str  # as people call it
    architectures: tuple[str, ...]  # config.json names one of them; the first is the usual one
    model_types: tuple[str, ...]  # likewise
    # Of config.json and generation_config.json; of an encoder alone its own.
    read_config: Callable[[Json, Json], Any]
    read_processor: Callable[[Path, Any], tuple[Any, Any]]  # processor, tokenizer
    names: Mapping[str, str | tuple[str, ...]]  # on disk
    aliases: Mapping[str, str] = field(default_factory=dict)  # in memory: pattern, replacement
    fields: Mapping[str, Check] = field(default_factory=dict)  # of config.json, by dotted path
    float32: tuple[str, ...] = ()  # our names of what stays in float32 in a smaller dtype
    prompt_parts: PromptParts = field(default_factory=PromptParts)
    in_transformers: InTransformers | None = None  # None: only with remote code, which is not run

    def architecture(self, config: Json) -> str:
        """The architecture that a config.json of the family names, or else the usual one."""
        named = [name for name in architectures_of(config) if name in self.architectures]
        return (named or self.architectures)[0]

    def model_class(self, architecture: str) -> Any:
        """The transformers class of that name, if the family has one.

        Of an architecture that holds a model of the family among others it is that model's class.
        """
        if self.in_transformers is None or architecture not in self.architectures:
            return None
        if architecture in self.in_transformers.inside:
            architecture = self.architectures[0]
        return getattr(self.in_transformers.classes, architecture, None)

    def sizes(self, config: Json, generation: Json, where: str) -> Any:
        """The model's config, each field of the checkpoint's own checked.

        Args:
            config, generation: config.json and generation_config.json.
            where: what holds them, for the message.

        Raises:
            ValueError: naming the field that is missing or cannot be what it is.
        """
        check_fields(config, self.fields, where)
        try:
            cfg = self.read_config(config, generation)
        except KeyError as error:
            raise ValueError(f"{where} lacks {error}, a size of its model") from error
        except ValueError:
            raise
        except Exception as error:  # transformers' own configs raise whatever they like
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{where} is no config of a {self.architecture(config)}: {reason}"
            ) from error
        if isinstance(cfg, AudioModelConfig):
            cfg.prompt_parts = self.prompt_parts
        return cfg

    def our_names(self, stored: str) -> tuple[str, ...] | None:
        """The model's names for a stored tensor, one for each part of it; None if unknown."""
        for pattern, replacement in self.aliases.items():
            stored = re.sub(pattern, replacement, stored)
        for theirs, ours in self.names.items():
            parts = (ours,) if isinstance(ours, str) else ours
            found = _fill_in(stored, theirs, parts)
            if found is not None:
                return found
        return None

    def their_name(self, ours: str) -> str:
        """The stored tensor that a parameter of the model comes from."""
        for theirs, parts in self.names.items():
            for part in (parts,) if isinstance(parts, str) else parts:
                found = _fill_in(ours, part, (theirs,))
                if found is not None:
                    return found[0]
        return ours


def architectures_of(config: Json) -> list[str]:
    """What a config.json names as its "architectures": none, one or several."""
    found = config.get("architectures") or []
    return [found] if isinstance(found, str) else list(found)


def read_json(path: Path) -> Json:
    """A file's JSON object; an absent file's is empty.

    Raises:
        ValueError: for a file that holds no JSON object, or one nested too deeply.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    except RecursionError:
        raise ValueError(f"{path} is nested more than {DEEPEST} levels deep") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object, but {type(found).__name__}")
    for name, value in found.items():
        if _is_deeper(value, DEEPEST - 1):
            raise ValueError(f"{path}: {name} is nested more than {DEEPEST} levels deep")
    return found


def _is_deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deeper(item, levels - 1) for item in inner)


def _fill_in(name: str, pattern: str, templates: tuple[str, ...]) -> tuple[str, ...] | None:
    """The templates with the texts that the pattern's stars stand for; None if it does not fit."""
    match = re.fullmatch(re.escape(pattern).replace(r"\*", "(.+)"), name)
    if match is None:
        return None
    filled = []
    for template in templates:
        first, *pieces = template.split("*")
        stars = zip(match.groups(), pieces, strict=True)
        filled.append(first + "".join(text + piece for text, piece in stars))
    return tuple(filled)
