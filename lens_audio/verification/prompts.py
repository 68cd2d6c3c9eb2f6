"""The prompts that a checkpoint is verified on: sounds, or seeded noise where no processor is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F

from lens_audio import testbed
from lens_audio.config import AudioModelConfig
from lens_audio.inputs import AudioPrompt
from lens_audio.inputs.build import build_prompt

QUESTION = "What do you hear?"
SEED = 0
CLIP_FRAMES = 281  # of a clip of noise: as long as the bundled recording
NOISE_CHUNKS = 15  # of a "full window" of noise where spectrograms are of any length
MOST_SECONDS = 30  # of a "full window" of sound

Rows = list[list[Any]]  # the clips of each row of a prompt


def make_prompts(cfg: AudioModelConfig, processor: Any) -> dict[str, AudioPrompt]:
    """One clip, two clips, a padded batch with a row of text alone, and a full window of sound; for
    models that hear longer clips one of more than two windows, for those that take one clip a text a
    batch of such.

    The sounds are the bundled recording and two of the testbed's. Without a processor they are
    seeded noise, the tokens too.
    """
    if processor is None:
        window = cfg.audio.max_mel_frames or NOISE_CHUNKS * (cfg.audio.chunk_frames or 1)
        first = min(CLIP_FRAMES, 3 * window // 5)
        clips: Sequence[Any] = [first, first - first // 4, first - first // 3, window]
        longer: Any = 2 * window + first
    else:
        clips = _sounds(processor.feature_extractor)
        longer = np.concatenate([clips[-1], clips[-1], clips[0]])
    one, two, three, full = clips
    layouts: dict[str, Rows] = {
        "one clip": [[one]],
        "two clips": [[one, two]],
        "a batch": [[one], [], [two, three]],
        "a full window": [[full]],
    }
    if cfg.prompt_parts.max_clips == 1:
        layouts["a batch"] = [[one], [two], [three]]
        del layouts["two clips"]
    if cfg.audio.max_windows != 1:
        layouts["a long clip"] = [[longer]]
    return {name: _prompt(cfg, processor, rows) for name, rows in layouts.items()}


def _sounds(extractor: Any) -> list[np.ndarray]:
    """Three recordings, and all of them over and over until a window is full."""
    demo, _ = soundfile.read(testbed.demo_clip(), dtype="float32")
    others = [item.waveform for item in testbed.make_items(2, seed=SEED)]
    n_samples = min(extractor.n_samples, MOST_SECONDS * extractor.sampling_rate)
    sounds = [wave[:n_samples] for wave in (demo, *others)]
    return [*sounds, np.resize(np.concatenate(sounds), n_samples)]


def _prompt(cfg: AudioModelConfig, processor: Any, rows: Rows) -> AudioPrompt:
    if processor is None:
        return _of_noise(cfg, rows)
    audio = [row or None for row in rows]
    rate = processor.feature_extractor.sampling_rate
    return build_prompt(processor, [QUESTION] * len(rows), audio, sampling_rate=rate, cfg=cfg)


def _of_noise(cfg: AudioModelConfig, rows: list[list[int]]) -> AudioPrompt:
    """Random tokens and spectrograms with clips of so many mel frames, padded on the left."""
    generator = torch.Generator().manual_seed(SEED)
    audio_id = cfg.audio_token_id if 0 <= cfg.audio_token_id < cfg.d_vocab else 0
    before, after = cfg.audio_edge_ids or (None, None)
    tokens, is_audio, lengths = [], [], []
    for clips in rows:
        text = torch.randint(cfg.d_vocab, (8,), generator=generator).tolist()
        text = [token if token != audio_id else (token + 1) % cfg.d_vocab for token in text]
        row = text[:3]
        places = [False] * 3
        for n_frames in clips:
            windows = _windows(cfg, n_frames)
            lengths += windows
            n = sum(map(cfg.audio.n_tokens, windows))
            row += [text[3] if before is None else before, *[audio_id] * n]
            row += [text[4] if after is None else after]
            places += [False, *[True] * n, False]
        tokens.append(torch.tensor(row + text[5:]))
        is_audio.append(torch.tensor(places + [False] * 3))
    longest = max(map(len, tokens))
    chunk = cfg.audio.chunk_frames or 1
    n_frames = cfg.audio.max_mel_frames or chunk * -(-max(lengths) // chunk)
    shape = (len(lengths), cfg.audio.n_mels, n_frames)
    pad = cfg.pad_token_id or 0

    def padded(values: list[torch.Tensor], value: int) -> torch.Tensor:
        return torch.stack([F.pad(row, (longest - len(row), 0), value=value) for row in values])

    return AudioPrompt.from_tensors(
        padded(tokens, pad),
        torch.randn(shape, generator=generator),
        torch.tensor(lengths),
        attention_mask=padded([torch.ones_like(row).bool() for row in tokens], False),
        audio_mask=padded(is_audio, False),
        audio_token_id=audio_id,
        cfg=cfg,
    )


def _windows(cfg: AudioModelConfig, n_frames: int) -> list[int]:
    """The mel frames of each spectrogram of a clip of so many."""
    if cfg.audio.mel_per_window is None:
        return [n_frames]
    whole = cfg.audio.mel_per_window
    n_whole, rest = divmod(n_frames, whole)
    if cfg.prompt_parts.mel_mask is None and rest:  # silence is sound, too
        return [whole] * (n_whole + 1)
    return [whole] * n_whole + [rest] * bool(rest)
