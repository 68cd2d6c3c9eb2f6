"""Audio-silence steering of a plain transformers model, by torch forward hooks alone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch
import torch.nn as nn
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_audio.analysis.attention import pattern_rows
from lens_audio.checkpoints.hf import family_of_model, model_inside, sizes_of
from lens_audio.data.collect import at_positions
from lens_audio.model.clips import windows_by_clip
from lens_audio.model.rotary import apply_rotary
from lens_audio.sites import last_positions
from lens_audio.steering.audio_silence.direction import direction
from lens_audio.steering.audio_silence.settings import AudioSilenceSettings, added, steps
from lens_audio.steering.transformers_forwards import is_read_again

# Whisper's log-mel of digital silence: log10 of its floor 1e-10, then (x + 4) / 4.
SILENT_LOG_MEL = -1.5
MEL_FRAME_MS = 10  # of Whisper's features


@contextmanager
def attached(steering: AudioSilenceSettings, hf_model: Any) -> Iterator[Any]:
    """Inside, `hf_model(...)` and `hf_model.generate(...)` are steered, s computed by hf_model.

    Args:
        hf_model: a transformers model of a family that transformers has, such as
            `Qwen2AudioForConditionalGeneration`.

    Raises:
        ValueError: for another model, one that the steering does not fit, and while attached, for
            prompts that hold one audio token a clip.
    """
    inside = model_inside(hf_model)
    state = _AttachedToHf(steering, inside)
    cfg = state.cfg
    steering.check_sizes({"n_layers": cfg.n_layers, "n_heads": cfg.n_heads, "d_model": cfg.d_model})
    handles = [
        inside.register_forward_pre_hook(state.see, with_kwargs=True),
        state.decoder.layers[-1].register_forward_hook(state.add),
    ]
    try:
        yield hf_model
    finally:
        for handle in handles:
            handle.remove()


class _Enough(Exception):
    """Ends a run of the model early."""


class _AttachedToHf:
    """Steering while attached to a transformers model."""

    def __init__(self, steering: AudioSilenceSettings, hf_model: Any) -> None:
        self.steering, self.hf_model = steering, hf_model
        family, _ = family_of_model(hf_model)
        assert family.in_transformers is not None
        self.decoder = hf_model.get_submodule(family.in_transformers.decoder)
        self.cfg = sizes_of(hf_model)
        self.silences: dict[tuple[int, ...], Tensor] = {}  # by a clip's windows, in mel frames
        self.is_computing = self.continues = False
        self.seen: tuple[Tensor, Tensor] | None = None  # the prompt whose s is in use
        self.s: Tensor | None = None
        self.score: Tensor | None = None
        self.step: Tensor | None = None
        self.mask: Tensor | None = None

    @torch.no_grad()
    def see(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """Before each forward: compute s of a new prompt."""
        past = kwargs.get("past_key_values")
        self.continues = past is not None and past.get_seq_length() > 0
        ids = kwargs.get("input_ids", args[0] if args else None)
        features = kwargs.get("input_features", args[1] if len(args) > 1 else None)
        if self.continues or is_read_again(self.seen, ids, features):
            return
        self.seen = self.s = self.score = self.step = None
        if features is None or self.steering.beta == 0:
            return
        self.is_computing = True
        try:
            self._compute({**kwargs, "input_ids": ids, "input_features": features})
        finally:
            self.is_computing = False
        self.seen = cast(Tensor, ids), features

    def add(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """After the last layer: add beta · s."""
        if self.is_computing or self.s is None or self.mask is None:
            return None
        after = output[0] if isinstance(output, tuple) else output
        last = last_positions(self.mask).to(after.device)
        if self.step is None:
            at_last = at_positions(after, last)
            self.step = steps(self.steering, self.s, self.score, lambda: self._logits(at_last))
        places = torch.arange(after.shape[1], device=after.device)[None]
        if self.continues:
            places = places + self.mask.shape[1]
        after = added(after, self.step, (places == last[:, None]) | (places >= self.mask.shape[1]))
        return (after, *output[1:]) if isinstance(output, tuple) else after

    def _compute(self, inputs: dict[str, Any]) -> None:
        """s of a prompt: one run over both of its sides, as far as the last specialist layer."""
        ids, frames = inputs["input_ids"], self._mel_lengths(inputs)
        is_audio = ids == self.cfg.audio_token_id
        if int(is_audio.sum()) != int(self.cfg.audio.n_tokens(frames).sum()):
            raise ValueError(
                "steering needs one audio token for every "
                f"{MEL_FRAME_MS * self.cfg.audio.mel_frames_per_token} ms in the prompt; make it with the "
                "processor, which expands <|AUDIO|>"
            )
        mask = inputs.get("attention_mask")
        self.mask = torch.ones_like(ids).bool() if mask is None else mask.bool()
        has_audio = is_audio.any(1, keepdim=True)
        if self.steering.direction is not None:
            s = self.steering.direction.to(self.decoder.embed_tokens.weight).expand(len(ids), -1)
        if self.steering.direction is None or self.steering.adaptive == "listening":
            entered, position_ids = self._decoder_input(inputs)
            rows = windows_by_clip(is_audio, frames, self.cfg.audio)
            clips = [tuple(frames[list(clip)].tolist()) for row in rows for clip in row]
            quiet = torch.cat([self._silence(clip, inputs) for clip in clips])
            place = is_audio[..., None].to(entered.device)
            over_silence = entered.masked_scatter(place, quiet.to(entered))
            both = torch.cat([entered, over_silence])
            after, self.score = self._run(both, position_ids, is_audio)
            if self.steering.direction is None:
                n = len(ids)
                with_audio = {l: x[:n] for l, x in after.items()}
                silent = {l: x[n:] for l, x in after.items()}
                s = direction(with_audio, silent, self.steering.layers)
        self.s = torch.where(has_audio.to(s.device), s, torch.zeros_like(s))

    def _mel_lengths(self, inputs: dict[str, Any]) -> Int[Tensor, " audio"]:
        """Valid mel frames of each clip."""
        name, features = self.cfg.prompt_parts.mel_mask, inputs["input_features"]
        if name is None:
            return torch.full((len(features),), features.shape[-1], device=features.device)
        return inputs[name].sum(-1)

    def _decoder_input(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Embeddings [batch, pos, d_model] as they enter the decoder, and position ids if given."""
        found: dict[str, Any] = {}

        def stop(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            found.update(kwargs)
            raise _Enough

        names = ["input_ids", "input_features", "attention_mask", "position_ids"]
        if self.cfg.prompt_parts.mel_mask is not None:
            names.append(self.cfg.prompt_parts.mel_mask)
        given = {name: inputs.get(name) for name in names}
        with _hooked([self.decoder.register_forward_pre_hook(stop, with_kwargs=True)]):
            self.hf_model.model(**given, use_cache=False)
        return found["inputs_embeds"], found.get("position_ids")

    def _silence(
        self, windows: tuple[int, ...], inputs: dict[str, Any]
    ) -> Float[Tensor, "token d_model"]:
        """What a silent clip of these windows writes at its audio positions; computed once."""
        if windows not in self.silences:
            features, ids = inputs["input_features"], inputs["input_ids"]
            n_tokens = sum(map(self.cfg.audio.n_tokens, windows))
            mel = torch.full_like(features[:1], SILENT_LOG_MEL).repeat(len(windows), 1, 1)
            row = ids.new_tensor([[int(ids[0, -1]), *[self.cfg.audio_token_id] * n_tokens]])
            quiet = {
                "input_ids": row,
                "input_features": mel,
                "attention_mask": torch.ones_like(row),
            }
            if self.cfg.prompt_parts.mel_mask is not None:
                frames = torch.arange(mel.shape[2], device=mel.device)
                is_real = frames < frames.new_tensor(windows)[:, None]
                quiet[self.cfg.prompt_parts.mel_mask] = is_real.long()
            embeds, _ = self._decoder_input(quiet)
            self.silences[windows] = embeds[0, 1:]
        return self.silences[windows]

    def _run(
        self, both: Tensor, position_ids: Tensor | None, is_audio: Tensor
    ) -> tuple[dict[int, Tensor], Float[Tensor, " batch"] | None]:
        """The residual stream by specialist layer at the last position; listening score."""
        assert self.mask is not None
        layers = self.steering.layers
        n, last = len(both) // 2, last_positions(self.mask).repeat(2)
        kept: dict[int, Tensor] = {}

        def keep(layer: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple, output: Any) -> None:
                after = output[0] if isinstance(output, tuple) else output
                kept[layer] = at_positions(after, last)
                if layer == layers[-1]:
                    raise _Enough

            return hook

        handles = [self.decoder.layers[l].register_forward_hook(keep(l)) for l in layers]
        masses: dict[int, Tensor] = {}
        if self.steering.adaptive == "listening":
            readable = self.mask, is_audio
            handles += [
                _watch_mass(self.decoder.layers[l], l, masses, n, *readable) for l in layers
            ]
        if position_ids is not None and position_ids.shape[-2] > 1:
            position_ids = torch.cat([position_ids] * 2, dim=-2)  # [..., batch, pos]
        with _hooked(handles):
            self.decoder(
                inputs_embeds=both,
                attention_mask=self.mask.long().repeat(2, 1),
                position_ids=position_ids,
                use_cache=False,
            )
        score = None
        if masses:
            score = torch.stack([masses[l][:, h] for l, h in self.steering.heads]).mean(0)
        return kept, score

    @torch.no_grad()
    def _logits(self, at_last: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_vocab"]:
        return self.hf_model.lm_head(self.decoder.norm(at_last))


@contextmanager
def _hooked(handles: Sequence[Any]) -> Iterator[None]:
    """Until the block ends or a hook has had enough; then the hooks are gone."""
    try:
        with suppress(_Enough):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _watch_mass(
    layer: Any,
    number: int,
    masses: dict[int, Tensor],
    n: int,
    mask: Bool[Tensor, "batch pos"],
    is_audio: Bool[Tensor, "batch pos"],
) -> Any:
    """A hook that puts the audio mass of the first n rows' heads, [batch, head], in `masses`."""

    def hook(attention: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        x: Tensor = (args[0] if args else kwargs["hidden_states"])[:n]
        shape = (*x.shape[:2], -1, attention.head_dim)
        q, k = attention.q_proj(x).view(shape), attention.k_proj(x).view(shape)
        if hasattr(attention, "q_norm"):
            q, k = attention.q_norm(q), attention.k_norm(k)
        cos, sin = (part[:n] for part in kwargs["position_embeddings"])
        q, k = (apply_rotary(part, cos[:, :, None], sin[:, :, None]) for part in (q, k))
        last = last_positions(mask)
        may_read = mask & (torch.arange(mask.shape[1], device=mask.device) <= last[:, None])
        at_last = at_positions(q, last)[:, None]
        pattern = pattern_rows(at_last, k, may_read[:, None])[:, :, 0]  # [batch, head, key]
        masses[number] = (pattern * is_audio[:, None]).sum(-1)

    return layer.self_attn.register_forward_pre_hook(hook, with_kwargs=True)
