"""All edges of a model: what they cost beside one forward and backward, in time and memory.

    python benchmarks/circuits.py

The 46 M model, random weights, 750 audio and 32 text tokens. Time and memory are those of one pair;
exact edge patching is timed on a sample of edges, against a whole forward with a hook for each.
"""

import argparse
import multiprocessing
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from measure import ratio_interval, side_by_side
from shapes import SHAPES, build, thirty_seconds

import lens_audio as la
from lens_audio.analysis import circuits
from lens_audio.analysis.circuits.exact import exact
from lens_audio.analysis.circuits.runs import PairRuns, plain
from lens_audio.analysis.metrics import logit_diff
from lens_audio.data import Pair

METRIC = logit_diff(5, 6)


def make(shape: str) -> tuple[la.HookedAudioTransformer, Pair]:
    """The model, and two recordings of the same length under one question."""
    sizes = SHAPES[shape]
    model = la.HookedAudioTransformer.from_hf(build(sizes, "cpu", torch.float32))
    clean = thirty_seconds(sizes, "cpu", torch.float32)
    generator = torch.Generator().manual_seed(2)
    mel = torch.randn(clean.mel.shape, generator=generator)
    corrupted = la.AudioPrompt.from_tensors(
        clean.tokens, mel, clean.mel_lengths, audio_mask=clean.audio_mask
    )
    return model, Pair(clean, corrupted)


def forward_and_backward(model: la.HookedAudioTransformer, pair: Pair) -> None:
    """The metric and its gradient to the embeddings that enter the decoder; no weight gets one."""
    with torch.no_grad():
        embed = model(pair.clean, stop_at_layer=0)
    embed.requires_grad_()
    value = METRIC(model(embed, start_at_layer=0, logits_to_keep=1)[:, -1])
    torch.autograd.grad(value.sum(), embed)


def training_step(model: la.HookedAudioTransformer, pair: Pair) -> None:
    """The metric and its gradient to every weight."""
    METRIC(model(pair.clean, logits_to_keep=1)[:, -1]).sum().backward()
    model.zero_grad()


def all_edges(model: la.HookedAudioTransformer, pair: Pair) -> None:
    circuits.edges(model, pair, METRIC)


RUNS: dict[str, Callable] = {
    "edges": all_edges,
    "forward and backward": forward_and_backward,
    "with the weights": training_step,
}


def resident(field: str) -> int:
    """Bytes of this process: "VmRSS" now, "VmHWM" at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure_peak(shape: str, name: str, queue: multiprocessing.Queue) -> None:
    """Of a process of its own: bytes before the run, and the peak of the process."""
    model, pair = make(shape)
    torch.set_num_threads(1)
    before = resident("VmRSS")
    RUNS[name](model, pair)
    queue.put((before, resident("VmHWM")))


def peaks(shape: str) -> dict[str, tuple[int, int]]:
    context = multiprocessing.get_context("spawn")
    found = {}
    for name in RUNS:
        queue = context.Queue()
        process = context.Process(target=measure_peak, args=(shape, name, queue))
        process.start()
        found[name] = queue.get()
        process.join()
    return found


def sample(n: int, nodes: circuits.Nodes) -> torch.Tensor:
    """Edges drawn at random."""
    every = nodes.is_edge.nonzero()
    generator = torch.Generator().manual_seed(3)
    chosen = every[torch.randperm(len(every), generator=generator)[:n]]
    wanted = torch.zeros_like(nodes.is_edge)
    wanted[chosen[:, 0], chosen[:, 1]] = True
    return wanted


@torch.no_grad()
def a_forward_an_edge(model: la.HookedAudioTransformer, pair: Pair, n: int) -> None:
    """What patching by hooks costs: a whole forward each, whatever is patched."""
    for _ in range(n):
        model.run_with_hooks(
            pair.clean, logits_to_keep=1, fwd_hooks=[("blocks.0.attn.hook_q", lambda q, hook: q)]
        )


def exact_sample(model: la.HookedAudioTransformer, pair: Pair, wanted: torch.Tensor) -> None:
    with plain(model):
        exact(PairRuns.of(model, pair, METRIC), wanted[..., None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="46M", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--edges", type=int, default=40, help="of the sample for exact patching")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, pair = make(args.shape)
    nodes = circuits.Nodes.of(model.cfg)
    print(f"{int(nodes.is_edge.sum())} edges, {pair.clean.tokens.shape[1]} tokens")
    times = side_by_side(
        {n: lambda run=run: run(model, pair) for n, run in RUNS.items()}, args.rounds
    )
    for name, seconds in times.items():
        line = f"{name:24}{statistics.median(seconds):7.2f} s"
        if name != "edges":
            line += "   edges take {:.2f} x [{:.2f}, {:.2f}]".format(
                *ratio_interval(times, "edges", name)
            )
        print(line, flush=True)
    found = peaks(args.shape)
    ours = found["edges"]
    for name, (before, peak) in found.items():
        line = f"{name:24}{peak / 2**20:7.0f} MiB at most, {(peak - before) / 2**20:.0f} over the model's"
        if name != "edges":
            grown = (ours[1] - ours[0]) / (peak - before)
            line += f"   edges take {ours[1] / peak:.2f} x, {grown:.2f} x of what is over"
        print(line, flush=True)
    wanted = sample(args.edges, nodes)
    runs = {
        "exact": lambda: exact_sample(model, pair, wanted),
        "by hooks": lambda: a_forward_an_edge(model, pair, args.edges),
    }
    times = side_by_side(runs, 1)
    for name, seconds in times.items():
        print(f"{args.edges} edges {name:12}{statistics.median(seconds):7.1f} s", flush=True)
    print("by hooks takes {:.1f} x".format(ratio_interval(times, "by hooks", "exact")[0]))


if __name__ == "__main__":
    main()
