"""s(x): what a prompt's audio changes, against the same prompt over silence of equal length.

Both sides share their text and go through the decoder in one batch. What the encoder makes of
silence depends on its length alone, so it is computed once a length and kept.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data.collect import at_positions, collecting, layer_names
from lens_audio.inputs import AudioPrompt
from lens_audio.model.clips import window_numbers
from lens_audio.sites import last_positions

KEPT_LENGTHS = 64  # silences kept; 30 s of the 7B model in bfloat16 is 6 MB


Residuals = Mapping[int, Float[Tensor, "batch d_model"]]  # by layer: resid_post at one position


def direction(
    with_audio: Residuals, silent: Residuals, layers: Sequence[int]
) -> Float[Tensor, "batch d_model"]:
    """s(x) of each row: the mean over these layers of what the audio changes.

    Args:
        with_audio, silent: `resid_post` of these layers at the last prompt position, of the prompt
            and of the same prompt over silence of equal length.
        layers: L(S), those that hold specialist heads.
    """
    return torch.stack([with_audio[l] - silent[l] for l in layers], dim=1).mean(1)


class SilenceEmbeddings:
    """The projected encoder output of silence, by length in mel frames and number of the window in
    its clip; the oldest go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int, torch.dtype, str], Tensor] = OrderedDict()

    def of(
        self, model: HookedAudioTransformer, prompt: AudioPrompt
    ) -> Float[Tensor, "audio_token d_model"]:
        """What silence writes at the prompt's audio positions, clip after clip.

        Raises:
            ValueError: for a prompt without a processor, which knows what silence looks like.
        """
        assert prompt.mel_lengths is not None
        weight = model.embed.W_E
        timing = model.cfg.audio
        windows = window_numbers(prompt.audio_mask, prompt.mel_lengths, timing)
        places = zip(prompt.mel_lengths.tolist(), windows.tolist(), strict=True)
        keys = [(n, number, weight.dtype, str(weight.device)) for n, number in places]
        missing = {key: clip for clip, key in enumerate(keys) if key not in self._kept}
        found = {key: self._kept[key] for key in keys if key in self._kept}
        if missing:
            mel = prompt.silenced().mel
            assert mel is not None
            for key, clip in missing.items():
                # Alone, so that what is kept is no matter of the batch that it was first met in.
                one = slice(clip, clip + 1)
                lengths = prompt.mel_lengths[one]
                embedded = model.embed_audio(mel[one], lengths, windows[one])[0]
                n_tokens = int(timing.n_tokens(lengths))
                found[key] = self._kept[key] = embedded[:n_tokens].clone()
        while len(self._kept) > KEPT_LENGTHS:
            self._kept.popitem(last=False)
        return torch.cat([found[key] for key in keys])


@torch.no_grad()
def residuals_of_both(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    layers: Sequence[int],
    silences: SilenceEmbeddings,
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """`resid_post` by layer at each row's last real position, with the audio and over silence.

    Only layers up to the last of `layers` run. Hooks set on the model are set aside meanwhile.
    """
    with model.without_hooks():
        entered = model(prompt, stop_at_layer=0)
        both = torch.cat([entered, over_silence(model, prompt, entered, silences)])
        mask = prompt.attention_mask.to(both.device).repeat(2, 1)
        after = last_residuals(model, both, mask, layers)
    n = len(prompt)
    return {l: x[:n] for l, x in after.items()}, {l: x[n:] for l, x in after.items()}


def over_silence(
    model: HookedAudioTransformer,
    prompt: AudioPrompt,
    entered: Float[Tensor, "batch pos d_model"],
    silences: SilenceEmbeddings,
) -> Float[Tensor, "batch pos d_model"]:
    """The decoder's input `entered` with silence in the place of the audio."""
    if prompt.mel is None:
        return entered
    place = prompt.audio_mask.to(entered.device)[..., None]
    return entered.masked_scatter(place, silences.of(model, prompt).to(entered))


def last_residuals(
    model: HookedAudioTransformer,
    resid: Float[Tensor, "batch pos d_model"],
    attention_mask: Bool[Tensor, "batch pos"],
    layers: Sequence[int],
) -> dict[int, Tensor]:
    """`resid_post` at each row's last real position, by layer: the decoder is run from its input up
    to the last of these layers.
    """
    names, last = layer_names("hook_resid_post", layers), last_positions(attention_mask)
    with collecting(model, names, take=lambda after: at_positions(after, last)) as kept:
        model(resid, start_at_layer=0, stop_at_layer=max(layers) + 1, attention_mask=attention_mask)
    return {layer: kept[name] for layer, name in zip(layers, names, strict=True)}
