"""AudioPrompt: the tokens, masks and mel features of a batch of prompts, and where the audio is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.config import AudioModelConfig, AudioTiming, PromptParts
from lens_audio.inputs.audio import Rate
from lens_audio.inputs.clips import noise_like
from lens_audio.inputs.layout import (
    check_masks,
    check_mel,
    check_tokens,
    expand_audio_tokens,
)
from lens_audio.inputs.loading import check_placeholders, clip_rows, load_clips
from lens_audio.inputs.processing import (
    audio_token_id_of,
    features_of_silence,
    processed,
    whole_clips,
)
from lens_audio.inputs.timing import Seconds, tokens_between
from lens_audio.model.clips import windows_by_clip


@dataclass(frozen=True, eq=False, repr=False)
class AudioPrompt:
    """A batch of prompts as a model takes them. Made by `model.prompt` or `from_tensors`.

    The clips of all rows are flat in row order (`clips_of(i)` are row i's), and a row may have
    none or several. Without any clip `mel`, `mel_lengths` and `waveforms` are None. A clip is one
    spectrogram of `mel`, or for models that read long clips in windows several, one after another
    (`windows_of(clip)`).
    """

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]  # False at padding
    audio_mask: Bool[Tensor, "batch pos"]  # True at audio tokens
    mel: Float[Tensor, "audio mel frame"] | None = None
    mel_lengths: Int[Tensor, " audio"] | None = None  # valid frames of each spectrogram
    waveforms: list[Float[np.ndarray, " _"]] | None = None  # None when made from tensors
    sampling_rate: int = 16000
    hop_length: int = 160  # samples between mel frames
    processor: Any = field(default=None, kw_only=True)  # a Qwen2AudioProcessor or of its like
    tokenizer: Any = field(default=None, kw_only=True)
    texts: tuple[str, ...] | None = field(default=None, kw_only=True)  # one placeholder a clip
    padding_side: str = field(default="left", kw_only=True)
    timing: AudioTiming = field(default_factory=AudioTiming, kw_only=True)  # of its model
    parts: PromptParts = field(default=PromptParts(), kw_only=True)  # of its model

    @classmethod
    def from_tensors(
        cls,
        tokens: Tensor,
        mel: Tensor | None = None,
        mel_lengths: Tensor | None = None,
        attention_mask: Tensor | None = None,
        audio_mask: Tensor | None = None,
        *,
        audio_token_id: int | None = None,
        sampling_rate: int = 16000,
        hop_length: int = 160,
        processor: Any = None,
        tokenizer: Any = None,
        cfg: AudioModelConfig | None = None,
    ) -> AudioPrompt:
        """A prompt of tensors made elsewhere.

        `tokens` are `[batch, pos]` integers, `mel` `[audio, mel, frame]` floats with `mel_lengths`
        `[audio]` valid frames, clips flat in row order. `attention_mask` defaults to all real, and
        `audio_mask` to where tokens equal `audio_token_id` (by default `cfg.audio_token_id`, without
        `cfg` the tokenizer's `<|AUDIO|>`, or 151646). Prompts that hold one audio token a clip are
        expanded (`expand_audio_tokens`).
        `tokenizer` (for `str_tokens`) and `processor` (for `silenced`) are optional. `cfg` is the
        `model.cfg` of the model to be asked, by which a clip's tokens and their times are counted
        (default: as Qwen2-Audio's).

        Raises ValueError where shapes, dtypes or values are wrong, and where the audio tokens of
        a row are not made up exactly by whole clips in order.
        """
        tokenizer = tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None)
        check_tokens(tokens, attention_mask, audio_mask)
        timing = AudioTiming() if cfg is None else cfg.audio.timing
        parts = PromptParts() if cfg is None else cfg.prompt_parts
        check_mel(mel, mel_lengths, timing)
        tokens = tokens.long()
        attention = torch.ones_like(tokens) if attention_mask is None else attention_mask
        attention = attention.bool()
        if audio_mask is None:
            if audio_token_id is None and cfg is not None:
                audio_token_id = cfg.audio_token_id
            if audio_token_id is None:
                audio_token_id = audio_token_id_of(processor, tokenizer, parts)
            audio_mask = tokens == audio_token_id
        audio = audio_mask.bool()
        check_masks(attention, audio)
        if mel_lengths is not None:
            mel_lengths = mel_lengths.long()
            one_each = int(audio.sum()) == len(mel_lengths)
            if one_each and (timing.n_tokens(mel_lengths) > 1).any():
                tokens, audio, attention = expand_audio_tokens(
                    tokens, audio, attention, mel_lengths, timing
                )
        prompt = cls(
            tokens, attention, audio, mel, mel_lengths, None, sampling_rate, hop_length,
            processor=processor, tokenizer=tokenizer, timing=timing, parts=parts,
        )  # fmt: skip
        prompt.clips_of(0)
        return prompt

    @classmethod
    def from_texts(
        cls,
        processor: Any,
        texts: Sequence[str],
        waveforms: Sequence[Float[np.ndarray, " _"]],
        *,
        padding_side: str = "left",
        device: str | torch.device = "cpu",
        timing: AudioTiming | None = None,
        parts: PromptParts | None = None,
    ) -> AudioPrompt:
        """A prompt of finished texts that hold one placeholder a clip, and mono waveforms at the
        processor's rate. Features, token counts and padding are the processor's; `timing` is that of
        `model.cfg.audio`, and `parts` are `model.cfg.prompt_parts` (default: Qwen2-Audio's).

        Silence that the feature extractor adds to a short clip, and counts as sound, is part of the
        clip (Qwen3-ASR's, up to half a second).
        """
        timing, parts = timing or AudioTiming(), parts or PromptParts()
        waveforms = whole_clips(processor, waveforms)
        tokens, attention_mask, mel, mel_lengths = processed(
            processor, texts, waveforms, padding_side, timing, parts
        )
        check_mel(mel, mel_lengths, timing)
        prompt = cls(
            tokens=tokens,
            attention_mask=attention_mask,
            audio_mask=tokens == audio_token_id_of(processor, processor.tokenizer, parts),
            mel=mel,
            mel_lengths=mel_lengths,
            waveforms=list(waveforms) or None,
            sampling_rate=processor.feature_extractor.sampling_rate,
            hop_length=processor.feature_extractor.hop_length,
            processor=processor,
            tokenizer=processor.tokenizer,
            texts=tuple(texts),
            padding_side=padding_side,
            timing=timing,
            parts=parts,
        )
        prompt.clips_of(0)
        return prompt.to(device)

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        seconds = ", ".join(f"{self.clip_seconds(c):.2f}" for c in range(self.n_clips))
        return (
            f"AudioPrompt(batch={len(self)}, tokens={self.tokens.shape[1]}, "
            f"clips={self.n_clips}, seconds=[{seconds}])"
        )

    @property
    def n_clips(self) -> int:
        """Number of clips in the whole batch."""
        return sum(map(len, self._clips_by_row))

    @property
    def seconds_per_frame(self) -> float:
        """Seconds from one mel frame to the next."""
        return self.hop_length / self.sampling_rate

    @cached_property
    def _clips_by_row(self) -> list[list[range]]:
        return windows_by_clip(self.audio_mask, self.mel_lengths, self.timing)

    def clips_of(self, i: int) -> range:
        """Indices of row i's clips among all: into `waveforms`, and of `windows_of`."""
        before = sum(map(len, self._clips_by_row[: self._row(i)]))
        return range(before, before + len(self._clips_by_row[self._row(i)]))

    def windows_of(self, clip: int) -> range:
        """Indices of a clip's spectrograms into `mel` and `mel_lengths`: one, or its windows."""
        return [windows for row in self._clips_by_row for windows in row][clip]

    def spectrograms_of(self, i: int) -> range:
        """Indices of row i's spectrograms, of all of its clips, into `mel` and `mel_lengths`."""
        clips = self._clips_by_row[self._row(i)]
        return range(clips[0].start, clips[-1].stop) if clips else range(0)

    def clip_seconds(self, clip: int) -> float:
        """Length of a clip in seconds: of its waveform, or without one of its valid mel frames."""
        if self.waveforms is not None:
            return len(self.waveforms[clip]) / self.sampling_rate
        assert self.mel_lengths is not None
        frames = sum(int(self.mel_lengths[one]) for one in self.windows_of(clip))
        return frames * self.hop_length / self.sampling_rate

    def samples_of_spectrograms(self) -> list[int]:
        """How many samples each spectrogram is of: its part of the waveform, or its frames' own."""
        assert self.mel_lengths is not None
        if self.waveforms is None:
            return [int(n) * self.hop_length for n in self.mel_lengths]
        whole = (self.timing.mel_per_window or 0) * self.hop_length
        samples = []
        for clip, wave in enumerate(self.waveforms):
            n_before = whole * (len(self.windows_of(clip)) - 1)
            samples += [whole] * (len(self.windows_of(clip)) - 1) + [len(wave) - n_before]
        return samples

    def str_tokens(self, i: int) -> list[str]:
        """Row i's tokens as strings, one a position (padding included). Needs a tokenizer."""
        if self.tokenizer is None:
            raise ValueError(
                "This prompt has no tokenizer, so its tokens have no text: make it with a model "
                "that has one, or pass tokenizer= to AudioPrompt.from_tensors."
            )
        ids = self.tokens[self._row(i)].tolist()
        return [self.tokenizer.decode([token]) for token in ids]

    def audio_positions(self, i: int) -> Int[Tensor, " token"]:
        """Positions of row i's audio tokens, clip after clip."""
        return torch.nonzero(self.audio_mask[self._row(i)]).flatten()

    def audio_times(self, i: int) -> Float[Tensor, "token 2"]:
        """Start and end in seconds (float64) of each of row i's audio tokens within its clip."""
        spans = [self._spans(clip) for clip in self.clips_of(i)]
        return torch.cat(spans) if spans else torch.zeros(0, 2, dtype=torch.float64)

    def audio_windows(self, i: int, seconds: Seconds) -> Int[Tensor, " token"]:
        """Which of the consecutive windows of so many seconds, counted from 0, the middle of each of
        row i's audio tokens lies in, within its clip.

        Raises ValueError for windows shorter than an audio token, or without end.
        """
        rates = self.hop_length, self.sampling_rate
        return self.timing.windows(self.audio_times(i), seconds, *rates)

    def frame_labels(self) -> list[str]:
        """When each frame of the encoder's blocks begins, padding included: "0.00 s", "0.02 s", ...

        Empty without audio.
        """
        if self.mel is None:
            return []
        n_frames = self.timing.n_frames(self.mel.shape[2])
        starts = self.timing.frame_starts(n_frames, self.hop_length, self.sampling_rate)
        return [f"{start:.2f} s" for start in starts.tolist()]

    def positions_between(
        self, i: int, start: Seconds, end: Seconds, clip: int | None = None
    ) -> Int[Tensor, " token"]:
        """Positions of row i's audio tokens that overlap [start, end) seconds of the clip.

        `clip` counts within the row and is needed when the row has several. Raises ValueError
        for an empty or reversed span, one outside the clip, and a row or clip without audio.
        """
        clips = self.clips_of(i)
        if len(clips) == 0:
            raise ValueError(f"Row {i} has no audio.")
        if clip is None and len(clips) > 1:
            raise ValueError(
                f"Row {i} has {len(clips)} clips: say which with clip=0 to clip={len(clips) - 1}."
            )
        clip = 0 if clip is None else clip
        if not 0 <= clip < len(clips):
            raise ValueError(f"Row {i} has clips 0 to {len(clips) - 1}, not clip {clip}.")
        counts = [len(self._spans(c)) for c in clips]
        found = tokens_between(self._spans(clips[clip]), start, end) + sum(counts[:clip])
        positions = self.audio_positions(i)
        return positions[found.to(positions.device)]

    def time_of(self, i: int, position: int | Tensor) -> tuple[float, float]:
        """Start and end in seconds, within its clip, of the audio token at `position` of row i."""
        index = torch.nonzero(self.audio_positions(i) == int(position)).flatten()
        if len(index) == 0:
            raise ValueError(
                f"Position {int(position)} of row {i} is not an audio token: "
                f"audio_positions({i}) lists those."
            )
        start, end = self.audio_times(i)[int(index)].tolist()
        return start, end

    def with_audio(
        self,
        audio: Any,
        sampling_rate: Rate | None = None,
        *,
        max_seconds: Seconds | None = None,
    ) -> AudioPrompt:
        """The same texts with other clips, as many a row: token counts follow the new clips.

        A prompt of one row takes a clip or a list of clips, a batch a list with one entry a row.
        Raises ValueError for a prompt made from tensors, and what `model.prompt` raises.
        """
        if self.texts is None:
            raise ValueError(
                "A prompt made from tensors has no text to rebuild with other audio: make it with "
                "model.prompt(question, audio), or call AudioPrompt.from_tensors again."
            )
        rows = clip_rows(audio, None if len(self) == 1 else len(self))
        check_placeholders(self.texts, rows, self.processor, self.parts)
        waveforms = load_clips(self.processor, rows, sampling_rate, max_seconds, self.timing)
        return self.remade(self.texts, waveforms)

    def remade(
        self, texts: Sequence[str], waveforms: Sequence[Float[np.ndarray, " _"]]
    ) -> AudioPrompt:
        """A prompt of these texts and waveforms, made as this one was (see `from_texts`)."""
        return AudioPrompt.from_texts(
            self.processor,
            texts,
            waveforms,
            padding_side=self.padding_side,
            device=self.tokens.device,
            timing=self.timing,
            parts=self.parts,
        )

    def over_noise(self, seed: int = 0) -> AudioPrompt:
        """The same tokens over Gaussian white noise as long and as loud (root mean square) as each clip.

        The noise is drawn anew for each clip, so that a clip's is the same in any batch. A prompt
        without audio is returned as it is.

        Raises:
            ValueError: for a prompt made from tensors, which has no waveforms to be as loud as.
        """
        if self.mel is None:
            return self
        if self.waveforms is None or self.texts is None:
            raise ValueError(
                "a prompt made from tensors has no waveforms to be as loud as: make it with "
                "model.prompt, or take silence instead"
            )
        noisy = self.remade(self.texts, [noise_like(w, seed) for w in self.waveforms])
        return replace(self, mel=noisy.mel, waveforms=noisy.waveforms)

    def silenced(self) -> AudioPrompt:
        """The same tokens over digital silence: each clip replaced by as many zero samples.

        Raises ValueError without a processor, whose feature extractor knows what silence looks
        like. A prompt without audio is returned as it is.
        """
        if self.mel is None or self.mel_lengths is None:
            return self
        if self.processor is None:
            raise ValueError(
                "This prompt has no processor to make the features of silence with: make it with "
                "model.prompt(...), or pass processor= to AudioPrompt.from_tensors."
            )
        mel = features_of_silence(self.processor, self.samples_of_spectrograms(), self.mel)
        waveforms = None if self.waveforms is None else [np.zeros_like(w) for w in self.waveforms]
        return replace(self, mel=mel, waveforms=waveforms)

    def to(self, device: str | torch.device) -> AudioPrompt:
        """The same prompt with its tensors on `device`."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            attention_mask=self.attention_mask.to(device),
            audio_mask=self.audio_mask.to(device),
            mel=None if self.mel is None else self.mel.to(device),
            mel_lengths=None if self.mel_lengths is None else self.mel_lengths.to(device),
        )

    def _row(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise IndexError(f"Row {i} is out of range: the batch has rows 0 to {len(self) - 1}.")
        return i % len(self)

    def _spans(self, clip: int) -> Float[Tensor, "token 2"]:
        """Start and end of each of a clip's audio tokens, window after window."""
        assert self.mel_lengths is not None
        rates = self.hop_length, self.sampling_rate
        windows = self.windows_of(clip)
        left, spans = self.clip_seconds(clip), []
        whole = (self.timing.mel_per_window or 0) * self.seconds_per_frame
        for number, one in enumerate(windows):
            count = self.timing.n_tokens(int(self.mel_lengths[one]))
            is_last = one == windows[-1]
            found = self.timing.token_spans(count, left if is_last else whole, *rates)
            spans.append(found + number * whole)
            left -= whole
        found = torch.cat(spans)
        found[-1, 1] = self.clip_seconds(clip)  # also if a last window is too short for a token
        return found
