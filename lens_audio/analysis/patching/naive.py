"""The naive engine: a whole forward for every cell, with the hook function that users have."""

from collections.abc import Iterator

from lens_audio import hooks
from lens_audio.analysis.patching.alignment import Alignment
from lens_audio.analysis.patching.cells import Cell
from lens_audio.analysis.patching.fast import Done
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.inputs import AudioPrompt
from lens_audio.sites import Site


class NaivePatcher:
    """A whole forward for every cell."""

    def __init__(
        self,
        model: HookedAudioTransformer,
        site: Site,
        base: AudioPrompt,
        source: AudioPrompt,
        cells: list[Cell],
        n_last: int = 1,
        align: Alignment | None = None,
    ) -> None:
        self.model, self.site, self.base = model, site, base
        names = sorted({site.in_layer(cell.layer) for cell in cells})
        self.n_last = n_last
        self.source_logits, cache = model.run_with_cache(
            source, names_filter=names, logits_to_keep=n_last
        )
        self.source_cache = {
            name: cache[name] if align is None else align(cache[name]) for name in names
        }
        self.base_logits = model(base, logits_to_keep=n_last)

    def run(self, cells: list[Cell], batch_tokens: int | None = None) -> Iterator[Done]:
        """The last positions' logits of every cell, each of a whole forward whatever `batch_tokens`."""
        for cell in cells:
            name = self.site.in_layer(cell.layer)
            patch = hooks.patch(
                name, source=self.source_cache, heads=cell.head, positions=cell.positions,
                neurons=cell.neurons,
            )  # fmt: skip
            yield (
                cell,
                self.model.run_with_hooks(self.base, fwd_hooks=patch, logits_to_keep=self.n_last),
            )
