"""From an in-memory transformers model, sharing its storage."""

import copy
from collections.abc import Sequence
from itertools import takewhile
from types import FunctionType
from typing import Any

import torch
import torch.nn as nn

from lens_audio.checkpoints import families
from lens_audio.checkpoints.family import Family
from lens_audio.checkpoints.tensors import DTYPES, assign, checked, match_tensors
from lens_audio.config import AudioModelConfig
from lens_audio.model import HookedTransformer

COMPUTES = {"forward", "__call__"}  # of a class, beside the methods that transformers gives it
MERGE = "merge it first: give from_hf what peft's merge_and_unload() returns"
DEQUANTISE = "give it what dequantize() returns, or load the model without a quantization_config"
WRAPPED_BY = {  # class of a wrapper, and the way to what is inside
    "Peft": MERGE,
    "OptimizedModule": "give it the model before torch.compile, which is its _orig_mod",
    "DataParallel": "give it the model inside, which is its .module",
    "DistributedDataParallel": "give it the model inside, which is its .module",
}


def model_inside(hf_model: Any) -> Any:
    """The model of a family that a larger one, such as the whole Qwen2.5-Omni, holds; else itself."""
    kind = type(hf_model).__name__
    for family in families.FAMILIES:
        if family.in_transformers is not None and kind in family.in_transformers.inside:
            return getattr(hf_model, family.in_transformers.inside[kind])
    return hf_model


def family_of_model(
    hf_model: nn.Module, table: Sequence[Family] | None = None
) -> tuple[Family, type[nn.Module]]:
    """The family of a transformers model, and the class of the family that it is or descends from.

    Args:
        table: the families to look among (default: `FAMILIES`).

    Raises:
        ValueError: for a model of another class.
    """
    table = families.FAMILIES if table is None else table
    for cls in type(hf_model).__mro__:
        for family in table:
            if family.model_class(cls.__name__) is cls:
                return family, cls
    kind = type(hf_model).__name__
    known = [f for f in table if f.in_transformers is not None]
    names = " or ".join(f"{family.name} ({', '.join(family.architectures)})" for family in known)
    ways = [f"; {way}" for name, way in WRAPPED_BY.items() if kind.startswith(name)]
    raise ValueError(f"expected a transformers {names}, not a {kind}{''.join(ways[:1])}")


def sizes_of(hf_model: Any) -> AudioModelConfig:
    """The sizes of a transformers model, whatever its weights are.

    Raises:
        ValueError: for a model of no family, and for sizes that no model can have.
    """
    family, cls = family_of_model(hf_model)
    generation = getattr(hf_model, "generation_config", None)
    cfg = family.sizes(
        hf_model.config.to_dict(),
        {} if generation is None else generation.to_dict(),
        f"the config of this {cls.__name__}",
    )
    cfg.model_name = hf_model.config.name_or_path or cfg.model_name
    return cfg


def read_config(hf_model: nn.Module) -> AudioModelConfig:
    """The sizes of a transformers model whose weights can be shared.

    Raises:
        ValueError: for another model, an adapter in it, and for weights that are offloaded,
            quantised, of several dtypes, or on several devices. Each is named, with the way out.
    """
    model: Any = hf_model
    family, _ = family_of_model(model)
    check_no_adapter(model)
    weight = check_weights(model, weights_of(model), family)
    cfg = sizes_of(model)
    cfg.device = cfg.audio.device = str(weight.device)
    cfg.dtype = cfg.audio.dtype = weight.dtype
    embedding = model.get_input_embeddings().weight
    cfg.tie_word_embeddings = model.get_output_embeddings().weight is embedding
    return cfg


def share_weights(hf_model: nn.Module, model: HookedTransformer) -> None:
    """Put the transformers model's own parameters into a model made from its `read_config`.

    Raises:
        ValueError: for tensors that do not fit, parts that compute something else than their weights
            alone say, and for NaN or infinite values.
    """
    family, cls = family_of_model(hf_model)
    weights = weights_of(hf_model)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    places = match_tensors(model, {"": shapes}, family, f"this {cls.__name__}")[""]
    check_parts(hf_model, cls)
    for name, parameter in weights.items():
        checked(name, parameter)
        ours = places[name]
        if len(ours) == 1:
            assign(model, ours[0], parameter)
        else:  # none, or the parts of a fused one, which share its memory
            sizes = [model.get_parameter(part).shape[0] for part in ours]
            for part, rows in zip(
                ours, parameter.detach().split(sizes) if ours else (), strict=True
            ):
                assign(model, part, nn.Parameter(rows))
    model.tie_weights()


def weights_of(hf_model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters by name; a tied head comes once, as the embedding."""
    return dict(hf_model.named_parameters())


def check_weights(
    hf_model: nn.Module, weights: dict[str, nn.Parameter], family: Family
) -> nn.Parameter:
    """Any of the weights, if all are plain tensors of one dtype in the memory of one device.

    What the family keeps in float32 may be just that.
    """
    quantised = getattr(hf_model.config, "quantization_config", None)
    if quantised is not None:
        known = quantised if isinstance(quantised, dict) else vars(quantised)
        raise ValueError(
            f"this model is quantised ({known.get('quant_method')}), which from_hf does not "
            f"support: {DEQUANTISE}"
        )
    for name, weight in weights.items():
        dtype = str(weight.dtype).removeprefix("torch.")
        if weight.is_meta:
            raise ValueError(
                f"{name} is on the meta device: this model is offloaded or was never filled, and "
                "from_hf shares weights that are in memory. Load it without device_map, or give its "
                "folder to from_pretrained"
            )
        if weight.dtype not in DTYPES.values() or type(weight) is not nn.Parameter:
            raise ValueError(
                f"{name} is a {type(weight).__name__} of {dtype}: quantised or distributed weights "
                f"are not supported. If they are quantised, {DEQUANTISE}"
            )
    kept = {name for name in weights if set(family.our_names(name) or ()) & set(family.float32)}
    ours = {name: weight for name, weight in weights.items() if name not in kept}
    dtypes = sorted({str(weight.dtype).removeprefix("torch.") for weight in ours.values()})
    if len(dtypes) > 1:
        raise ValueError(
            f"this model's weights are {' and '.join(dtypes)}; make them one, for example with "
            "hf_model.to(torch.bfloat16)"
        )
    devices = sorted({str(weight.device) for weight in weights.values()})
    if len(devices) > 1:
        raise ValueError(
            f"this model is spread over {', '.join(devices)}, and from_hf needs it in one place. "
            "Load it without device_map"
        )
    return next(iter(ours.values()))


def check_no_adapter(hf_model: nn.Module) -> None:
    """Refuse adapters, which no part of ours is."""
    for name, module in hf_model.named_modules():
        if hasattr(module, "base_layer") or hasattr(module, "lora_A"):
            raise ValueError(
                f"{name} holds an adapter ({type(module).__name__}), which is no part of its weight: "
                f"{MERGE}"
            )


def check_parts(hf_model: Any, cls: type[nn.Module]) -> None:
    """Every part computes what the same part of a model that the class builds does."""
    config = copy.deepcopy(hf_model.config)
    config._attn_implementation = "eager"  # whichever it is computes the same
    with torch.device("meta"):
        reference = cls(config)
    theirs = dict(hf_model.named_modules())
    for name, module in reference.named_modules():
        problem = _differs(theirs.get(name), type(module))
        if problem:
            what = f"{name} of this model" if name else "this model"
            raise ValueError(
                f"{what} may compute something else than transformers' {type(module).__name__}: "
                f"{problem}, which from_hf would not follow. If the result is the same, put the "
                f"weights into a plain {cls.__name__} (load_state_dict) and give it that"
            )


def _differs(module: nn.Module | None, expected: type[nn.Module]) -> str | None:
    """What a module computes in its own way; None if it computes what the class does."""
    found = type(module)
    if module is None or not issubclass(found, expected):
        return f"it is a {found.__name__}, no {expected.__name__}"
    methods = {name for name, value in vars(expected).items() if isinstance(value, FunctionType)}
    computes = COMPUTES | methods - {"__init__"}
    added = takewhile(lambda cls: cls is not expected, found.__mro__)
    overridden = sorted(computes & {name for cls in added for name in vars(cls)})
    if overridden:
        return f"{found.__name__} overrides {', '.join(overridden)}"
    forward = vars(module).get("forward")
    if forward is not None and not _is_of_class(forward, module):
        return "it has a forward of its own"
    return None


def _is_of_class(forward: Any, module: nn.Module) -> bool:
    """Whether an instance's forward is only its class's, wrapped by torch.compile or accelerate."""
    if hasattr(module, "_hf_hook"):  # accelerate's, which moves inputs
        forward = vars(module).get("_old_forward", forward)
    forward = getattr(forward, "_torchdynamo_orig_callable", forward)
    return getattr(forward, "__func__", None) is type(module).forward
