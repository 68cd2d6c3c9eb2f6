"""Peak memory of loading a model over what the model keeps, family by family.

    python benchmarks/loading.py                                # about 46 M parameters, CPU
    python benchmarks/loading.py --families Voxtral Whisper

Every figure is of a process of its own, over its memory before loading, and after it has loaded a
tiny model of that family, so that no import counts. What is kept is the model's parameters; from
memory (`from_hf`) they lie there before, and count as kept.

Weights of safetensors are mapped from the file: their pages are the model's weights, not a copy of
them. "in all" is the peak of the resident pages (VmHWM), mapped pages included, each counted once:
a copy beside them would show. "own" is the peak of the anonymous pages (RssAnon), which only this
process has and the kernel cannot drop: of weights that are mapped there are almost none. Weights
that are cast while they load are no longer the file's pages, so there "own" is the number that
counts; the file's pages, which the kernel drops when memory is short, are in "in all".
"""

import argparse
import gc
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from families import build
from family_models import FAMILY_CASES
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.utils.logging import disable_progress_bar

import lens_audio as la

CASES = {family.name: family for family in FAMILY_CASES}
NAMES = [*CASES, "Whisper"]  # of which the encoder is loaded alone
WAYS = {  # how it is loaded: the size of a shard, the dtype
    "one file": ("10GB", None),
    "in shards": ("20MB", None),
    "cast to bfloat16": ("10GB", torch.bfloat16),
    "from memory": ("", None),
}
EVERY = 5e-4  # seconds between two readings of RssAnon


def make(name: str, tiny: bool = False) -> Any:
    """The transformers model: about 46 M parameters, or a few thousand."""
    if name != "Whisper":
        family = CASES[name]
        return family.build(family.sizes(1)) if tiny else build(family, "cpu", torch.float32)
    width, n_layers = (16, 1) if tiny else (768, 6)
    config = WhisperConfig(
        d_model=width, encoder_layers=n_layers, decoder_layers=n_layers, encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width, encoder_attention_heads=2, decoder_attention_heads=2,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config).eval()


def load(name: str, source: Any, dtype: torch.dtype | None) -> torch.nn.Module:
    """Ours, from a folder or from a transformers model."""
    kind = la.HookedAudioEncoder if name == "Whisper" else la.HookedAudioTransformer
    if isinstance(source, torch.nn.Module):
        return kind.from_hf(source)
    return kind.from_pretrained(source, device="cpu", dtype=dtype, verbose=False)


def memory(field: str) -> int:
    """Bytes of this process: "VmRSS" and "RssAnon" now, "VmHWM" at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def peaks_of(run: Callable[[], Any]) -> tuple[Any, int, int]:
    """What a run returns, and its peaks over the memory before: of all pages, of anonymous ones."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at what is resident now
    in_all, own = memory("VmRSS"), memory("RssAnon")
    most, done = own, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, memory("RssAnon"))
            time.sleep(EVERY)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        result = run()
    finally:
        done.set()
        watching.join()
    return result, memory("VmHWM") - in_all, max(most, memory("RssAnon")) - own


def measure(name: str, folder: str, tiny_folder: str, dtype: torch.dtype | None) -> tuple[int, ...]:
    """Bytes kept, and the peaks of loading from a folder, or, without one, from memory."""
    torch.set_num_threads(1)
    if folder:
        load(name, tiny_folder, dtype)
        source: Any = folder
    else:
        load(name, make(name, tiny=True), dtype)
        source = make(name)
    model, in_all, own = peaks_of(lambda: load(name, source, dtype))
    kept = sum(parameter.nbytes for parameter in model.parameters())
    there_before = 0 if folder else kept
    return kept, in_all + there_before, own + there_before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=NAMES, default=NAMES)
    names = parser.parse_args().families
    disable_progress_bar()
    spawned = multiprocessing.get_context("spawn")
    print(f"{'peak / kept':36}{'MiB kept':>9}{'in all':>9}{'own':>7}")
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            tiny = str(Path(scratch, "tiny"))
            make(name, tiny=True).save_pretrained(tiny)
            for n, (way, (shard_size, dtype)) in enumerate(WAYS.items()):
                folder = str(Path(scratch, str(n))) if shard_size else ""
                if folder:
                    make(name).save_pretrained(folder, max_shard_size=shard_size)
                with ProcessPoolExecutor(1, mp_context=spawned) as pool:
                    kept, *peaks = pool.submit(measure, name, folder, tiny, dtype).result()
                ratios = [peak / kept for peak in peaks]
                line = f"{name:18}{way:18}{kept / 2**20:9.0f}"
                print(f"{line}{ratios[0]:9.2f}{ratios[1]:7.2f}", flush=True)


if __name__ == "__main__":
    main()
