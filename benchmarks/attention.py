"""Audio attention of every head over a plain forward: time and memory.

python benchmarks/attention.py
"""

import argparse
import statistics

import torch
from measure import ratio, side_by_side
from shapes import SHAPES, build, thirty_seconds

import lens_audio as la


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="46M")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    shape, dtype = SHAPES[args.shape], getattr(torch, args.dtype)
    model = la.HookedAudioTransformer.from_hf(build(shape, args.device, dtype))
    prompt = thirty_seconds(shape, args.device, dtype)
    with torch.no_grad():
        times = side_by_side(
            {
                "attention": lambda: la.analysis.audio_attention(model, prompt),
                "forward": lambda: model(prompt, logits_to_keep=1),
                "patterns": lambda: model.run_with_cache(
                    prompt, names_filter=lambda n: n.startswith("blocks") and "pattern" in n
                ),
            },
            args.rounds,
        )
    kept = la.analysis.audio_attention(model, prompt)
    print(
        f"audio attention {statistics.median(times['attention']):.2f} s, "
        f"{ratio(times, 'attention', 'forward'):.2f} x a forward (aim 1.1), "
        f"{ratio(times, 'attention', 'patterns'):.2f} x caching the patterns; "
        f"keeps {kept.nbytes / 2**20:.1f} MiB, the patterns "
        f"{shape.n_layers * shape.n_heads * 782**2 * 4 / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
