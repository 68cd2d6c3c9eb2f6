"""The numbers that a figure draws: tensors, numpy arrays and pandas tables are all welcome."""

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

Array = Tensor | np.ndarray


def as_array(values: Any, *axes: str, dtype: Any = np.float32) -> Float[np.ndarray, "..."]:
    """Numbers as an array; missing ones of pandas are NaN.

    Args:
        values: a tensor on any device and of any dtype, an array, a pandas table or column, or
            nested lists.
        axes: what its axes must be, such as "layer", "head"; without any it may have any.
        dtype: float32 for what a page holds many of.

    Raises:
        ValueError: for other axes, or what are no numbers.
    """
    try:
        if isinstance(values, Tensor):
            array = values.detach().cpu().double().numpy().astype(dtype)
        elif hasattr(values, "to_numpy"):
            array = values.to_numpy(dtype=dtype, na_value=np.nan)
        else:
            array = np.asarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a {type(values).__name__} that holds no numbers: {error}") from error
    if axes and array.ndim != len(axes):
        raise ValueError(f"numbers of shape {list(array.shape)}; give [{', '.join(axes)}]")
    return array
