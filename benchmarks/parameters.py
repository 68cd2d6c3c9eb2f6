"""Exact parameter counts by part, on the meta device, and the memory that they take in bfloat16.

    python benchmarks/parameters.py tests/data/qwen_audio_v1/published_config.json
    python benchmarks/parameters.py        # of the published sizes of every family

The memory is of the weights alone.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from lens_audio import HookedAudioTransformer
from lens_audio.checkpoints.families import family_of

TESTS = Path(__file__).parents[1] / "tests"
PARTS = {
    "embeddings": ("embed", "unembed", "audio_edges"),
    "decoder": ("blocks", "ln_final"),
    "encoder": ("audio_encoder",),
    "projector": ("audio_projector",),
}


def meta_model(config: dict[str, Any]) -> HookedAudioTransformer:
    """The model of a config.json, without weights: it takes no memory."""
    return HookedAudioTransformer.without_weights(family_of(config).read_config(config, {}))


def count_by_module(model: HookedAudioTransformer) -> Counter[str]:
    """Parameters under each submodule; those that embedding and unembedding share count once."""
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        counts[name.split(".")[0]] += parameter.numel()
    return counts


def count_by_part(model: HookedAudioTransformer) -> Counter[str]:
    """The same, by part of the model: embeddings, decoder, encoder, projector."""
    modules = count_by_module(model)
    return Counter({part: sum(modules[name] for name in PARTS[part]) for part in PARTS})


def gib_in_bfloat16(model: HookedAudioTransformer, config: dict[str, Any]) -> float:
    """Of the weights; what the family keeps in float32 takes twice as much."""
    wide = family_of(config).float32
    n_bytes = sum((4 if name in wide else 2) * p.numel() for name, p in model.named_parameters())
    return n_bytes / 2**30


def print_published() -> None:
    """A line a checkpoint: millions of parameters by part and in all, GiB."""
    sys.path.insert(0, str(TESTS))
    from published_configs import PUBLISHED

    print(f"{'millions of parameters':28}", *(f"{part:>10}" for part in PARTS), "       all   GiB")
    for name, config in PUBLISHED.items():
        model = meta_model(config)
        counts = count_by_part(model)
        columns = [f"{n / 1e6:10.1f}" for n in (*counts.values(), counts.total())]
        print(f"{name:28}", *columns, f"{gib_in_bfloat16(model, config):5.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, nargs="?")
    config = parser.parse_args().config
    if config is None:
        print_published()
        return
    counts = count_by_module(meta_model(json.loads(config.read_text())))
    for module, n in counts.items():
        print(f"{module:16} {n:>13,}")
    print(f"{'all':16} {counts.total():>13,}")


if __name__ == "__main__":
    main()
