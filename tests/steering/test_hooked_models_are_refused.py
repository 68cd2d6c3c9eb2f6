"""What claims to measure the plain model refuses one with hooks or a steering on it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lens_audio import analysis, evals
from lens_audio.analysis import patching
from lens_audio.evals.benchmarks.testbed import SyntheticQA
from lens_audio.steering import (
    AudioSilenceSteering,
    SteeringVector,
    calibrate,
    knock_out,
    mean_difference,
)

STEERING = AudioSilenceSteering(((0, 1), (2, 3)), beta=3.0)


def evaluate(model: Any, items: Any, prompt: Any, folder: Any) -> None:
    data = SyntheticQA.make(2)
    evals.evaluate(
        model,
        data,
        folder,
        evals.Settings(evals.wording("plain"), runs=("base",)),
        workers=0,
        verbose=False,
    )


def first(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 0]


MEASUREMENTS: dict[str, Callable[[Any, Any, Any, Any], object]] = {
    "evaluate": evaluate,
    "calibrate": lambda model, items, prompt, _: calibrate(model, items),
    "knock_out": lambda model, items, prompt, _: knock_out(model, items, [(0, 1)]),
    "find_specialists": lambda model, items, prompt, _: analysis.find_specialists(model, items),
    "mean_difference": lambda model, items, prompt, _: mean_difference(
        model, [prompt], [prompt], layers=[0]
    ),
    "sweep": lambda model, items, prompt, _: patching.sweep(
        model, prompt, prompt, "resid_pre", first, positions="last"
    ),
    "attribute": lambda model, items, prompt, _: analysis.attribution.attribute(
        model, prompt, prompt, first
    ),
    "path_patch": lambda model, items, prompt, _: analysis.path_patching.path_patch(
        model, prompt, prompt, first
    ),
    "CircuitTest": lambda model, items, prompt, _: analysis.CircuitTest(
        model, prompt, prompt, first
    ),
}


@pytest.mark.parametrize("measure", MEASUREMENTS.values(), ids=MEASUREMENTS)
@pytest.mark.parametrize("how", ["a hook", "a vector", "a steering", "a permanent hook"])
def test_refused(model, items, prompt, tmp_path, measure, how) -> None:
    vector = SteeringVector({0: torch.ones(model.cfg.d_model)})
    ways = {
        "a hook": lambda: model.hooks([("blocks.0.hook_resid_post", lambda x, hook: None)]),
        "a vector": lambda: vector.attach(model),
        "a steering": lambda: STEERING.attach(model),
    }
    with pytest.raises(ValueError, match="hooks are set on the model"):
        if how in ways:
            with ways[how]():
                measure(model, items, prompt, tmp_path)
        else:
            model.add_perma_hook("blocks.0.hook_resid_post", lambda x, hook: None)
            try:
                measure(model, items, prompt, tmp_path)
            finally:
                model.reset_hooks(including_permanent=True)


def test_a_circuit_test_refuses_hooks_that_were_set_after_it_was_made(model, prompt) -> None:
    test = analysis.CircuitTest(model, prompt, prompt.silenced(), first)
    with (
        model.hooks([("blocks.0.hook_resid_post", lambda x, hook: 0 * x)]),
        pytest.raises(ValueError, match="hooks are set on the model"),
    ):
        test.only([(0, 1)])
