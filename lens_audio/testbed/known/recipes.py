"""What makes each of the checkpoints with a known answer: labels, prices and what is put in.

*emergent* and *graded*: a price on listening, for every head alike, leaves a few readers of the
model's own choosing. *planted*: four readers, six decoys and a late veto are put in.
"""

from __future__ import annotations

from dataclasses import dataclass

from lens_audio.sites import Head


@dataclass(frozen=True)
class Ramp:
    """A weight that is 0 at first, then rises linearly to `value` between two shares of the steps."""

    value: float
    start: float = 0.0
    full: float = 0.0

    def at(self, progress: float) -> float:
        """The weight where `progress` of the steps (0 to 1) are done."""
        if progress >= self.full:
            return self.value
        return self.value * max(0.0, (progress - self.start) / (self.full - self.start))


@dataclass(frozen=True)
class Labels:
    """Which answer is right in training where caption and sound disagree.

    The sound's, with probability sigmoid((SNR - threshold) / softness), the threshold higher under
    a firm caption; else the caption's choice with probability `caption_share`, and the rest spread
    over the others, without the sound's answer where `rejects_heard`.
    """

    plain_snr_db: float
    firm_snr_db: float
    softness_db: float = 0.7
    caption_share: float = 0.7
    rejects_heard: bool = True
    # Spread of the threshold over captioned classes, in dB to either side.
    caption_offset_db: float = 0.0
    read_share: float = 0.12  # of the captioned prompts, those that ask what is written


@dataclass(frozen=True)
class Price:
    """What listening costs every head: log1p(M / scale) / log1p(1 / scale), and M itself.

    M is a head's mean audio mass at the last position plus `elsewhere` times that of all other text.
    """

    per_head: Ramp
    linear: Ramp
    scale: float
    elsewhere: float = 3.0


@dataclass(frozen=True)
class Plant:
    """What is put in: readers alone may attend to the audio, decoys attend and write nothing."""

    readers: tuple[Head, ...]
    decoys: tuple[Head, ...]
    decoy_mass: float
    bias: float  # subtracted at first from all other heads' scores of audio keys
    freed: Ramp  # takes the bias away again
    leak: Ramp  # weight of log1p(mass / 0.01) of all other heads, measured without the bias
    follow: Ramp  # weight of the readers' mass following the SNR
    veto: Ramp  # weight of the audio's answer being no likelier than other wrong ones, late
    decoy: Ramp  # weight of the decoys' mass
    veto_layers: tuple[int, ...]
    firm_factor: float = 0.4  # the readers' mass under a firm caption, over that under others
    class_offset_db: float = 0.0  # spread of that SNR over classes of sound, to either side


@dataclass(frozen=True)
class Recipe:
    """One checkpoint's labels, losses and length of training."""

    steps: int
    labels: Labels
    lens_layer: int | None = None  # after this block the lens should give what is heard
    lens_weight: float = 0.0
    late_layers: tuple[int, ...] = ()  # after these blocks the lens should give the label
    late_weight: float = 0.0
    price: Price | None = None
    plant: Plant | None = None
    learning_rate: float = 1.5e-3
    warmup_steps: int = 60
    weight_decay: float = 0.05
    rows: int = 8  # recordings a step
    questions: int = 6  # about each
    clips: int = 20_000  # synthesised once, drawn with replacement


NEVER = 1e3  # dB: no sound is so clear

RECIPES = {
    "emergent": Recipe(
        steps=2400,
        labels=Labels(plain_snr_db=0.0, firm_snr_db=7.0),
        lens_layer=4,
        lens_weight=0.3,
        late_layers=(5, 6),
        late_weight=0.5,
        price=Price(Ramp(0.03, 0.12, 0.5), Ramp(0.03, 0.12, 0.5), scale=0.1),
    ),
    "graded": Recipe(
        steps=2400,
        labels=Labels(plain_snr_db=0.0, firm_snr_db=7.0, rejects_heard=False),
        price=Price(Ramp(0.025, 0.08, 0.5), Ramp(0.02, 0.08, 0.5), scale=0.05),
    ),
    "planted": Recipe(
        steps=2600,
        labels=Labels(
            plain_snr_db=-1.0,
            firm_snr_db=NEVER,
            caption_share=0.85,
            rejects_heard=False,
            caption_offset_db=5.0,
            read_share=0.0,
        ),
        lens_layer=4,
        lens_weight=0.5,
        late_layers=(5,),
        late_weight=0.5,
        plant=Plant(
            readers=((3, 1), (3, 5), (4, 2), (4, 6)),
            decoys=((1, 2), (2, 4), (3, 7), (5, 3), (6, 0), (6, 5)),
            decoy_mass=0.7,
            bias=20.0,
            freed=Ramp(1.0, 0.3, 0.4),
            leak=Ramp(0.5, 0.12, 0.2),
            follow=Ramp(1.0, 0.4, 0.5),
            veto=Ramp(0.15, 0.4, 0.5),
            decoy=Ramp(1.0, 0.6, 0.65),
            veto_layers=(5, 6, 7),
            class_offset_db=7.0,
        ),
    ),
}
