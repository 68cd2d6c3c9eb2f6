"""Items a second of a benchmark run as the model is, and steered too in the same run.

    python benchmarks/mmau_throughput.py                  # embedded checkpoint, and 46 M parameters
    python benchmarks/mmau_throughput.py --shape 7B --device cuda --dtype bfloat16 --workers 8

Both take turns; `time` is the median over the rounds of the ratio to base alone, and `operations` the
same of floating-point operations, which no other work on the machine disturbs. Steering reads silence up to
the deepest specialist: `half` and `last` say how deep that is. `waiting` is the share of the time in
which the model waited for recordings to be decoded and made into features.
"""

import argparse
import statistics
import tempfile
from contextlib import nullcontext

import numpy as np
import torch
from lens_audio.evals.prompts import wording
from shapes import SHAPES, build, build_processor
from torch.utils.flop_counter import FlopCounterMode

import lens_audio as la
from lens_audio.evals.benchmarks.testbed import SyntheticQA
from lens_audio.evals.items import AudioQAItem
from lens_audio.evals.protocol import Settings
from lens_audio.evals.run import evaluate
from lens_audio.steering import AudioSilenceSteering


def noise(n: int, seconds: float) -> SyntheticQA:
    """Recordings of MMAU's usual length and questions of its usual length."""
    rng = np.random.default_rng(0)
    question = "Based on the given audio, identify the source of the speaking voice."
    choices = ("Man", "Woman", "Child", "Robot")
    items = []
    for number in range(n):
        samples = 0.1 * rng.standard_normal(int(44100 * seconds)).astype(np.float32)
        items.append(AudioQAItem(str(number), question, choices, "Man", (samples, 44100)))
    return SyntheticQA(items, "noise", groups=())


def measure(model, dataset, label: str, args: argparse.Namespace) -> None:
    n_layers = model.cfg.n_layers
    depths = {"half": n_layers // 2 - 1, "last": n_layers - 1}
    runs = {"base": None} | {
        depth: AudioSilenceSteering([(layer, 0)], beta=1.0) for depth, layer in depths.items()
    }
    spent: dict[str, list] = {name: [] for name in runs}
    operations: dict[str, int] = {}
    words = wording(dataset.prompt)
    for turn in range(args.rounds + 1):
        for name, steering in runs.items():
            settings = Settings(
                words, ("base",) if steering is None else ("base", "steered"),
                batch_size=args.batch_size, max_new_tokens=args.max_new_tokens,
            )  # fmt: skip
            counter = FlopCounterMode(display=False) if not turn else nullcontext()
            with tempfile.TemporaryDirectory() as folder, counter:
                _, seconds = evaluate(
                    model, dataset, folder, settings,
                    steering=steering, workers=args.workers, verbose=False,
                )  # fmt: skip
            if turn:
                spent[name].append(seconds)
            else:
                operations[name] = counter.get_total_flops()
    n = len(dataset.items)
    for name, times in spent.items():
        speed = n / statistics.median(s.total for s in times)
        waiting = statistics.median(s.waiting / s.total for s in times)
        pairs = zip(times, spent["base"], strict=True)
        ratio = statistics.median(a.total / b.total for a, b in pairs)
        what = "base" if name == "base" else f"base + steered, {name}"
        more = operations[name] / operations["base"]
        print(f"{label:10}{what:24}{speed:9.2f}{ratio:9.2f}{more:13.2f}{waiting:9.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="46M")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--items", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a recording")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"{'model':10}{'runs':24}{'items/s':>9}{'time':>9}{'operations':>13}{'waiting':>9}")
    embedded = la.HookedAudioTransformer.from_pretrained(
        la.testbed.checkpoint_dir(), device=args.device
    )
    measure(embedded, SyntheticQA.make(args.items), "embedded", args)
    hf_model = build(SHAPES[args.shape], args.device, getattr(torch, args.dtype))
    model = la.HookedAudioTransformer.from_hf(hf_model, build_processor())
    measure(model, noise(args.items, args.seconds), args.shape, args)


if __name__ == "__main__":
    main()
