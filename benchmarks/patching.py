"""Activation patching sweeps: our fast engine against our naive one and a loop of TransformerBridge.

    python benchmarks/patching.py                          # 46 M parameters, 782 tokens, CPU
    python benchmarks/patching.py --shape 7B --device cuda --dtype bfloat16 --no-bridge

The slow engines run `--cells` cells spread over the sweep, all engines in turn, and their time is
scaled to the whole sweep. "cells" leaves out the clean and corrupted runs that every engine needs;
"total" has them.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from shapes import N_TEXT, SHAPES, Shape, boot_bridge, build, hf_inputs, thirty_seconds

import lens_audio as la
from lens_audio.analysis.cells import Grid, Site, make_grid, position_masks
from lens_audio.analysis.fast_patching import FastPatcher
from lens_audio.analysis.patching import NaivePatcher, time_windows

TEXT_POSITIONS = 28  # those behind the audio
WINDOWS = 25


@dataclass
class Sweep:
    name: str
    aim: float
    site: Site
    grid: Grid


def sweeps(model: la.HookedAudioTransformer, prompt: la.AudioPrompt) -> list[Sweep]:
    """The three sweeps of the issue."""
    length = prompt.tokens.shape[1]
    z, resid = Site.of(model, "z"), Site.of(model, "resid_pre")
    last, _ = position_masks("last", prompt, [], length)
    each = {str(p): [p] for p in range(length - TEXT_POSITIONS, length)}
    text, axis = position_masks(each, prompt, [], length)
    windows = time_windows(prompt, 30.0 / WINDOWS)
    audio, _ = position_masks(windows, prompt, [], length)
    return [
        Sweep("heads at the last position", 200, z, make_grid(z, last, None, None, "each")),
        Sweep(
            f"layers x {len(text)} text positions",
            60,
            resid,
            make_grid(resid, text, axis, None, None),
        ),
        Sweep(
            f"layers x {len(audio)} audio windows",
            3,
            resid,
            make_grid(resid, audio, axis, None, None),
        ),
    ]


def cell_flops(shape: Shape, cells: Any, n_positions: int, site: Site) -> tuple[float, float]:
    """Floating-point operations of a sweep: (naive, fast), matrix products only."""
    per_token = 2 * (4 * shape.d_model**2 + 3 * shape.d_model * shape.d_mlp)
    frames, audio = 1500, shape.audio_d_model

    def attention(queries: float, keys: float, width: int) -> float:
        return 4 * queries * keys * width

    encoder = shape.audio_layers * (
        frames * 2 * 12 * audio**2 + attention(frames, frames, audio)
    ) + 2 * (3000 * 3 * 128 * audio + frames * 3 * audio**2)
    unembed = 2 * shape.d_model * shape.d_vocab
    whole = (
        encoder
        + unembed
        + shape.n_layers
        * (n_positions * per_token + attention(n_positions, n_positions / 2, shape.d_model))
    )
    fast = 0.0
    for cell in cells:
        first, layers = cell.first_position, shape.n_layers - cell.layer
        new = n_positions - first
        fast += unembed + layers * (
            new * per_token + attention(new, (first + n_positions) / 2, shape.d_model)
        )
    return whole * len(cells), fast


def bridge_runner(
    bridge: Any, sweep: Sweep, base: la.AudioPrompt, source: la.AudioPrompt
) -> Callable:
    """A loop of `run_with_hooks`, one cell a forward."""
    names = {sweep.site.hook_name(cell.layer) for cell in sweep.grid.cells}
    inputs = hf_inputs(source)
    _, cache = bridge.run_with_cache(
        inputs.pop("input_ids"), names_filter=lambda name: name in names, **inputs
    )
    audio = hf_inputs(base)
    tokens = audio.pop("input_ids")

    def run(cells: Any) -> None:
        for cell in cells:
            name = sweep.site.hook_name(cell.layer)

            def patch(
                x: torch.Tensor, hook: Any, cell: Any = cell, name: str = name
            ) -> torch.Tensor:
                x = x.clone()
                where = cell.positions[0].to(x.device)
                if cell.head is None:
                    x[:, where] = cache[name][:, where]
                else:
                    x[:, where, cell.head] = cache[name][:, where, cell.head]
                return x

            bridge.run_with_hooks(tokens, fwd_hooks=[(name, patch)], **audio)

    return run


def seconds(run: Callable[[], Any]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def exhaust(patcher: Any, cells: Any) -> None:
    for _ in patcher.run(cells):
        pass


def measure(model: Any, bridge: Any, shape: Shape, sweep: Sweep, prompts: tuple, args: Any) -> None:
    base, source = prompts
    cells = sweep.grid.cells
    sample = cells[:: max(1, len(cells) // args.cells)][: args.cells]
    scale = len(cells) / len(sample)
    fast = FastPatcher(model, sweep.site, base, source, cells)
    naive = NaivePatcher(model, sweep.site, base, source, cells)
    slow = {"naive": lambda: exhaust(naive, sample)}
    if bridge is not None:
        run = bridge_runner(bridge, sweep, base, source)
        slow["bridge"] = lambda: run(sample)
    exhaust(fast, sample)  # one turn that is not counted
    times: dict[str, list[float]] = {"fast": [], "base": [], **{name: [] for name in slow}}
    for _ in range(args.rounds):
        times["fast"].append(seconds(lambda: exhaust(fast, cells)))
        times["base"].append(seconds(lambda: FastPatcher(model, sweep.site, base, source, cells)))
        for name, run_sample in slow.items():
            times[name].append(scale * seconds(run_sample))
    median = {name: statistics.median(values) for name, values in times.items()}
    flops = cell_flops(shape, cells, base.tokens.shape[1], sweep.site)
    line = f"{sweep.name:30}{len(cells):6}{median['fast']:9.2f}s"
    for name in slow:
        ratio = statistics.median(a / b for a, b in zip(times[name], times["fast"], strict=True))
        total = (median[name] + median["base"]) / (median["fast"] + median["base"])
        line += f"   {name} {ratio:7.1f} x cells {total:6.1f} x total"
    print(f"{line}   operations {flops[0] / flops[1]:.0f} x, aim {sweep.aim:g} x", flush=True)


def peak_memory(model: Any, sweep: Sweep, prompts: tuple, device: str) -> str:
    """Peak of the sweep, base runs included, over one forward that keeps the same activations."""
    if not device.startswith("cuda"):
        return f"peak resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"

    def peak(run: Callable[[], Any]) -> int:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before

    base, source = prompts
    cells = sweep.grid.cells
    one = peak(lambda: FastPatcher(model, sweep.site, base, source, cells))
    whole = peak(lambda: exhaust(FastPatcher(model, sweep.site, base, source, cells), cells))
    return f"{sweep.name}: peak memory {whole / one:.2f} x the base runs and their cache"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="46M")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cells", type=int, default=6, help="that the slow engines run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-bridge", action="store_true")
    args = parser.parse_args()
    shape, dtype = SHAPES[args.shape], getattr(torch, args.dtype)
    hf_model = build(shape, args.device, dtype)
    model = la.HookedAudioTransformer.from_hf(hf_model)
    bridge = None if args.no_bridge else boot_bridge(hf_model, args.device, dtype)
    base = thirty_seconds(shape, args.device, dtype)
    other = torch.randn(base.mel.shape, generator=torch.Generator().manual_seed(2))
    source = replace(base, mel=other.to(base.mel))
    print(
        f"{args.shape} parameters, {base.tokens.shape[1]} tokens ({N_TEXT} text), {args.dtype} on "
        f"{args.device}, {torch.get_num_threads()} threads, {args.rounds} rounds, slow engines on "
        f"{args.cells} cells"
    )
    with torch.no_grad():
        for sweep in sweeps(model, base):
            measure(model, bridge, shape, sweep, (base, source), args)
        for sweep in sweeps(model, base):
            print(peak_memory(model, sweep, (base, source), args.device))


if __name__ == "__main__":
    main()
