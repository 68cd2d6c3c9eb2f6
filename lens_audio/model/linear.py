"""Linear layers that read their weight once for all rows of a batch that generates on a CPU."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

FEW = range(2, 5)  # rows; of 8, some sizes are slower


class Linear(nn.Linear):
    """A linear layer that is fast for one position each of a few rows too, as in generation.

    BLAS may take x W^T of few rows for as many products of a matrix and a vector, and W x^T for
    one product of matrices: the same sums but for rounding, in a quarter to three quarters of the
    time where that was measured (`python benchmarks/few_rows.py`).
    """

    def forward(self, input: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """x W^T + b."""
        if torch.compiler.is_compiling() or not self._is_faster_at_once(input):
            return F.linear(input, self.weight, self.bias)
        out = torch.mm(self.weight, input[:, 0].t()).t()[:, None]
        return out if self.bias is None else out + self.bias

    def _is_faster_at_once(self, input: Float[Tensor, "*batch in"]) -> bool:
        """Not where a weight is quantised: such know one order of the product only."""
        if input.ndim != 3 or input.shape[1] != 1 or len(input) not in FEW:
            return False
        weight = self.weight
        return type(weight) is nn.Parameter and weight.is_cpu and weight.dtype == torch.float32
