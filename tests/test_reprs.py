"""Results say in a line or two what they are, and never spill a tensor."""

import pytest
import torch

import lens_audio as la
from lens_audio.analysis import metrics, patching
from lens_audio.analysis.circuit import CircuitResult


@pytest.fixture(scope="module")
def shown() -> dict:
    """One of each."""
    torch.manual_seed(0)
    model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
    item = la.testbed.demo_item()
    prompt = model.prompt(item.question, audio=item.waveform, sampling_rate=item.sampling_rate)
    silent = prompt.silenced()
    metric = metrics.log_prob(model.to_single_token(item.answer))
    options = {"positions": "last", "heads": "each", "verbose": False}
    items, others = (
        la.testbed.make_items(8, seed) + la.testbed.make_items(8, seed + 1, caption="false")
        for seed in (5, 7)
    )
    chosen = la.steering.calibrate(
        model, items, ks=(2,), betas=(1.0,), n_permutations=20, verbose=False
    )
    return {
        "result": patching.sweep(model, prompt, silent, "z", metric, **options),
        "specialists": la.analysis.find_specialists(
            model, items, k=2, n_permutations=20, verbose=False
        ),
        "calibration": chosen,
        "report": la.steering.report(
            model, chosen, others, n_draws=2, n_text_only=1, verbose=False
        ),
        "vector": la.steering.mean_difference(
            model, [prompt], [silent], layers=[1, 2], data="sound"
        ),
        "steering": chosen.fixed,
        "circuit": la.analysis.Circuit.of([(0, 2), (2, 7)]),
        "outcome": CircuitResult(torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([0.0])),
        "item": item,
        "prompt": prompt,
        "pair": la.data.pair(prompt, silent, fit="group", window=1.0),
    }


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("result", "PatchingResult(z: 4 layers x 8 heads, 1 example; "),
        ("specialists", "Specialists(L"),
        ("calibration", "Calibration(AudioSilenceSteering("),
        ("report", "SteeringReport(16 items; accuracy unsteered -> steered: "),
        ("vector", "SteeringVector(resid_post, layer 1 norm "),
        ("steering", ", fixed direction)"),
        ("circuit", "Circuit(L0H2, L2H7)"),
        ("outcome", "faithfulness 0.500"),
        ("item", "answer='glass')"),
        ("prompt", "AudioPrompt(batch=1, "),
        ("pair", "Pair(clean=AudioPrompt("),
    ],
)
def test_what_it_is_in_a_line_or_two(shown, name, says) -> None:
    said = repr(shown[name])
    assert says in said
    assert len(said) < 600
    assert "tensor(" not in said
    assert "array(" not in said


@pytest.mark.parametrize("name", ["specialists", "calibration", "report"])
def test_jupyter_shows_a_table(shown, name) -> None:
    html = shown[name]._repr_html_()
    assert html.count("<table") == 1
    assert html.count("<tr") >= 2
