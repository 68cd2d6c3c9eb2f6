"""A checkpoint through transformers and through lens_audio: do they compute the same?"""

import gc
import os
import platform
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version

import torch

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.checkpoints.pretrained import (
    Checkpoint,
    open_checkpoint,
    resolve_device,
    resolve_dtype,
)
from lens_audio.checkpoints.shards import file_hash, stored_tensors
from lens_audio.checkpoints.tensors import checked
from lens_audio.config import AudioModelConfig
from lens_audio.inputs import AudioPrompt
from lens_audio.verification.comparing import (
    RULE,
    Apart,
    RowTokens,
    apart,
    compare,
    compare_tokens,
    logits_share,
)
from lens_audio.verification.prompts import make_prompts
from lens_audio.verification.reading import (
    Generated,
    Reading,
    generate_ours,
    generate_transformers,
    read_ours,
    read_transformers,
)
from lens_audio.verification.result import Case, Json, Verification

Path = str | os.PathLike[str]
Prompts = dict[str, AudioPrompt]
# What transformers makes of a prompt: eager, how far sdpa is from that, greedy tokens.
Reference = tuple[Reading, dict[str, Apart], Generated]


def verify(
    path_or_hub_id: Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    against: Path | None = None,
    n_tokens: int = 32,
    quick: bool = False,
    load: Callable[..., HookedAudioTransformer] = HookedAudioTransformer.from_pretrained,
    say: Callable[[str], object] = lambda text: None,
) -> Verification:
    """Run a checkpoint in transformers and in lens_audio, and compare by `comparing.RULE`.

    Compared are, on four prompts (or with `quick` one), the residual stream after every block of
    the encoder and the decoder, the encoder's and the projector's output, the logits, and greedy
    tokens. One model is in memory at a time, and of the other only what is compared.

    A family that transformers cannot run without remote code (Qwen-Audio) has no reference: then
    that all of this is finite, and that tokens come, is all that is checked.

    Args:
        device, dtype: as of `from_pretrained`, for both.
        against: another checkpoint of the same sizes, which transformers loads instead: a copy
            that was converted, or the weights before a change.
        n_tokens: how many greedy tokens; fewer where the context has no room for so many.
        quick: only the prompt with one clip, which takes a tenth of the time.
        load: what loads ours.
        say: is told what goes on.

    Raises:
        ValueError: for a checkpoint that one of both cannot load, saying which and why.
    """
    target = resolve_device(device)
    checkpoint = _opened(path_or_hub_id)
    other = checkpoint if against is None else _opened(against)
    if sizes(checkpoint.cfg) != sizes(other.cfg):
        raise ValueError(f"{path_or_hub_id} and {against} are of different sizes")
    wanted = resolve_dtype(dtype, checkpoint.config) or stored_dtype(checkpoint)
    with _named("lens_audio", path_or_hub_id):
        processor, _ = checkpoint.read_processor()
    made = make_prompts(checkpoint.cfg, processor)
    if quick:
        made = dict(list(made.items())[:1])
    prompts = {name: prompt.to(target) for name, prompt in made.items()}
    longest = max(prompt.tokens.shape[1] for prompt in made.values())
    if longest >= checkpoint.cfg.n_ctx:
        raise ValueError(
            f"{path_or_hub_id} has a context of {checkpoint.cfg.n_ctx} tokens, too short for the "
            f"prompts of {longest} that it would be verified on"
        )
    n_tokens = min(n_tokens, checkpoint.cfg.n_ctx - longest)
    facts = describe(checkpoint, other, target, wanted, processor is not None, say)
    has_reference = checkpoint.family.in_transformers is not None
    references: dict[str, Reference] = {}
    if has_reference:
        say("transformers: loading")
        references = read_references(other, target, wanted, prompts, n_tokens, say)
    say("lens_audio: loading")
    with _named("lens_audio", path_or_hub_id):
        model = load(path_or_hub_id, target, wanted, verbose=False)
    cases = []
    for name, prompt in prompts.items():
        say(f"lens_audio: {name}")
        cases.append(examine(name, prompt, model, references.pop(name, None), n_tokens))
    facts["peak_memory_gib"] = peak_memory(target)
    return Verification(facts, cases, has_reference)


def read_references(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    prompts: Prompts,
    n_tokens: int,
    say: Callable[[str], object],
) -> dict[str, Reference]:
    """What transformers makes of every prompt; its model is gone when this returns."""
    parts = checkpoint.family.in_transformers
    assert parts is not None
    with _named("transformers", checkpoint.folder):
        hf_model, loading = checkpoint.family.model_class(checkpoint.architecture).from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            attn_implementation="eager",
            device_map={"": str(device)},
            output_loading_info=True,
            local_files_only=True,
        )
        if problems := {what: sorted(map(str, names)) for what, names in loading.items() if names}:
            raise ValueError(f"it does not know what to do with all tensors: {problems}")
    references = {}
    for name, prompt in prompts.items():
        say(f"transformers: {name}")
        hf_model.set_attn_implementation("eager")
        eager = read_transformers(hf_model, parts, prompt)
        generated = generate_transformers(hf_model, prompt, n_tokens)
        hf_model.set_attn_implementation("sdpa")
        sdpa = read_transformers(hf_model, parts, prompt)
        own = {place: apart(place, found, eager[place]) for place, found in sdpa.items()}
        references[name] = (eager, own, generated)
    del hf_model
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return references


def examine(
    name: str,
    prompt: AudioPrompt,
    model: HookedAudioTransformer,
    reference: Reference | None,
    n_tokens: int,
) -> Case:
    """What our model makes of a prompt, beside the reference."""
    reading = read_ours(model, prompt)
    generated = generate_ours(model, prompt, n_tokens)
    if reference is None:
        differences = []
        rows = [RowTokens(tokens) for tokens in generated.tokens.tolist()]
    else:
        eager, own, theirs = reference
        differences = compare(reading, eager, own)
        rows = compare_tokens(generated, theirs, logits_share(differences))
    return Case(
        name,
        shape=(len(prompt), prompt.tokens.shape[1]),
        seconds=[round(prompt.clip_seconds(clip), 2) for clip in range(prompt.n_clips)],
        differences=differences,
        rows=rows,
        texts=prompt.tokenizer and prompt.tokenizer.batch_decode(generated.tokens),
        not_finite=[place for place, found in reading.items() if not bool(found.isfinite().all())],
    )


def describe(
    checkpoint: Checkpoint,
    other: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    has_processor: bool,
    say: Callable[[str], object],
) -> Json:
    """What was verified, where and with what; no path of this machine is in it."""
    say("hashing the weights")
    names = ("lens_audio", "torch", "transformers")
    facts: Json = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": {name: version(name) for name in names} | {"python": platform.python_version()},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "architecture": checkpoint.architecture,
        "sizes": sizes(checkpoint.cfg),
        "sha256": {path.name: file_hash(path) for path in checkpoint.shapes},
        "rule": RULE,
        "prompts_of": "sounds" if has_processor else "noise, as the folder has no processor",
    }
    if checkpoint.folder.parent.name == "snapshots":  # of the hub's cache
        facts["revision"] = checkpoint.folder.name
    if other is not checkpoint:
        facts["sha256_in_transformers"] = {path.name: file_hash(path) for path in other.shapes}
    return facts


def sizes(cfg: AudioModelConfig) -> Json:
    """What tells one size of model from another."""
    names = ("d_model", "n_layers", "n_heads", "kv_heads", "d_head", "d_mlp", "n_ctx")
    return {
        **{name: getattr(cfg, name) for name in names},
        "d_vocab": cfg.d_vocab,
        "audio": {name: getattr(cfg.audio, name) for name in (*names, "n_mels")},
    }


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """What the first weight is stored as, which all are loaded as by default."""
    with _named("lens_audio", checkpoint.folder):
        name, weight = next(stored_tensors(next(iter(checkpoint.shapes)), torch.device("cpu")))
        return checked(name, weight).dtype


def peak_memory(device: torch.device) -> float:
    """GiB of the device since the process began; on the CPU the pages of mapped files count."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def _opened(path: Path) -> Checkpoint:
    with _named("lens_audio", path):
        checkpoint = open_checkpoint(path)
        checkpoint.match(HookedAudioTransformer.without_weights(checkpoint.cfg))
    return checkpoint


@contextmanager
def _named(who: str, path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{who} cannot load {path}: {reason}") from error
