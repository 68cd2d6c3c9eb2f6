"""Both runs of a pair as edges need them: what each sender wrote, and the clean run from any layer on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio.analysis.circuits.nodes import Nodes
from lens_audio.analysis.metrics import AppliedMetric, MetricFunction, logits_needed
from lens_audio.analysis.patching.alignment import BaseAndSource
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data import Pair
from lens_audio.inputs import AudioPrompt
from lens_audio.model.attention_context import AttentionContext
from lens_audio.model.block import TransformerBlock
from lens_audio.model.hook_point import only_reads

GROUPS = ("audio", "text", "last")  # of positions; text is all that is neither of the others

# How a model must run so that hook points mean one thing, whatever flags its user has set.
FLAGS = {
    "use_split_qkv_input": False,
    "use_attn_in": False,
    "use_attn_result": False,
    "ungroup_grouped_query_attention": False,
    "use_hook_mlp_in": True,
}


@contextmanager
def plain(model: HookedAudioTransformer) -> Iterator[None]:
    """Inside, TransformerLens's flags are as edges need them; other threads wait."""
    with model.lock:
        before = [
            (cfg, {f: getattr(cfg, f) for f in FLAGS}) for cfg in (model.cfg, model.cfg.audio)
        ]
        try:
            for cfg, _ in before:
                vars(cfg).update(FLAGS)
            yield
        finally:
            for cfg, flags in before:
                vars(cfg).update(flags)


@dataclass
class Written:
    """What the senders of a stage wrote, or by how much that differs between two runs.

    Of heads z is kept, which is smaller: what they write is made from it when it is asked for.
    """

    blocks: Any  # a ModuleList of TransformerBlock
    nodes: Nodes
    embed: Float[Tensor, "batch pos d_model"]
    z: list[Float[Tensor, "batch pos head d_head"]]
    mlp_out: list[Float[Tensor, "batch pos d_model"]]

    @classmethod
    def of(cls, blocks: Any, nodes: Nodes, kept: dict[str, Tensor]) -> "Written":
        """Of activations by hook name."""
        embed, *rest = (kept[name].detach() for name in nodes.written)
        return cls(blocks, nodes, embed, rest[: nodes.n_layers], rest[nodes.n_layers :])

    def minus(self, other: "Written", real: Bool[Tensor, "batch pos"]) -> "Written":
        """The difference, at real positions; zero at padding."""
        return self.each(torch.sub, other).at(real)

    def at(self, positions: Bool[Tensor, "batch pos"]) -> "Written":
        """The same at some positions, zero at others."""
        others = ~positions

        def kept(part: Tensor) -> Tensor:
            return part.masked_fill(others.view(*others.shape, *[1] * (part.ndim - 2)), 0.0)

        return self.each(kept)

    def each(self, function: Callable[..., Tensor], *others: "Written") -> "Written":
        """A function of what every stage wrote, here and in others."""
        runs = (self, *others)
        embed = function(*(run.embed for run in runs))
        z = [function(*parts) for parts in zip(*(run.z for run in runs), strict=True)]
        mlp_out = [function(*parts) for parts in zip(*(run.mlp_out for run in runs), strict=True)]
        return Written(self.blocks, self.nodes, embed, z, mlp_out)

    def by(
        self, stage: int, positions: slice = slice(None)
    ) -> Float[Tensor, "batch sender some_pos d_model"]:
        """Of each of a stage's senders."""
        layer, is_mlp = divmod(stage - 1, 2)
        if stage == 0:
            return self.embed[:, None, positions]
        if is_mlp:
            return self.mlp_out[layer][:, None, positions]
        return written_by_heads(self.blocks[layer], self.z[layer][:, positions])

    def of_senders(self, numbers: Sequence[int]) -> Float[Tensor, "batch sender pos d_model"]:
        """Of senders by their numbers, in ascending order."""
        found = []
        for stage in range(self.nodes.last_stage):
            place = self.nodes.senders_of(stage)
            wanted = [i - place.start for i in numbers if place.start <= i < place.stop]
            if wanted:
                found.append(self.by(stage)[:, wanted])
        return torch.cat(found, dim=1)


def written_by_heads(
    block: TransformerBlock, z: Float[Tensor, "batch pos head d_head"]
) -> Float[Tensor, "batch head pos d_model"]:
    """z W_O of each head; the bias of the output is no head's."""
    weight = block.attn.o_proj.weight.unflatten(1, (z.shape[2], -1))
    return z.transpose(1, 2) @ weight.permute(1, 2, 0)


@dataclass
class PairRuns:
    """The clean embeddings and mask of a pair, and what the senders wrote in its corrupted run."""

    model: HookedAudioTransformer
    nodes: Nodes
    base: AudioPrompt  # the clean prompt
    embed: Float[Tensor, "batch pos d_model"]
    mask: Bool[Tensor, "batch pos"]
    corrupted: Written
    corrupted_logits: Float[Tensor, "batch last d_vocab"]
    metric: MetricFunction
    n_last: int
    groups: list[Bool[Tensor, "batch pos"]]  # of positions; one of all of them by default

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        model: HookedAudioTransformer,
        pair: Pair,
        metric: MetricFunction,
        nodes: Nodes | None = None,
    ) -> "PairRuns":
        """Runs the corrupted prompt, and of the clean one what makes its embeddings.

        Args:
            nodes: the decoder's by default; their groups are of `GROUPS`.

        Raises:
            ValueError: for prompts whose positions do not correspond, or hooks on the model.
        """
        runs = BaseAndSource.of(model, pair, None, "noise")
        nodes = Nodes.of(model.cfg) if nodes is None else nodes
        blocks = model.get_submodule(f"{nodes.prefix}blocks")
        n_last = logits_needed([metric], runs.base, runs.source)
        kept: dict[str, Tensor] = {}
        with model.hooks(fwd_hooks=keeping(kept, nodes.written)):
            corrupted_logits = model(runs.source, logits_to_keep=n_last)
        corrupted = Written.of(blocks, nodes.whole, runs.at_base(kept))
        embed = model(runs.base, stop_at_layer=0)
        mask = runs.base.attention_mask.to(corrupted_logits.device)
        groups = [_in_group(group, runs.base).to(mask.device) for group in nodes.groups] or [mask]
        return PairRuns(
            model, nodes.whole, runs.base, embed, mask, corrupted, corrupted_logits, metric,
            n_last, groups,
        )  # fmt: skip

    @property
    def blocks(self) -> Any:
        """The transformer blocks that the nodes are of."""
        return self.corrupted.blocks

    @property
    def n_final(self) -> int:
        """How many last positions of the final residual stream anything depends on."""
        return self.n_last

    def from_layer(
        self,
        layer: int,
        resid: Float[Tensor, "row pos d_model"],
        names: Iterable[str] = (),
        fwd_hooks: Sequence[tuple[str, Callable]] = (),
    ) -> tuple[dict[str, Tensor], Float[Tensor, "row last d_vocab"]]:
        """Activations and the last logits of a run that begins before a layer.

        Rows are copies of the batch, one after another.
        """
        kept: dict[str, Tensor] = {}
        with self.model.hooks(fwd_hooks=[*fwd_hooks, *keeping(kept, names)]):
            return kept, self.continued(layer, resid)

    def continued(
        self, layer: int, resid: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "row last d_vocab"]:
        """The last logits of a run that begins before a layer, in which hooks are set already."""
        return self.model(
            resid,
            start_at_layer=layer,
            attention_mask=self.mask.repeat(len(resid) // len(self.mask), 1),
            logits_to_keep=self.n_last,
        )

    def context(self, resid: Float[Tensor, "batch pos d_model"]) -> AttentionContext:
        """Who may attend to whom."""
        return AttentionContext.of(self.model.cfg, resid, self.mask)

    @torch.no_grad()
    def clean(self) -> tuple[dict[str, Tensor], Written, Float[Tensor, "batch last d_vocab"]]:
        """The clean run: its residual streams by hook name, what its senders wrote, its logits."""
        layers = range(self.nodes.n_layers)
        resid = [self.nodes.hook(l, f"hook_resid_{at}") for l in layers for at in ("pre", "mid")]
        embed, *rest = self.nodes.written
        kept, logits = self.from_layer(0, self.embed, [*resid, *rest, self.final_name])
        return kept, Written.of(self.blocks, self.nodes, kept | {embed: self.embed}), logits

    @property
    def final_name(self) -> str:
        """The hook point of the final residual stream."""
        return self.nodes.hook(self.nodes.n_layers - 1, "hook_resid_post")

    def applied(self, clean_logits: Float[Tensor, "batch last d_vocab"]) -> AppliedMetric:
        """The metric in the form that fits both runs."""
        return AppliedMetric.to(self.metric, clean_logits.detach(), self.corrupted_logits)

    def values(
        self, applied: AppliedMetric, logits: Float[Tensor, "row last d_vocab"]
    ) -> Float[Tensor, "copy batch"]:
        """The metric of every row of a run of several copies of the batch."""
        return torch.stack([applied(some) for some in logits.split(len(self.mask))])


def _in_group(group: str, prompt: AudioPrompt) -> Bool[Tensor, "batch pos"]:
    """The real positions of a group; each is in one."""
    last = torch.zeros_like(prompt.attention_mask)
    last[:, -1] = True
    audio = prompt.audio_mask & ~last
    return {"audio": audio, "text": prompt.attention_mask & ~audio & ~last, "last": last}[group]


def keeping(
    kept: dict[str, Tensor], names: Iterable[str]
) -> list[tuple[str, Callable[[Tensor, Any], None]]]:
    """Hooks that keep activations as they are, without the copy that one which edits them needs."""

    @only_reads
    def keep(activation: Tensor, hook: Any) -> None:
        kept[hook.name] = activation

    return [(name, keep) for name in names]
