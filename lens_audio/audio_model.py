"""HookedAudioTransformer: the decoder with a fully hooked audio encoder in front.

Above `model`, `inputs` and `checkpoints`: it runs what the first holds, on what the second makes,
with the weights that the third reads.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn as nn
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.audio_encoder import HookedAudioEncoder
from lens_audio.checkpoints import hf
from lens_audio.checkpoints.options import TransformerLensOptions
from lens_audio.checkpoints.pretrained import fill, open_checkpoint, resolve_device
from lens_audio.config import AudioModelConfig
from lens_audio.inputs import AudioPrompt, build_prompt
from lens_audio.inputs.from_inputs import prompt_from_inputs
from lens_audio.model import HookedTransformer
from lens_audio.model.clips import spectrograms_by_row, window_numbers
from lens_audio.model.decoder import Embedded
from lens_audio.model.hook_point import HookPoint
from lens_audio.model.kv_cache import KeyValueCache
from lens_audio.model.projector import AudioProjector


@runtime_checkable
class AudioInput(Protocol):
    """What the model reads of a prompt (`lens_audio.AudioPrompt` is one)."""

    tokens: Int[Tensor, "batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    audio_mask: Bool[Tensor, "batch pos"]
    mel: Float[Tensor, "audio n_mels mel_frame"] | None
    mel_lengths: Int[Tensor, " audio"] | None


@dataclass
class Listening:
    """The audio that bare tokens stand for inside `listening_to`."""

    prompt: AudioInput
    audio_embed: Tensor | None = None  # kept between forwards while no hook looks at the encoder


class HookedAudioTransformer(HookedTransformer):
    """A decoder that listens: an audio encoder's output replaces the audio tokens' embeddings.

    `model(prompt)` reads an AudioPrompt; `model(tokens)` is text only, unless inside
    `model.listening_to(prompt)`.
    """

    cfg: AudioModelConfig

    def __init__(self, cfg: AudioModelConfig, tokenizer: Any = None, processor: Any = None) -> None:
        super().__init__(cfg, tokenizer)
        self.processor = processor
        self.audio_encoder = HookedAudioEncoder.of(cfg.audio)
        self.audio_encoder.lock = self.lock
        self.audio_projector = AudioProjector(cfg)
        self.hook_audio_embed = HookPoint()  # [audio, token, d_model]
        if cfg.audio_edge_ids is not None:  # embeddings of the tokens that open and close a clip
            self.audio_edges = nn.Parameter(torch.zeros(2, cfg.d_model))
        self._listening: Listening | None = None
        self.setup()

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | os.PathLike[str],
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        *,
        revision: str | None = None,
        verbose: bool = True,
        **options: Any,
    ) -> "HookedAudioTransformer":
        """Load a checkpoint of one of the `FAMILIES`, such as `Qwen/Qwen2-Audio-7B-Instruct`.

        The config's fields and all names and shapes are checked before the first tensor is read,
        and every value while it is. No remote code is run, and no pickle that holds anything but
        tensors is opened.

        Args:
            path_or_hub_id: a folder with config.json and *.safetensors or pytorch_model*.bin
                (sharded or not), or a hub id.
            device: by default the GPU if there is one.
            dtype: a torch dtype or its name, such as "bfloat16"; "auto" is the one that config.json
                names. By default, and where it names none, the one the weights are stored in.
            revision: the hub's branch, tag or commit.
            verbose: show a progress bar.
            options: TransformerLens's: `tokenizer`, `first_n_layers`, `default_prepend_bos`,
                `default_padding_side`, `torch_dtype`, and any processing flag that is False; see
                `checkpoints.options.TransformerLensOptions`.

        Raises:
            FileNotFoundError: if there is no such folder or hub id, or no weights in it.
            ValueError: for another architecture, a field of config.json that no model can have, a
                device that does not exist, or a missing, extra, misshapen, quantised or unreadable
                tensor, or one with NaN or infinite values, each named.
        """
        asked = TransformerLensOptions(**options)
        if dtype is not None and asked.torch_dtype is not None:
            raise ValueError("give dtype= or torch_dtype=, which mean the same, not both")
        target = resolve_device(device)
        checkpoint = open_checkpoint(path_or_hub_id, revision, asked.first_n_layers)
        model = cls.without_weights(checkpoint.cfg)
        fill(model, checkpoint, target, asked.torch_dtype if dtype is None else dtype, verbose)
        model.cfg.model_name = Path(path_or_hub_id).name
        model.processor, tokenizer = checkpoint.read_processor()
        model.set_tokenizer(asked.tokenizer or tokenizer, asked.default_padding_side)
        if asked.default_prepend_bos is not None:
            model.cfg.default_prepend_bos = asked.default_prepend_bos
        return model.eval()

    @classmethod
    def from_pretrained_no_processing(
        cls, path_or_hub_id: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> "HookedAudioTransformer":
        """`from_pretrained`, which never processes weights, under TransformerLens's name for that."""
        return cls.from_pretrained(path_or_hub_id, *args, **kwargs)

    @classmethod
    def from_hf(cls, hf_model: nn.Module, processor: Any = None) -> "HookedAudioTransformer":
        """A HookedAudioTransformer over the weights of a transformers model of one of the `FAMILIES`.

        Nothing is copied: a change to one model's weights is a change to the other's. A subclass is
        accepted if it computes what its parent does. Of a model that holds one of a family among
        others (the whole Qwen2.5-Omni holds the thinker) that one is taken. Hooks that are set on the
        transformers model are not taken over.

        Args:
            processor: the checkpoint's own, such as a `Qwen2AudioProcessor`, for `prompt` and the
                text helpers.

        Raises:
            ValueError: for another architecture, or a model that computes something else than its
                weights alone say (an adapter in place, a class or an instance with a forward of its
                own); for weights that are offloaded, quantised, of several dtypes, on several
                devices, NaN or infinite. Each is named, with the way out.
        """
        hf_model = hf.model_inside(hf_model)
        model = cls.without_weights(hf.read_config(hf_model))
        hf.share_weights(hf_model, model)
        model.processor, model.tokenizer = processor, getattr(processor, "tokenizer", None)
        return model.eval()

    @classmethod
    def without_weights(cls, cfg: AudioModelConfig) -> "HookedAudioTransformer":
        """A model of these sizes on the meta device: names and shapes, and no memory."""
        with torch.device("meta"):
            return cls(cfg)

    def prompt(
        self, question: str | list[str] | None = None, audio: Any = None, **kwargs: Any
    ) -> AudioPrompt:
        """A question, or several, with audio, as an AudioPrompt; see `inputs.build_prompt`.

        Conversations are `messages=`, a forced beginning of the answer is `prefix=`.
        """
        with self.lock:  # a fast tokenizer serves one thread at a time
            return build_prompt(
                self.processor, question, audio, device=self.device, cfg=self.cfg, **kwargs
            )

    def prompt_from_inputs(self, inputs: Mapping[str, Any]) -> AudioPrompt:
        """The keyword arguments that the transformers model itself takes, whatever processor made
        them, as an AudioPrompt; see `inputs.from_inputs.prompt_from_inputs`.
        """
        return prompt_from_inputs(inputs, self.cfg, self.processor).to(self.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> "HookedAudioTransformer":
        """A copy outside every `with` block, `listening_to` included."""
        with self.lock:
            listening, self._listening = self._listening, None
            try:
                return super().__deepcopy__(memo)  # type: ignore[return-value]
            finally:
                self._listening = listening

    @contextmanager
    def listening_to(self, prompt: AudioInput) -> Iterator["HookedAudioTransformer"]:
        """Inside, `model(tokens)` means "these tokens, that audio".

        TransformerLens's own tools, which pass tokens, then run unchanged. The audio is encoded
        once, unless a hook is set on the encoder. Tokens must have the prompt's shape and its
        audio tokens in the same places.
        """
        with self.lock:
            previous, self._listening = self._listening, Listening(prompt)
            try:
                yield self
            finally:
                self._listening = previous

    def embed_audio(
        self,
        mel: Float[Tensor, "audio n_mels mel_frame"],
        mel_lengths: Int[Tensor, " audio"],
        windows: Int[Tensor, " audio"] | None = None,
    ) -> Float[Tensor, "audio token d_model"]:
        """What is written into the residual stream: encoder, projector, up to the longest clip.

        Args:
            windows: which window of its clip each spectrogram is, from 0 (default: each the first).
        """
        mel_lengths = mel_lengths.to(self.device)
        encoded = self.audio_encoder(
            mel, mel_lengths, keep_padding=self.audio_projector.has_hooks()
        )
        longest = int(self.cfg.audio.n_tokens(mel_lengths).max())
        return self.hook_audio_embed(self.audio_projector(encoded, windows)[:, :longest])

    def embed_input(
        self,
        input: Any,
        attention_mask: Tensor | None,
        past_kv_cache: KeyValueCache | None,
        prepend_bos: bool | None,
        padding_side: str | None,
    ) -> Embedded:
        """The start of a forward, also of a prompt, and of tokens inside `listening_to`."""
        if hasattr(input, "audio_mask"):
            if past_kv_cache is not None and past_kv_cache.length:
                raise ValueError(
                    "a prompt starts a sequence, but the cache holds positions; pass tokens"
                )
            return self._embed_prompt(input, attention_mask, None)
        is_first = past_kv_cache is None or past_kv_cache.length == 0
        if self._listening is not None and isinstance(input, Tensor) and is_first:
            return self._embed_listened(self._listening, input, attention_mask)
        return super().embed_input(input, attention_mask, past_kv_cache, prepend_bos, padding_side)

    def prompt_of(self, input: Any) -> Any:
        """A prompt itself; for tokens inside `listening_to` the prompt listened to, with them."""
        if self._listening is not None and isinstance(input, Tensor):
            tokens = self.check_tokens(input)
            return _with_tokens(self._listening.prompt, tokens, self.cfg.audio_token_id)
        return super().prompt_of(input)

    def _embed_prompt(
        self, prompt: AudioInput, attention_mask: Tensor | None, audio_embed: Tensor | None
    ) -> Embedded:
        tokens = self.check_tokens(prompt.tokens)
        audio_mask = prompt.audio_mask.to(tokens.device)
        mask = self.mask_of_new(prompt.attention_mask, tokens, None)
        if attention_mask is not None:
            mask = self.mask_of_new(attention_mask, tokens, None)
            prompt = _with(prompt, attention_mask=mask)  # as which hooks must know it
        resid = self.embed_text(tokens, audio_mask)
        if prompt.mel is not None and prompt.mel_lengths is not None:
            if audio_embed is None:
                audio_embed = self._embed_audio_of(prompt)
            resid = self.write_audio(resid, audio_embed, audio_mask, prompt.mel_lengths)
        elif bool(audio_mask.any()):
            raise ValueError("the prompt has audio tokens but no mel spectrogram")
        clips = spectrograms_by_row(audio_mask, prompt.mel_lengths, self.cfg.audio)
        return Embedded(resid, tokens, mask, audio_mask, clips, prompt)

    def _embed_audio_of(self, prompt: AudioInput) -> Float[Tensor, "audio token d_model"]:
        assert prompt.mel is not None
        assert prompt.mel_lengths is not None
        windows = None
        if self.cfg.projector.time_rotary_base is not None:
            windows = window_numbers(prompt.audio_mask, prompt.mel_lengths, self.cfg.audio)
        return self.embed_audio(prompt.mel, prompt.mel_lengths, windows)

    def write_audio(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        audio_embed: Float[Tensor, "audio token d_model"],
        audio_mask: Bool[Tensor, "batch pos"],
        mel_lengths: Int[Tensor, " audio"],
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream with the clips' embeddings in the places of the audio tokens.

        Args:
            audio_embed: of every clip, padded to one length, as `embed_audio` gives it; clips in row
                order.

        Raises:
            ValueError: for other places than the clips make tokens.
        """
        lengths = self.cfg.audio.n_tokens(mel_lengths.to(resid.device))
        n_places, n_tokens = int(audio_mask.sum()), int(lengths.sum())
        if n_places != n_tokens:
            raise ValueError(
                f"the prompt has {n_places} audio tokens, but its {len(lengths)} clips make {n_tokens}"
            )
        is_sound = torch.arange(audio_embed.shape[1], device=resid.device) < lengths[:, None]
        return resid.masked_scatter(audio_mask[..., None], audio_embed[is_sound].to(resid.dtype))

    def embed_text(
        self, tokens: Int[Tensor, "batch pos"], audio_mask: Bool[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """The tokens' embeddings, a clip's opening and closing tokens' its learned edges."""
        resid = self.embed(tokens)
        if self.cfg.audio_edge_ids is None:
            return resid
        beside = (F.pad(audio_mask[:, 1:], (0, 1)), F.pad(audio_mask[:, :-1], (1, 0)))
        edges = zip(self.cfg.audio_edge_ids, beside, self.audio_edges, strict=True)
        for token, next_to_audio, embedding in edges:
            is_edge = (tokens == token) & next_to_audio
            resid = torch.where(is_edge[..., None], embedding, resid)
        return resid

    def _embed_listened(
        self, listening: Listening, tokens: Tensor, attention_mask: Tensor | None
    ) -> Embedded:
        prompt, spoken = listening.prompt, self.prompt_of(tokens)
        if self._front_end_hooked() or torch.is_grad_enabled():
            return self._embed_prompt(spoken, attention_mask, None)
        if listening.audio_embed is None and prompt.mel is not None:
            listening.audio_embed = self._embed_audio_of(prompt)
        return self._embed_prompt(spoken, attention_mask, listening.audio_embed)

    def _front_end_hooked(self) -> bool:
        front = (*self.audio_encoder.hook_points(), self.hook_audio_embed)
        return self.audio_projector.has_hooks() or any(hook.has_hooks() for hook in front)


def _with_tokens(prompt: AudioInput, tokens: Tensor, audio_token_id: int) -> AudioInput:
    """The prompt with other tokens over its audio."""
    if tokens.shape != prompt.tokens.shape:
        raise ValueError(
            f"listening to a prompt of shape {tuple(prompt.tokens.shape)}, but the tokens have shape "
            f"{tuple(tokens.shape)}"
        )
    audio_mask = prompt.audio_mask.to(tokens.device)
    told = prompt.tokens.to(tokens.device)
    elsewhere = (tokens == audio_token_id) & ~audio_mask
    if bool(elsewhere.any()) or not torch.equal(tokens[audio_mask], told[audio_mask]):
        raise ValueError("the tokens' audio tokens are not where the prompt listened to has them")
    return _with(prompt, tokens=tokens)


def _with(prompt: AudioInput, **fields: Tensor | None) -> AudioInput:
    """A copy of the prompt with other fields."""
    changed = copy(prompt)
    for name, value in fields.items():
        object.__setattr__(changed, name, value)  # the prompt may be frozen
    return changed
