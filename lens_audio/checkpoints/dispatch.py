"""A model over several devices, by accelerate: for one that no single card holds."""

from typing import Any, TypeVar

import torch.nn as nn

Model = TypeVar("Model", bound=nn.Module)
WHOLE = [
    "TransformerBlock"
]  # of the decoder and the encoder: a residual stream stays on one device


def dispatch(model: Model, device_map: Any = "auto", **options: Any) -> Model:
    """Spread a model that lies on the CPU over the GPUs, and what does not fit over CPU and disk.

    Args:
        device_map: "auto", or a device for each module, as accelerate takes it.
        options: of `accelerate.dispatch_model`, such as `offload_dir`.

    Raises:
        ValueError: for another text than "auto".
    """
    from accelerate import dispatch_model, infer_auto_device_map

    if isinstance(device_map, str):
        if device_map != "auto":
            raise ValueError(f"device_map must be 'auto' or a dictionary, not {device_map!r}")
        device_map = infer_auto_device_map(model, no_split_module_classes=WHOLE)
    return dispatch_model(model, device_map, **options)
