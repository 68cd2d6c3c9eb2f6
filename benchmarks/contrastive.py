"""What contrastive decoding costs: its time, and that of a plain loop of two passes, over the model's.

    python benchmarks/contrastive.py
    python benchmarks/contrastive.py --shape 7B --device cuda --dtype bfloat16

A question about a clip, against silence, by the length of the answer. `contrastive` was asked about a
clip of that length before, `first question` never. The loop reads both prompts to their end, and each
token over a cache a side. All ratios are to the model as it is; the seconds are its own.
"""

import argparse
import statistics

import numpy as np
import torch
from measure import ratio_interval, side_by_side
from shapes import SHAPES, build, build_processor

import lens_audio as la

QUESTION = (
    "Based on the given audio, identify the source of the speaking voice. Man, woman, or child?"
)
RATE = 16000


@torch.no_grad()
def two_pass_loop(
    model: la.HookedAudioTransformer, prompt: la.AudioPrompt, other: la.AudioPrompt, n_new: int
) -> torch.Tensor:
    """Greedy tokens of twice the prompt's logits, less the other's."""
    caches = [la.KeyValueCache(model.cfg.n_layers) for _ in range(2)]
    inputs, tokens = (prompt, other), []
    for _ in range(n_new):
        plain, silent = (
            model(side, past_kv_cache=past, logits_to_keep=1)[:, -1]
            for side, past in zip(inputs, caches, strict=True)
        )
        tokens.append((2 * plain - silent).argmax(-1, keepdim=True))
        inputs = tokens[-1], tokens[-1]
    return torch.cat(tokens, dim=1)


def generate(model: la.HookedAudioTransformer, prompt: la.AudioPrompt, n_new: int) -> torch.Tensor:
    return model.generate(prompt, n_new, stop_at_eos=False, return_type="tokens", verbose=False)


def measure(plain, asked_before, prompt, n_new: int, rounds: int) -> None:
    """Print the ratios of one length of answer; `asked_before` has contrastive decoding attached."""

    def first_question() -> torch.Tensor:
        with la.steering.contrastive().attach(plain):
            return generate(plain, prompt, n_new)

    runs = {
        "base": lambda: generate(plain, prompt, n_new),
        "contrastive": lambda: generate(asked_before, prompt, n_new),
        "first question": first_question,
        "two passes": lambda: two_pass_loop(plain, prompt, prompt.silenced(), n_new),
    }
    answers = [run() for name, run in runs.items() if name != "base"]
    same = all(torch.equal(answer, answers[0]) for answer in answers)
    times = side_by_side(runs, rounds)
    ratios = [ratio_interval(times, name, "base") for name in list(runs)[1:]]
    shown = "".join(f"{f'{mid:.2f} [{low:.2f}, {high:.2f}]':>20}" for mid, low, high in ratios)
    print(f"{n_new:6}{statistics.median(times['base']):9.3f}{shown}{same!s:>7}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="46M")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the clip")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 4, 8, 32], help="of answers")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    hf_model = build(SHAPES[args.shape], args.device, getattr(torch, args.dtype))
    processor = build_processor()
    plain, attached = (la.HookedAudioTransformer.from_hf(hf_model, processor) for _ in range(2))
    samples = np.random.default_rng(0).standard_normal(int(RATE * args.seconds))
    audio = (0.1 * samples.astype(np.float32), RATE)
    prompt = plain.prompt(QUESTION, audio=audio)
    print(f"{args.shape}, a clip of {args.seconds:g} s, {prompt.tokens.shape[1]} tokens")
    names = ("contrastive", "first question", "two passes")
    print(f"{'tokens':>6}{'base, s':>9}{''.join(f'{name:>20}' for name in names)}{'same':>7}")
    with la.steering.contrastive().attach(attached):
        for n_new in args.tokens:
            measure(plain, attached, prompt, n_new, args.rounds)


if __name__ == "__main__":
    main()
