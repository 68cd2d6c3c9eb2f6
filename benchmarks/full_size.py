"""A Qwen2-Audio of full size (8.4 B random bfloat16 weights) is loaded and answers one prompt.

    python benchmarks/full_size.py --folder full_size             # needs 17 GB of disk

Prints the peak memory of loading over the size of the weights, and of the whole run.
"""

import argparse
import json
import math
import resource
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from shapes import SHAPES
from transformers import Qwen2AudioForConditionalGeneration

import lens_audio as la
from lens_audio.inputs import n_audio_tokens

SHARD_BYTES = 2 * 2**30
HUB_NAMES = {  # in memory -> the hub's layout
    "model.language_model.": "language_model.model.",
    "lm_head.": "language_model.lm_head.",
    "model.": "",
}


def hub_name(name: str) -> str:
    for ours, hubs in HUB_NAMES.items():
        if name.startswith(ours):
            return hubs + name.removeprefix(ours)
    return name


def write_checkpoint(folder: Path) -> None:
    """Sharded safetensors in the hub's layout, one shard in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    config = SHAPES["7B"].config()
    config.architectures = ["Qwen2AudioForConditionalGeneration"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        sizes = Qwen2AudioForConditionalGeneration(config).state_dict()
    shard: dict[str, torch.Tensor] = {}
    weight_map: dict[str, str] = {}
    total = sum(2 * t.numel() for t in sizes.values())
    n_shards = math.ceil(total / SHARD_BYTES) + 1
    done = 0

    def flush() -> None:
        nonlocal done
        done += 1
        name = f"model-{done:05}-of-{n_shards:05}.safetensors"
        save_file(shard, folder / name)
        weight_map.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, like in sizes.items():
        weight = torch.empty(like.shape, dtype=torch.bfloat16).normal_(std=0.02)
        if "norm" in name and name.endswith("weight"):
            weight += 1  # as in a trained model, so that every block counts
        shard[hub_name(name)] = weight
        if sum(t.nbytes for t in shard.values()) > SHARD_BYTES:
            flush()
    flush()
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def peak_gib() -> float:
    """Peak resident memory of this process, pages of mapped weight files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def short_prompt(seconds: float) -> la.AudioPrompt:
    shape = SHAPES["7B"]
    audio_id = shape.d_vocab - 3
    mel = torch.randn(1, 128, 3000)
    n_frames = int(100 * seconds)
    n_tokens = n_audio_tokens(n_frames)
    tokens = torch.tensor([[*range(10), *[audio_id] * n_tokens, *range(20, 40)]])
    return la.AudioPrompt.from_tensors(
        tokens, mel, torch.tensor([n_frames]), audio_token_id=audio_id
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=5.0, help="of audio")
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.add_argument("--keep", action="store_true", help="leave the checkpoint on disk")
    args = parser.parse_args()
    if not (args.folder / "model.safetensors.index.json").exists():
        write_checkpoint(args.folder)
    before = peak_gib()

    start = time.perf_counter()
    model = la.HookedAudioTransformer.from_pretrained(args.folder, device=args.device)
    # Weights are mapped from the file: read each one, so that the peak counts them all.
    weights = sum(p.nbytes for p in model.parameters()) / 2**30
    touched = sum(float(p.sum()) for p in model.parameters())
    loaded = time.perf_counter() - start
    n_params = sum(p.numel() for p in model.parameters())
    print(
        f"{n_params / 1e9:.2f} B parameters, {weights:.1f} GiB of weights, {loaded:.0f} s to load"
    )
    if args.device == "cpu":
        print(
            f"peak memory after loading {peak_gib():.1f} GiB, "
            f"{peak_gib() / weights:.2f} x the weights ({before:.1f} GiB before; "
            f"checksum {touched:.3g})"
        )
    else:
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(f"peak GPU memory after loading {peak:.1f} GiB, {peak / weights:.2f} x the weights")

    prompt = short_prompt(args.seconds)
    start = time.perf_counter()
    new = model.generate(prompt, args.new_tokens, stop_at_eos=False, return_type="tokens")
    took = time.perf_counter() - start
    print(
        f"{prompt.tokens.shape[1]} tokens read, {new.shape[1]} generated: {new.tolist()}, "
        f"{took:.0f} s"
    )
    print(f"peak memory of the whole run {peak_gib():.1f} GiB")
    if not args.keep:
        shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
