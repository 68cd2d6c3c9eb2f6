"""Progress bars end at their end."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from models import hooked_model, make_prompt, with_sound_of

import lens_audio as la
from lens_audio.analysis import metrics
from lens_audio.analysis.listening import measure
from lens_audio.analysis.patching import paths, sweeps
from lens_audio.data import batches
from lens_audio.evals import evaluate, runner
from lens_audio.evals.benchmarks.testbed import SyntheticQA
from lens_audio.model import generation
from lens_audio.progress_bar import ProgressBar


def test_the_last_state_is_drawn_however_soon_it_comes() -> None:
    drawn = io.StringIO()
    with ProgressBar(total=900, file=drawn, leave=False, mininterval=1e9) as bar:
        bar.update(896)
        bar.update(4)
    assert "900/900" in drawn.getvalue()


def test_a_bar_whose_delay_is_not_over_draws_nothing() -> None:
    drawn = io.StringIO()
    with ProgressBar(total=2, file=drawn, leave=False, delay=1e9) as bar:
        bar.update(2)
    assert drawn.getvalue() == ""


MODEL = hooked_model()
CLEAN, OTHER = make_prompt(), make_prompt(seed=1)
METRIC = metrics.logit_diff(3, 4)


def embedded() -> Any:
    return la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(), device="cpu")


def generate(_: Any) -> None:
    model, item = embedded(), la.testbed.demo_item()
    prompt = model.prompt(item.question, audio=(np.asarray(item.waveform), item.sampling_rate))
    assert len(model.generate(prompt, 32, return_type="tokens")[0]) < 32


def answer(folder: Any) -> None:
    settings = la.evals.Settings(la.evals.wording("plain"), runs=("base",), max_new_tokens=2)
    evaluate(embedded(), SyntheticQA.make(2), folder, settings, workers=0)


def patch(_: Any) -> None:
    corrupted = with_sound_of(CLEAN, OTHER)
    sweeps.sweep(MODEL, CLEAN, corrupted, "resid_pre", METRIC, positions="last")


LOOPS: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "generating": (generation, generate),
    "patching": (sweeps, patch),
    "path patching": (
        paths,
        lambda _: paths.path_patch(MODEL, CLEAN, with_sound_of(CLEAN, OTHER), METRIC),
    ),
    "reading items": (
        batches,
        lambda _: measure(embedded(), la.testbed.make_items(5, 0), batch_size=2),
    ),
    "answering": (runner, answer),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_ends_ends_at_its_total(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, loop = LOOPS[name]
    ends = []

    class Watched(ProgressBar):
        def close(self) -> None:
            ends.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(module, "ProgressBar", Watched)
    loop(tmp_path)
    assert ends
    assert all(done == total for done, total in ends)
