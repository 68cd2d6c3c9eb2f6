"""The result of a sweep: values with named axes, as a tensor, a table, a figure or a file."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from lens_audio import files
from lens_audio.stats import N_RESAMPLES, mean_intervals


@dataclass
class PatchingResult:
    """What each patch does to each metric, for each example.

    `values` has the axes "metric", then those swept ("layer", "position" or "group", "head" or "neuron"),
    then "example"; `axes` names them in order with the labels of their entries.
    """

    values: Float[Tensor, "..."]
    axes: dict[str, list[str]]
    base: Float[Tensor, "metric example"]  # the metric of the run that is patched
    source: Float[Tensor, "metric example"]  # the metric of the run that patches come from
    about: dict[str, Any] = field(default_factory=dict)  # site, direction, model, …

    def __repr__(self) -> str:
        swept = " x ".join(
            f"{len(labels)} {name}s"
            for name, labels in self.axes.items()
            if name not in ("metric", "example")
        )
        site = self.about.get("site") or self.about.get("method", "patches")
        runs = ", ".join(
            f"{name} {float(base):.4g} -> {float(source):.4g}"
            for name, base, source in zip(
                self.metrics, self.base.mean(-1), self.source.mean(-1), strict=True
            )
        )
        n = self.values.shape[-1]
        examples = "1 example" if n == 1 else f"{n} examples"
        return f"PatchingResult({site}: {swept}, {examples}; {runs})"

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order of the first axis."""
        return self.axes["metric"]

    def mean(self, metric: str | None = None) -> Float[Tensor, "..."]:
        """One metric (the first by default), averaged over the examples."""
        return self._one(self.values, metric).mean(-1)

    def recovery(self, metric: str | None = None) -> Float[Tensor, "..."]:
        """(mean patched - mean base) / (mean source - mean base): 0 did nothing, 1 did everything.

        NaN, labelled undefined in tables, where base and source do not differ.
        """
        base = self._one(self.base, metric).mean(-1)
        source = self._one(self.source, metric).mean(-1)
        gap = torch.where(source == base, torch.nan, source - base)
        return (self.mean(metric) - base) / gap

    def interval(
        self,
        metric: str | None = None,
        confidence: float = 0.95,
        n_resamples: int = N_RESAMPLES,
        seed: int = 0,
    ) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
        """Bootstrap percentile interval of the mean over examples, for every cell.

        Raises:
            ValueError: with fewer than two examples.
        """
        values = self._one(self.values, metric)
        return mean_intervals(values, confidence, n_resamples, seed)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a cell, metric and example; `recovery` is that example's own."""
        index = pd.MultiIndex.from_product(self.axes.values(), names=list(self.axes))
        table = pd.DataFrame({"value": self.values.flatten().numpy()}, index=index).reset_index()
        shape = [len(self.metrics), *[1] * (self.values.ndim - 2), self.values.shape[-1]]
        base, source = self.base.reshape(shape), self.source.reshape(shape)
        gap = torch.where(source == base, torch.nan, source - base)
        table["recovery"] = ((self.values - base) / gap).flatten().numpy()
        for name in ("layer", "source layer", "target layer", "head", "neuron"):
            if name in table:
                table[name] = table[name].astype(int)
        return table

    def plot(self, metric: str | None = None, *, recovery: bool = False) -> Any:
        """A heatmap of one metric's change from the base run (or of its recovery)."""
        from lens_audio.plots.patching import patching_heatmap

        return patching_heatmap(self, metric, recovery=recovery)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one safetensors file, whole or not at all."""
        tensors = {"values": self.values, "base": self.base, "source": self.source}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        metadata = {"axes": json.dumps(self.axes), "about": json.dumps(self.about)}
        files.write_bytes(path, files.in_order(serialize(tensors, metadata)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PatchingResult":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: for no file, or another kind of file.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no saved sweep at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in ("values", "base", "source")}
                axes, about = json.loads(metadata["axes"]), json.loads(metadata["about"])
                if not isinstance(axes, dict) or not isinstance(about, dict):
                    raise TypeError("its axes or facts are no dictionary")
                return cls(**tensors, axes=axes, about=about)
        except Exception as error:
            raise ValueError(f"{path} is no saved sweep: {error}") from error

    def _one(self, values: Tensor, metric: str | None) -> Tensor:
        if metric is None:
            return values[0]
        if metric not in self.metrics:
            raise ValueError(f"no metric is called {metric!r}; there are {', '.join(self.metrics)}")
        return values[self.metrics.index(metric)]
