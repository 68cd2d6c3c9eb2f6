"""Runs: a name, and what it does to the model or to the prompt.

A run is one of

- None: the model as it is;
- hook functions, a list of (hook name, function) pairs as those of `lens_audio.hooks`;
- a steering: anything with `attach(model)`, such as a `SteeringVector`, `AudioSilenceSteering` or
  `la.steering.contrastive(…)`;
- a function of the prompt, which gives hook functions for it, or the prompt to ask in its place.

What a run is goes into the manifest of an evaluation, so that another one is never continued as if it
were the same. All of the above say what they are but for functions of a prompt, whose code cannot be
told from another's: they need `facts`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeAlias, runtime_checkable

from lens_audio import fingerprint
from lens_audio.audio_model import HookedAudioTransformer
from lens_audio.hooks.selection import Hook
from lens_audio.inputs import AudioPrompt

BASE = "base"


@runtime_checkable
class Attachable(Protocol):
    """A steering: inside `with steering.attach(model):` every run of the model is changed."""

    def attach(self, model: Any) -> Any:
        """A context manager."""
        ...


@runtime_checkable
class Controlled(Protocol):
    """A steering that has a random control: itself with chance in the place of what was found."""

    def random_control(self, model: Any, seed: int) -> Any:
        """The control that a seed draws; None where there is none."""
        ...


OfPrompt: TypeAlias = Callable[[AudioPrompt], Sequence[Hook] | AudioPrompt]
Run: TypeAlias = Attachable | Sequence[Hook] | OfPrompt | None


def silenced(prompt: AudioPrompt) -> AudioPrompt:
    """The run over silence as long as each clip."""
    return prompt.silenced()


fingerprint.carrying(silenced, what="silence in the place of the recording")


def over_noise(seed: int = 0) -> OfPrompt:
    """The run over white noise as long and, by its root mean square, as loud as each clip."""

    def noisy(prompt: AudioPrompt) -> AudioPrompt:
        return prompt.over_noise(seed)

    return fingerprint.carrying(noisy, what="white noise in the place of the recording", seed=seed)


@contextmanager
def under(run: Run, model: HookedAudioTransformer, prompt: AudioPrompt) -> Iterator[AudioPrompt]:
    """Inside, the model is what the run makes of it; what is given is the prompt to ask.

    Over a prompt without audio, functions of `lens_audio.hooks` that are for audio tokens alone
    have nothing to act on, and are taken off.

    Raises:
        ValueError: where a function of the prompt gives a prompt of other rows.
    """
    with _attached(run, model, prompt) as asked, ExitStack() as stack:
        for point in model.hook_points() if prompt.mel is None else ():
            if not point.is_bare:
                stack.enter_context(
                    point.set_aside(lambda handle: not _is_for_audio(handle.user_hook))
                )
        yield asked


def _is_for_audio(function: Any) -> bool:
    """Whether a hook function acts at audio tokens alone, by what it says of itself."""
    facts = getattr(function, "facts", {})
    places = (facts.get(name) for name in ("positions", "keys", "queries"))
    return any(isinstance(place, str) and place == "audio" for place in places)


@contextmanager
def _attached(
    run: Run, model: HookedAudioTransformer, prompt: AudioPrompt
) -> Iterator[AudioPrompt]:
    if run is None:
        yield prompt
        return
    if isinstance(run, Attachable):
        with run.attach(model):
            yield prompt
        return
    given = run(prompt) if callable(run) else run
    if not isinstance(given, AudioPrompt):
        with model.hooks(fwd_hooks=list(given)):
            yield prompt
        return
    if len(given) != len(prompt):
        raise ValueError(
            f"the run's function gave {len(given)} rows for a prompt of {len(prompt)}; it must give "
            "one a row, in the same order"
        )
    yield given


def checked_runs(runs: Mapping[str, Any]) -> dict[str, Run]:
    """The runs with the base first, which is added where it is missing.

    Raises:
        TypeError: for something that is no run.
        ValueError: for a name that cannot name a file, or a base that is not the model as it is.
    """
    for name, run in runs.items():
        if not re.fullmatch(r"[\w .,+()=-]+", name):
            raise ValueError(
                f"a run is called {name!r}; names are of letters, digits, spaces and _ . , + - = ( ), "
                "as files are named after them"
            )
        is_list = isinstance(run, Sequence) and not isinstance(run, str)
        is_hooks = is_list and all(isinstance(p, tuple) and len(p) == 2 for p in run)
        if run is not None and not (isinstance(run, Attachable) or callable(run) or is_hooks):
            raise TypeError(
                f"the run {name!r} is a {type(run).__name__}; a run is None, a list of hook functions, "
                "a steering with attach(model), or a function of the prompt"
            )
    files = {name: name.replace(" ", "-").casefold() for name in runs}
    for name, file in files.items():
        alike = [other for other, its in files.items() if its == file and other != name]
        if alike:
            raise ValueError(f"the runs {name!r} and {alike[0]!r} would write the same files")
    if runs.get(BASE) is not None:
        raise ValueError(f"the run {BASE!r} is the model as it is: give None, or another name")
    return {BASE: None, **runs}


def with_controls(
    runs: Mapping[str, Run], model: HookedAudioTransformer, draws: int, seed: int
) -> tuple[dict[str, Run], dict[str, list[str]]]:
    """The runs, each followed by so many random controls where it has any; and their names by run."""
    found: dict[str, Run] = {}
    names: dict[str, list[str]] = {}
    for name, run in runs.items():
        found[name] = run
        if isinstance(run, Controlled):
            drawn = {
                f"{name} random {n + 1}": run.random_control(model, seed + n) for n in range(draws)
            }
            drawn = {label: control for label, control in drawn.items() if control is not None}
            found |= drawn
            if drawn:
                names[name] = list(drawn)
    return found, names


def facts_of_runs(runs: Mapping[str, Run], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What each run is, as JSON holds it; None is the model as it is, and so is what is not known.

    Args:
        facts: by run: what functions do that do not say so themselves.

    Raises:
        ValueError: for facts of a run that there is not, or hook functions of which nothing is known.
    """
    unknown = sorted(facts.keys() - runs.keys())
    if unknown:
        raise ValueError(f"facts of {unknown[0]!r}, but the runs are {', '.join(runs)}")
    return {name: _facts(run, facts.get(name)) for name, run in runs.items()}


def without_facts(runs: Mapping[str, Run], facts: Mapping[str, Any]) -> list[str]:
    """The runs that cannot be told from others of their names."""
    return [name for name, told in facts.items() if told is None and runs[name] is not None]


def _facts(run: Run, given: Any) -> Any:
    if run is None:
        return None
    if isinstance(run, Attachable):
        own = fingerprint.as_json(run if given is None else given)
        return {"what": type(run).__name__, **(own if isinstance(own, dict) else {"is": own})}
    if not callable(run):
        told = fingerprint.facts_of_hooks(run, given)
        return {"what": "hooks", "hooks": told}
    given = getattr(run, "facts", None) if given is None else given
    return None if given is None else fingerprint.as_json(given)
