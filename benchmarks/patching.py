"""Patching sweeps: the fast engine against the naive one and a loop of TransformerBridge.

    python benchmarks/patching.py                          # 46 M parameters, 782 tokens, CPU
    python benchmarks/patching.py --shape 7B --device cuda --dtype bfloat16 --no-bridge

The slow engines run `--cells` cells spread over the sweep, all engines in turn, and their time is
scaled to the whole sweep. "cells" leaves out the clean and corrupted runs that every engine needs;
"total" has them.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from shapes import N_TEXT, SHAPES, Shape, boot_bridge, build, hf_inputs, thirty_seconds

import lens_audio as la
from lens_audio.analysis.patching import time_windows
from lens_audio.analysis.patching.cells import Grid, make_grid
from lens_audio.analysis.patching.fast import FastPatcher
from lens_audio.analysis.patching.naive import NaivePatcher
from lens_audio.analysis.patching.positions import sweep_masks
from lens_audio.sites import Site

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
    z, resid = Site.of("z"), Site.of("resid_pre")
    layers, heads = list(range(model.cfg.n_layers)), list(range(model.cfg.n_heads))
    last, _ = sweep_masks(z, "last", prompt, None)
    each = {str(p): [p] for p in range(length - TEXT_POSITIONS, length)}
    text, axis = sweep_masks(resid, each, prompt, None)
    windows = time_windows(prompt, 30.0 / WINDOWS)
    audio, _ = sweep_masks(resid, windows, prompt, None)
    return [
        Sweep("heads at the last position", 200, z, make_grid(last, None, layers, heads)),
        Sweep(
            f"layers x {len(text)} text positions",
            60,
            resid,
            make_grid(text, axis, layers, None),
        ),
        Sweep(
            f"layers x {len(audio)} audio windows",
            3,
            resid,
            make_grid(audio, axis, layers, None),
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
    names = {sweep.site.in_layer(cell.layer) for cell in sweep.grid.cells}
    inputs = hf_inputs(source)
    _, cache = bridge.run_with_cache(
        inputs.pop("input_ids"), names_filter=lambda name: name in names, **inputs
    )
    audio = hf_inputs(base)
    tokens = audio.pop("input_ids")

    def run(cells: Any) -> None:
        for cell in cells:
            name = sweep.site.in_layer(cell.layer)

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


def peak_of(run: Callable[[], Any], device: str) -> int:
    """Bytes by which the peak of memory grows while this runs; on a CPU, the first time only."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    before = resident()
    run()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def print_peak(model: Any, sweep: Sweep, prompts: tuple, device: str, whole: bool) -> None:
    """The peak of the base runs and their cache alone, or with the sweep."""

    def run() -> None:
        patcher = FastPatcher(model, sweep.site, *prompts, sweep.grid.cells)
        if whole:
            exhaust(patcher, sweep.grid.cells)

    print(peak_of(run, device))


def peaks(n_sweeps: int, names: list[str]) -> None:
    """A fresh process for every measurement: a peak cannot be reset on a CPU."""
    for i in range(n_sweeps):
        one, whole = (
            int(subprocess.check_output([sys.executable, *sys.argv, "--peak", str(i), what]))
            for what in ("base", "sweep")
        )
        print(f"{names[i]:30}peak memory {whole / one:.2f} x the base runs and their cache (aim 2)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="46M")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--cells", type=int, default=6, help="that the slow engines run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-bridge", action="store_true")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    shape, dtype = SHAPES[args.shape], getattr(torch, args.dtype)
    hf_model = build(shape, args.device, dtype)
    model = la.HookedAudioTransformer.from_hf(hf_model)
    bridge = None if args.no_bridge or args.peak else boot_bridge(hf_model, args.device, dtype)
    base = thirty_seconds(shape, args.device, dtype)
    other = torch.randn(base.mel.shape, generator=torch.Generator().manual_seed(2))
    source = replace(base, mel=other.to(base.mel))
    if args.peak:
        index, what = args.peak
        with torch.no_grad():
            sweep = sweeps(model, base)[int(index)]
            print_peak(model, sweep, (base, source), args.device, what == "sweep")
        return
    print(
        f"{args.shape} parameters, {base.tokens.shape[1]} tokens ({N_TEXT} text), {args.dtype} on "
        f"{args.device}, {torch.get_num_threads()} threads, {args.rounds} rounds, slow engines on "
        f"{args.cells} cells"
    )
    with torch.no_grad():
        for sweep in sweeps(model, base):
            measure(model, bridge, shape, sweep, (base, source), args)
    peaks(3, [sweep.name for sweep in sweeps(model, base)])


if __name__ == "__main__":
    main()
