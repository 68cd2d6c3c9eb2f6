"""What the explorer asks of the model, kept so that a click asks only once. No widgets here."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from lens_audio.analysis import metrics
from lens_audio.analysis.attention import audio_attention, audio_mass, head_pattern
from lens_audio.analysis.circuit import Circuit, CircuitResult, CircuitTest, Head
from lens_audio.analysis.circuits import Graph, circuit_metric
from lens_audio.analysis.circuits.edges import edges_steps
from lens_audio.analysis.circuits.effects import Effects, effects_of
from lens_audio.analysis.patching import positions_by, sweep_steps
from lens_audio.analysis.patching.alignment import NOT_BY_GROUP, BaseAndSource
from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.data import Pair
from lens_audio.data import pair as paired
from lens_audio.data.answers import choice_log_probs, choice_probs, next_token_probs
from lens_audio.inputs import AudioPrompt
from lens_audio.sites import Site
from lens_audio.testbed import checkpoint_dir

ROLES = ("clean", "corrupted")
N_CANDIDATES = 5  # answers that are shown where no choices are given
SITES = ("z", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v",
         "pattern", "audio_embed", "audio_encoder.resid_pre", "audio_encoder.z")  # fmt: skip
METRICS = ("logit difference", "log probability", "probability")


Span: TypeAlias = tuple[float, float]  # seconds


class HeadEffect(NamedTuple):
    """A metric and an answer's probability in the clean run, and with one head's z corrupted."""

    metric: str
    whole: float
    without: float
    answer: str
    probability: float
    probability_without: float


@dataclass
class Session:
    """One question over a clean and a corrupted recording, and everything computed about it."""

    model: HookedAudioTransformer
    pair: Pair
    choices: Sequence[str] | None = None
    _tests: dict[tuple[str, int, int], CircuitTest] = field(default_factory=dict)
    _patterns: dict[tuple[str, Head], Tensor] = field(default_factory=dict)
    _effects: dict[tuple[Head, tuple[str, int, int]], HeadEffect] = field(default_factory=dict)
    _direct: dict[tuple[int, ...], Effects] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.choices, str) or (self.choices is not None and len(self.choices) < 2):
            raise ValueError(f"choices must be a list of two texts or more, not {self.choices!r}")
        for prompt in (self.clean, self.corrupted):
            if len(prompt) != 1:
                raise ValueError(
                    f"a prompt of one row, not of {len(prompt)}; explore one at a time"
                )
            if not prompt.n_clips:
                raise ValueError("the prompt has no audio, so there is nothing to listen to")
        if getattr(self.model, "tokenizer", None) is None or self.clean.tokenizer is None:
            raise ValueError(
                "the explorer shows tokens as text: load a checkpoint folder with its tokenizer, "
                "and make prompts with model.prompt"
            )
        BaseAndSource.of(self.model, self.pair, None, "denoise")  # refuses what cannot be patched

    @property
    def clean(self) -> AudioPrompt:
        """The clean prompt, of one row."""
        return self.pair.clean

    @property
    def corrupted(self) -> AudioPrompt:
        """The corrupted prompt, of one row."""
        return self.pair.corrupted

    def prompt(self, role: str) -> AudioPrompt:
        """The clean or the corrupted one."""
        return self.clean if role == "clean" else self.corrupted

    @cached_property
    def attention(self) -> dict[str, Float[Tensor, "layer head audio_token"]]:
        """From the last position to each audio token, by role."""
        return {role: audio_attention(self.model, self.prompt(role))[0].cpu() for role in ROLES}

    @property
    def question(self) -> str:
        """The clean prompt's text; each recording is "[audio]"."""
        words, audio = self.clean.str_tokens(0), self.clean.audio_mask[0].tolist()
        parts = [
            "[audio]" if audio[i] else word
            for i, word in enumerate(words)
            if not (audio[i] and i and audio[i - 1])
        ]
        return "".join(parts)

    @property
    def model_title(self) -> str:
        """What the model is called, and its size."""
        cfg = self.model.cfg
        source = str(getattr(self.model.tokenizer, "name_or_path", ""))
        is_embedded = cfg.model_name == checkpoint_dir().name and source == str(checkpoint_dir())
        name = (
            "the embedded checkpoint (sixteen synthetic sounds)" if is_embedded else cfg.model_name
        )
        millions = sum(weight.numel() for weight in self.model.parameters()) / 1e6
        return f"{name} · {cfg.n_layers} layers x {cfg.n_heads} heads, {millions:,.1f} M parameters"

    def mass(
        self, role: str, span: Span | None = None, clip: int = 0
    ) -> Float[Tensor, "layer head"]:
        """Each head's audio mass; of a span of seconds, that on the tokens of the clip within it."""
        if span is None:
            return audio_mass(self.attention[role])
        prompt = self.prompt(role)
        positions = prompt.positions_between(0, *span, clip=clip)
        within = torch.isin(prompt.audio_positions(0).cpu(), positions.cpu())
        return self.attention[role][..., within].sum(-1)

    def check_span(self, span: Any, clip: int = 0) -> Span | None:
        """A span of seconds within a clip of both recordings, or None: the whole.

        Raises:
            ValueError: for anything else.
        """
        if span is None:
            return None
        try:
            start, end = (float(second) for second in span)
        except (TypeError, ValueError):
            raise ValueError(f"a span is (start, end) in seconds or None, not {span!r}") from None
        for role in ROLES:
            self.prompt(role).positions_between(0, start, end, clip=clip)
        return start, end

    def known_effect(self, head: Head, metric: tuple[str, int, int]) -> HeadEffect | None:
        """`head_effect`, if it was asked for before."""
        return self._effects.get((head, metric))

    def head_effect(self, head: Head, metric: tuple[str, int, int]) -> HeadEffect:
        """What the answer comes to without one head; kept, so that a second click is quick."""
        key = (head, metric)
        if key not in self._effects:
            outcome, without = self.run_circuit(Circuit.of([head]), False, metric)
            whole, left = float(outcome.whole.mean()), float(outcome.metric.mean())
            answer = metric[1]
            self._effects[key] = HeadEffect(
                self.metric(*metric).name, whole, left,
                _visible(self.candidates[answer]), self.unedited["clean"][answer], without[answer],
            )  # fmt: skip
        return self._effects[key]

    def pattern(self, role: str, head: Head) -> Float[Tensor, "query key"]:
        """A head's whole pattern; the last few that were asked for are kept."""
        if (role, head) not in self._patterns:
            while len(self._patterns) >= 16:
                self._patterns.pop(next(iter(self._patterns)))
            self._patterns[role, head] = head_pattern(self.model, self.prompt(role), *head)[0].cpu()
        return self._patterns[role, head]

    @cached_property
    def candidates(self) -> list[str]:
        """The choices, or the likeliest next tokens of either run."""
        return list(self.choices) if self.choices else [self._word(i) for i in self._likeliest]

    @cached_property
    def tokens(self) -> list[int]:
        """The first token of each candidate, which metrics compare."""
        if not self.choices:
            return self._likeliest
        encode = self.model.required_tokenizer.encode
        return [encode(choice, add_special_tokens=False)[0] for choice in self.choices]

    @property
    def quantity(self) -> str:
        """What the candidates' probabilities are."""
        return "probability among the choices" if self.choices else "next-token probability"

    def probabilities(self, role: str = "clean", fwd_hooks: Sequence[Any] = ()) -> list[float]:
        """The probability of each candidate, with hooks in place."""
        with self.model.hooks(fwd_hooks=list(fwd_hooks)):
            if self.choices:
                log_probs = choice_log_probs(self.model, self.prompt(role), self.choices)
                return [float(p) for p in choice_probs(log_probs)[0]]
            probs = next_token_probs(self.model, self.prompt(role))[0]
            return [float(probs[token]) for token in self.tokens]

    @cached_property
    def unedited(self) -> dict[str, list[float]]:
        """The candidates' probabilities by role."""
        return {role: self.probabilities(role) for role in ROLES}

    @property
    def default_answers(self) -> tuple[int, int]:
        """The clean run's candidate, and the corrupted run's, or the clean run's next.

        Where it can be, one that begins with another token.
        """
        clean, corrupted = (self.unedited[role] for role in ROLES)
        order = sorted(range(len(clean)), key=clean.__getitem__, reverse=True)
        first = order[0]
        others = [max(range(len(corrupted)), key=corrupted.__getitem__), *order[1:]]
        others = [other for other in others if other != first]
        told_apart = [other for other in others if self.tokens[other] != self.tokens[first]]
        return first, (told_apart or others)[0]

    def metric(self, name: str, answer: int, instead: int) -> metrics.Metric:
        """A metric of candidates by number.

        Raises:
            ValueError: for a logit difference of two candidates that begin with the same token.
        """
        right, wrong = self.tokens[answer], self.tokens[instead]
        words = [_visible(self.candidates[number]) for number in (answer, instead)]
        if name == "log probability":
            return metrics.Metric(f"log p({words[0]})", metrics.log_prob(right))
        if name == "probability":
            return metrics.Metric(f"p({words[0]})", metrics.probability(right))
        if right == wrong:
            raise ValueError(
                f"{self.candidates[answer]!r} and {self.candidates[instead]!r} begin with the same "
                "token, so their logit difference is zero; choose another pair"
            )
        difference = metrics.logit_diff(right, wrong)
        return metrics.Metric(f"logit({words[0]}) - logit({words[1]})", difference)

    def circuit_test(self, name: str, answer: int, instead: int) -> CircuitTest:
        """Of one metric; the last one is kept."""
        key = (name, answer, instead)
        if key not in self._tests:
            self._tests.clear()
            metric = self.metric(*key)
            self._tests[key] = CircuitTest(self.model, self.pair, metric=metric)
        return self._tests[key]

    def run_circuit(
        self, circuit: Circuit, keep: bool, metric: tuple[str, int, int]
    ) -> tuple[CircuitResult, list[float]]:
        """What the metric and the candidates' probabilities are with only the circuit, or without."""
        test = self.circuit_test(*metric)
        outcome = test.only(circuit) if keep else test.without(circuit)
        fwd_hooks = test.corrupting(circuit, keep=keep)
        return outcome, self.probabilities("clean", fwd_hooks)

    def edges(
        self, metric: tuple[str, int, int], method: str
    ) -> Iterator[tuple[int, int, Graph | None]]:
        """The edges between both recordings in steps (`circuits.edges.edges_steps`)."""
        return edges_steps(self.model, self.pair, self.metric(*metric), method)

    def faithfulness(self, graph: Graph, metric: tuple[str, int, int]) -> float:
        """Of the edges that a graph keeps; NaN where no edge matters to the metric."""
        return circuit_metric(self.model, self.pair, graph, self.metric(*metric)).faithfulness

    def direct_effects(self, metric: tuple[str, int, int]) -> tuple[str, Effects]:
        """What nodes write straight into the logits of a metric's answers, and which logits; kept."""
        name, answer, instead = metric
        given = (answer, instead) if name == METRICS[0] else (answer,)
        if given not in self._direct:
            tokens = [self.tokens[it] for it in given]
            self._direct[given] = effects_of(self.model, self.pair, *tokens)
        words = " - ".join(f"logit({_visible(self.candidates[it])})" for it in given)
        return words, self._direct[given]

    def kinds(self, site: str) -> list[str]:
        """The sweeps that this site can have."""
        where, by_group = Site.of(site), self.pair.fit == "group"
        if by_group and where.short in NOT_BY_GROUP:
            return []
        kinds = ["window"] if by_group or len(self.clean.clips_of(0)) == 1 else []
        if where.head_axis is not None:
            kinds.insert(0, "head")
        if where.in_encoder:
            return kinds
        kinds += [] if where.is_audio else ["group"]
        return kinds if by_group else [*kinds, "position"]

    def what_is_patched(self, kind: str, site: str, window: float) -> str:
        """A cell of such a sweep in words."""
        return positions_by(kind, site, self._with_windows(window), window)[1]

    def sweep(
        self, kind: str, site: str, metric: tuple[str, int, int], direction: str, window: float
    ) -> Iterator[tuple[int, int, PatchingResult]]:
        """A patching sweep in steps (`patching.sweep_steps`)."""
        pair = self._with_windows(window)
        positions, _ = positions_by(kind, site, pair, window)
        return sweep_steps(
            self.model, pair, site=site, metric=self.metric(*metric), positions=positions,
            heads="each" if kind == "head" else None, direction=direction,
        )  # fmt: skip

    def _with_windows(self, window: float) -> Pair:
        """The pair; where it is patched by group, with windows of so many seconds."""
        if self.pair.fit != "group" or self.pair.window == window:
            return self.pair
        return paired(self.clean, self.corrupted, "group", window=window)

    def position_labels(self, kind: str, site: str, result: PatchingResult) -> list[str] | None:
        """Text of the swept positions, times for audio tokens; None where they speak already."""
        if kind != "position" or Site.of(site).in_encoder:
            return None
        places = [int(p) for p in result.axes.get("position", result.axes.get("group", []))]
        words, audio = self.clean.str_tokens(0), self.clean.audio_mask[0].tolist()
        return [
            f"{self.clean.time_of(0, p)[0]:.2f} s" if audio[p] else f"{_visible(words[p])} · {p}"
            for p in places
        ]

    @cached_property
    def _likeliest(self) -> list[int]:
        """Likeliest next tokens, of the clean and the corrupted run in turn."""
        runs = [next_token_probs(self.model, self.prompt(r))[0].topk(N_CANDIDATES) for r in ROLES]
        in_turn: Iterable[int] = (int(t) for pair in zip(*(r.indices for r in runs), strict=True)
                                  for t in pair)  # fmt: skip
        return list(dict.fromkeys(in_turn))[:N_CANDIDATES]

    def _word(self, token: int) -> str:
        return _visible(self.model.to_single_str_token(token))


def _visible(word: str) -> str:
    """A token with its line breaks visible."""
    return repr(word)[1:-1]
