"""Our time over transformers' and TransformerBridge's, side by side in one run.

    python benchmarks/forward.py                          # 46 M parameters, 30 s of audio, CPU
    python benchmarks/forward.py --shape 7B --device cuda --dtype bfloat16

Ratios are medians over the rounds; below 1 is faster than the other.
"""

import argparse
import statistics

import torch
from measure import ratio, side_by_side
from shapes import SHAPES, boot_bridge, build, hf_inputs, thirty_seconds

import lens_audio as la

NEW_TOKENS = 32


def is_resid_post(name: str) -> bool:
    return name.endswith("hook_resid_post") and not name.startswith("audio_encoder")


def contests(hf_model, bridge, model, prompt) -> dict[str, dict]:
    """What is measured: for each line the runs of ours, transformers' and the bridge's."""
    inputs = hf_inputs(prompt)
    tokens, audio = inputs["input_ids"], {k: v for k, v in inputs.items() if k != "input_ids"}
    greedy = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    return {
        "plain forward": {
            "ours": lambda: model(prompt),
            "transformers": lambda: hf_model(**inputs, use_cache=False),
            "bridge": lambda: bridge(tokens, **audio),
        },
        "forward, logits_to_keep=1": {
            "ours": lambda: model(prompt, logits_to_keep=1),
            "transformers": lambda: hf_model(**inputs, use_cache=False),
        },
        "run_with_cache, every resid_post": {
            "ours": lambda: model.run_with_cache(prompt, names_filter=is_resid_post),
            "transformers": lambda: hf_model(**inputs, use_cache=False),
            "bridge": lambda: bridge.run_with_cache(tokens, names_filter=is_resid_post, **audio),
        },
        "run_with_cache, decoder only": {
            "ours": lambda: model.run_with_cache(
                prompt, names_filter=lambda name: not name.startswith("audio_")
            ),
            "transformers": lambda: hf_model(**inputs, use_cache=False),
            "bridge": lambda: bridge.run_with_cache(tokens, **audio),
        },
        "run_with_cache, everything": {
            "ours": lambda: model.run_with_cache(prompt),
            "transformers": lambda: hf_model(**inputs, use_cache=False),
            "bridge": lambda: bridge.run_with_cache(tokens, **audio),
        },
        f"generate {NEW_TOKENS} tokens": {
            "ours": lambda: model.generate(
                prompt, NEW_TOKENS, stop_at_eos=False, return_type="tokens", verbose=False
            ),
            "transformers": lambda: hf_model.generate(**inputs, **greedy),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="46M")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--no-bridge", action="store_true", help="it holds a second copy of the weights"
    )
    args = parser.parse_args()
    shape, dtype = SHAPES[args.shape], getattr(torch, args.dtype)

    hf_model = build(shape, args.device, dtype)
    model = la.HookedAudioTransformer.from_hf(hf_model)
    bridge = None if args.no_bridge else boot_bridge(hf_model, args.device, dtype)
    prompt = thirty_seconds(shape, args.device, dtype)
    n_params = sum(p.numel() for p in hf_model.parameters())
    print(
        f"{n_params / 1e6:.0f} M parameters, {prompt.tokens.shape[1]} tokens, {args.dtype} on "
        f"{args.device}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{args.rounds} rounds"
    )
    print(f"{'':34}{'ours':>9}{'/ transformers':>16}{'/ bridge':>10}")
    with torch.no_grad():
        for name, runs in contests(hf_model, bridge, model, prompt).items():
            if bridge is None:
                runs.pop("bridge", None)
            times = side_by_side(runs, args.rounds)
            against = f"{ratio(times, 'ours', 'transformers'):16.2f}"
            if "bridge" in runs:
                against += f"{ratio(times, 'ours', 'bridge'):10.2f}"
            print(f"{name:34}{statistics.median(times['ours']):8.2f}s{against}", flush=True)


if __name__ == "__main__":
    main()
