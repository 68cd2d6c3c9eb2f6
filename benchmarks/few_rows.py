"""What a linear layer of few rows costs on a CPU, over torch's: `python benchmarks/few_rows.py`.

Of the shapes in a decoder of 46 M parameters (and of one of 7 B, `--shape 7B`), with more weights than
the caches hold. The seconds are those of torch's layer for a single row.
"""

import argparse
import statistics
from functools import partial

import torch
import torch.nn as nn
from measure import ratio_interval, side_by_side
from shapes import SHAPES

from lens_audio.model.linear import Linear

BEYOND_CACHES = 80e6  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="46M")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 5])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    sizes = [(shape.d_model, shape.d_model), (shape.d_model, shape.d_mlp)]
    sizes += [(shape.d_mlp, shape.d_model), (shape.d_model, shape.d_vocab)]
    print(
        f"{'in':>6}{'out':>7}{'torch, us':>11}{''.join(f'{n:>6} rows'.rjust(20) for n in args.rows)}"
    )
    with torch.inference_mode():
        for n_in, n_out in sizes:
            measure(n_in, n_out, args.rows, args.rounds)


def measure(n_in: int, n_out: int, rows: list[int], rounds: int) -> None:
    """Print the ratios of one size."""
    n_layers = max(1, int(BEYOND_CACHES // (4 * n_in * n_out)))
    ours, torchs = (
        [of(n_in, n_out, bias=False) for _ in range(n_layers)] for of in (Linear, nn.Linear)
    )
    for layer, other in zip(ours, torchs, strict=True):
        other.weight = layer.weight

    def run(layers: list[nn.Linear], x: torch.Tensor) -> None:
        for layer in layers:
            layer(x)

    shown, single = "", 0.0
    for n_rows in rows:
        x = torch.randn(n_rows, 1, n_in)
        runs = {"ours": partial(run, ours, x), "torch": partial(run, torchs, x)}
        times = side_by_side(runs, rounds)
        mid, low, high = ratio_interval(times, "ours", "torch")
        single = single or 1e6 * statistics.median(times["torch"]) / n_layers
        shown += f"{mid:.2f} [{low:.2f}, {high:.2f}]".rjust(20)
    print(f"{n_in:6}{n_out:7}{single:11.0f}{shown}", flush=True)


if __name__ == "__main__":
    main()
