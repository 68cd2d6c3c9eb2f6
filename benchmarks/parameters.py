"""Exact parameter counts of a checkpoint's config.json, by part, on the meta device.

python benchmarks/parameters.py tests/data/qwen_audio_v1/published_config.json
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import torch

from lens_audio import HookedAudioTransformer
from lens_audio.checkpoints.families import family_of


def count_by_part(config: Path) -> Counter[str]:
    """Parameters under each submodule of the whole model, which takes no memory."""
    sizes = json.loads(config.read_text())
    with torch.device("meta"):
        model = HookedAudioTransformer(family_of(sizes).read_config(sizes, {}))
    parts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        parts[name.split(".")[0]] += parameter.numel()
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parts = count_by_part(parser.parse_args().config)
    for part, n in parts.items():
        print(f"{part:16} {n:>13,}")
    print(f"{'all':16} {parts.total():>13,}")


if __name__ == "__main__":
    main()
