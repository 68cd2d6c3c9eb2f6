"""Runs that begin inside the audio encoder: its frames are the positions, and they end in the logits."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio.analysis.circuits.nodes import Nodes
from lens_audio.analysis.circuits.runs import PairRuns, keeping
from lens_audio.analysis.metrics import MetricFunction
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data import Pair
from lens_audio.model.attention_context import AttentionContext


@dataclass
class EncoderRuns(PairRuns):
    """`PairRuns` whose `embed` and `mask` are of the encoder's frames, a row of the prompt each."""

    text: Float[Tensor, "batch text_pos d_decoder"]  # what enters the decoder, sound included
    text_mask: Bool[Tensor, "batch text_pos"]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        model: HookedAudioTransformer,
        pair: Pair,
        metric: MetricFunction,
        nodes: Nodes | None = None,
    ) -> "EncoderRuns":
        """As of `PairRuns`, with the encoder's nodes.

        Raises:
            ValueError: for rows without exactly one spectrogram, or groups of positions, too.
        """
        if nodes is not None and nodes.groups:
            raise ValueError("frames of the encoder are in no groups; by_group is of the decoder")
        for prompt in (pair.clean, pair.corrupted):
            n = 0 if prompt.mel is None else len(prompt.mel)
            if n != len(prompt):
                raise ValueError(
                    f"edges of the encoder need one spectrogram in each row; {len(prompt)} rows have {n}"
                )
        nodes = Nodes.of(model.cfg, "encoder") if nodes is None else nodes
        runs = PairRuns.of(model, pair, metric, nodes)
        kept: dict[str, Tensor] = {}
        with model.hooks(fwd_hooks=keeping(kept, nodes.written[:1])):
            model(runs.base, stop_at_layer=0)
        frames = kept[nodes.written[0]]
        mask = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        if model.cfg.audio.masks_padding:
            assert runs.base.mel_lengths is not None
            lengths = model.cfg.audio.n_frames(runs.base.mel_lengths.to(frames.device))
            mask = torch.arange(frames.shape[1], device=frames.device) < lengths[:, None]
        facts = vars(runs) | {"embed": frames, "mask": mask, "groups": [mask]}
        return cls(**facts, text=runs.embed, text_mask=runs.mask)

    @property
    def n_final(self) -> int:
        """All: each frame is heard."""
        return self.mask.shape[1]

    def context(self, resid: Float[Tensor, "batch pos d_model"]) -> AttentionContext:
        """As of `PairRuns`."""
        cfg = self.model.cfg.audio
        return AttentionContext.of(cfg, resid, self.mask, window=cfg.window)

    def continued(
        self, layer: int, resid: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "row last d_vocab"]:
        """The rest of the encoder, the projector, and the decoder."""
        model, n_copies = self.model, len(resid) // len(self.mask)
        assert self.base.mel_lengths is not None
        lengths = self.base.mel_lengths.to(resid.device).repeat(n_copies)
        audio_mask = self.base.audio_mask.to(resid.device).repeat(n_copies, 1)
        encoded = model.audio_encoder.from_layer(layer, resid, lengths)
        embed = model.audio_projector(encoded, torch.zeros(len(lengths), dtype=torch.long))
        text = self.text.repeat(n_copies, 1, 1)
        return model(
            model.write_audio(text, embed, audio_mask, lengths),
            start_at_layer=0,
            attention_mask=self.text_mask.repeat(n_copies, 1),
            logits_to_keep=self.n_last,
        )


RUNS: dict[str, type[PairRuns]] = {"decoder": PairRuns, "encoder": EncoderRuns}
