"""Our time over transformers', family by family, for a clip of 30 s and one of 5 s, side by side.

    python benchmarks/families.py                            # about 46 M parameters, CPU
    python benchmarks/families.py --families Voxtral GLM-ASR --rounds 9
    python benchmarks/families.py --device cuda --dtype bfloat16

A ratio is the median over the rounds with its 95 % bootstrap interval; below 1 is faster than
transformers. Both get the same inputs, padded as the family's own processor pads them.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from measure import ratio_interval, side_by_side

import lens_audio as la

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from family_models import FAMILY_CASES, FamilyCase
from models import Sizes

NEW_TOKENS = 32
SECONDS = (30, 5)
SIZES = Sizes(
    d_model=512, n_heads=8, kv_heads=8, d_head=64, n_layers=12, d_mlp=1024, d_vocab=2600,
    audio_d_model=384, audio_heads=6, audio_layers=6, audio_d_mlp=1536, n_mels=128, n_frames=1500,
)  # fmt: skip
# What the tests make small: chunks as published, channels in the published proportion to the width.
ENCODERS = {
    "Qwen2.5-Omni": {"n_window": 100, "max_source_positions": 1500},
    "Qwen3-ASR": {"n_window_infer": 800, "downsample_hidden_size": 180},
}


def build(family: FamilyCase, device: str, dtype: torch.dtype) -> Any:
    """The transformers model, with sdpa attention, seeded."""
    model_class, config = family.config(SIZES)
    config.text_config.max_position_embeddings = 8192
    for name, value in ENCODERS.get(family.name, {}).items():
        setattr(config.audio_config, name, value)
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    return model_class(config).to(device, dtype).eval()


def inputs_of(
    family: FamilyCase, seconds: int, device: str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """A prompt with one clip."""
    inputs = family.inputs(SIZES, [[100 * seconds]])
    if family.any_length:  # no longer than the clip, as its processor leaves it
        for name in ("input_features", family.mel_mask):
            inputs[name] = inputs[name][..., : 100 * seconds]
    inputs["input_features"] = inputs["input_features"].to(dtype)
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def contests(hf: Any, model: la.HookedAudioTransformer, inputs: dict[str, torch.Tensor]) -> dict:
    """What is measured: for each line the runs of ours and transformers'."""
    prompt = model.prompt_from_inputs(inputs)
    greedy = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    return {
        "forward": {
            "ours": lambda: model(prompt),
            "transformers": lambda: hf(**inputs, use_cache=False).logits,
        },
        f"generate {NEW_TOKENS} tokens": {
            "ours": lambda: model.generate(
                prompt, NEW_TOKENS, stop_at_eos=False, return_type="tokens", verbose=False
            ),
            "transformers": lambda: hf.generate(**inputs, **greedy),
        },
    }


def main() -> None:
    names = [family.name for family in FAMILY_CASES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=names, default=names)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    print(
        f"{args.dtype} on {args.device}, torch {torch.__version__}, {torch.get_num_threads()} "
        f"threads, {args.rounds} rounds\n{'':53}ours / transformers"
    )
    for family in (family for family in FAMILY_CASES if family.name in args.families):
        hf = build(family, args.device, dtype)
        model = la.HookedAudioTransformer.from_hf(hf)
        size = f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f} M"
        for seconds in SECONDS:
            inputs = inputs_of(family, seconds, args.device, dtype)
            with torch.no_grad():
                for what, runs in contests(hf, model, inputs).items():
                    times = side_by_side(runs, args.rounds)
                    middle, low, high = ratio_interval(times, "ours", "transformers")
                    line = f"{family.name:17}{size:>5}  {seconds:2} s  {what:20}"
                    print(f"{line}{middle:10.2f} [{low:.2f}, {high:.2f}]", flush=True)


if __name__ == "__main__":
    main()
