"""This version's time over another's, turn by turn: `python benchmarks/versions.py ../before`.

The folder holds another version's `lens_audio/` (`git worktree add ../before COMMIT`). Both run the
same public calls on the same random weights of 46 M parameters and 30 s of audio, each in a process
of its own, and they take turns. The interval is of the median ratio over the rounds, by bootstrap.
"""

import argparse
import os
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
from measure import ratio, side_by_side

HERE = Path(__file__).resolve().parent
RUNS = (
    "forward",
    "forward, logits_to_keep=1",
    "run_with_cache, every resid_post",
    "generate 32 tokens",
    "sweep of heads at the last position",
    "sweep of resid_pre over text positions",
    "sweep of resid_pre over time windows",
)


def serve() -> None:
    """Do each run whose number is read from standard input; in the process of one version."""
    import torch
    from shapes import SHAPES, build, thirty_seconds

    import lens_audio as la

    torch.set_num_threads(1)
    shape = SHAPES["46M"]
    model = la.HookedAudioTransformer.from_hf(build(shape, "cpu", torch.float32))
    prompt = thirty_seconds(shape, "cpu", torch.float32)
    other = la.AudioPrompt.from_tensors(
        prompt.tokens, prompt.mel + 0.5, prompt.mel_lengths, audio_token_id=shape.d_vocab - 3
    )
    sweep = la.analysis.patching.sweep
    windows = la.analysis.patching.time_windows(prompt, 5)
    text = {str(position): [position] for position in range(755, 782, 3)}

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, 1] - logits[:, 2]

    patch = {"metric": metric, "verbose": False}
    runs = [
        lambda: model(prompt),
        lambda: model(prompt, logits_to_keep=1),
        lambda: model.run_with_cache(prompt, names_filter=lambda n: n.endswith("resid_post")),
        lambda: model.generate(prompt, 32, stop_at_eos=False, return_type="tokens", verbose=False),
        lambda: sweep(model, prompt, other, "z", positions="last", heads="each", **patch),
        lambda: sweep(model, prompt, other, "resid_pre", positions=text, **patch),
        lambda: sweep(
            model, prompt, other, "resid_pre", positions=windows, layers=range(0, 12, 3), **patch
        ),
    ]
    with torch.no_grad():
        for run in runs:
            run()
        print("ready", flush=True)
        for line in sys.stdin:
            runs[int(line)]()
            print("done", flush=True)


def start(folder: Path) -> subprocess.Popen:
    """A process that serves the version in this folder."""
    env = os.environ | {"PYTHONPATH": f"{folder.resolve()}{os.pathsep}{HERE}"}
    server = subprocess.Popen(
        [sys.executable, str(HERE / "versions.py"), "--serve"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
    )  # fmt: skip
    assert server.stdout is not None
    if server.stdout.readline().strip() != "ready":
        raise SystemExit(f"the version in {folder} did not start")
    return server


def run(server: subprocess.Popen, number: int) -> None:
    """Have one run done there."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{number}\n")
    server.stdin.flush()
    if not server.stdout.readline():
        raise SystemExit("a version's process ended")


def main() -> None:
    """Print the median ratio of every run, with its interval."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve()
    if args.before is None or not (args.before / "lens_audio").is_dir():
        raise SystemExit("give a folder that holds another version's lens_audio/")
    servers = {"now": start(HERE.parent), "before": start(args.before)}
    rng = np.random.default_rng(0)
    print(f"{'':40}{'now':>8}{'before':>9}{'ratio':>8}   [95 % interval of the median]")
    for number, name in enumerate(RUNS):
        times = side_by_side(
            {version: partial(run, server, number) for version, server in servers.items()},
            args.rounds,
        )
        ratios = np.array(times["now"]) / np.array(times["before"])
        drawn = np.median(rng.choice(ratios, (10_000, len(ratios))), axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        now, before = (statistics.median(times[version]) for version in ("now", "before"))
        line = f"{name:40}{now:7.2f}s{before:8.2f}s{ratio(times, 'now', 'before'):8.3f}"
        print(f"{line}   [{low:.3f}, {high:.3f}]", flush=True)
    for server in servers.values():
        server.terminate()


if __name__ == "__main__":
    main()
