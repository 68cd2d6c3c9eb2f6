"""The pages of heads and benchmarks: what is outlined, and what stands in which part."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from lens_audio.analysis.listening import Measured, Specialists, specialists_of
from lens_audio.data.items import AudioQAItem
from lens_audio.evals.benchmarks.mmau import MMAU
from lens_audio.evals.benchmarks.testbed import SyntheticQA
from lens_audio.evals.results import Results
from lens_audio.plots import layer_curve, steering_curve
from lens_audio.plots.pages.benchmark import PUBLISHED, benchmark_page
from lens_audio.plots.pages.heads import heads_page

LISTENS, TELLS_CONDITIONS = (0, 1), (2, 3)  # planted heads of 6 layers x 6 heads
N = 60  # items of each condition


def item(condition: str, number: int) -> AudioQAItem:
    name = f"{condition} {number}"
    return AudioQAItem(name, "What?", ("dog", "cat"), "dog", facts={"condition": condition})


def specialists(stratified: bool) -> Specialists:
    """Noise but for two heads: one attends where answers are right, one where they are easy."""
    rng = np.random.default_rng(0)
    easy = np.repeat([True, False], N)
    right = torch.tensor(rng.random(2 * N) < np.where(easy, 0.9, 0.3))
    mass = torch.tensor(rng.normal(0.5, 0.1, (2 * N, 6, 6))).float()
    mass[(slice(None), *LISTENS)] += 0.2 * right
    mass[(slice(None), *TELLS_CONDITIONS)] += 0.5 * torch.tensor(easy)
    items = [item("easy" if is_easy else "hard", n) for n, is_easy in enumerate(easy)]
    measured = Measured(mass, right)
    return specialists_of(
        measured, measured, (items, items), k=3, n_permutations=400, stratified=stratified
    )


def outlined(page: str, name: str) -> set[tuple[int, int]]:
    """The (layer, head) that a map of the page outlines."""
    data = re.search(rf'id="{name}-data">(.*?)</script>', page)[1]
    shapes = json.loads(data)["layout"].get("shapes", [])
    return {(int(shape["y0"] + 0.5), int(shape["x0"] + 0.5)) for shape in shapes}


def parts(page: str) -> dict[str, str]:
    """The text of each part of a page, by its heading."""
    found = re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", page, re.DOTALL)
    return {title: re.sub(r"<[^>]+>", " ", html) for title, html in found}


def test_a_head_that_only_tells_conditions_apart_is_outlined_in_neither_map() -> None:
    found = specialists(stratified=True)
    page = heads_page(found, "model", "command")
    by_chance = (found.calibration.p_value < 0.05) & (found.calibration.p_corrected >= 0.05)
    assert bool(by_chance.any())
    assert outlined(page, "mass") == outlined(page, "correlation") == {LISTENS}
    assert "within caption conditions" in parts(page)["Audio mass, and what it predicts"]


def test_over_all_conditions_together_it_is_outlined_and_the_page_says_so() -> None:
    page = heads_page(specialists(stratified=False), "model", "command")
    assert outlined(page, "correlation") == {LISTENS, TELLS_CONDITIONS}
    assert "over all conditions together" in parts(page)["Audio mass, and what it predicts"]


def results(dataset: type, *which: str) -> Results:
    """Four items, of which steering answers one more than the base does."""
    items = [item("all", number) for number in range(4)]
    runs = {"base": 1, "steered": 2}
    records = [
        {
            "id": one.id,
            "runs": {
                run: {"text": "dog", "prediction": "dog", "correct": number < n_right}
                for run, n_right in runs.items()
            },
        }
        for number, one in enumerate(items)
    ]
    settings = {"seed": 0, "wording": {"name": "plain"}, "answer_by": "generation"}
    manifest = {"model": {"name": "checkpoint", "weights": "w"}, "settings": settings,
                "versions": {}, "benchmark": {"fingerprint": "f"}}  # fmt: skip
    return Results(dataset(items, *which), items, records, manifest, None)


def test_a_testbeds_gain_stands_apart_from_the_papers() -> None:
    found = parts(benchmark_page(results(SyntheticQA, "4 items"), "command", "the embedded one"))
    ours = found["Points gained by steering in this run"]
    paper = found["Points gained in the paper, on MMAU"]
    assert "+25.0" in ours
    assert "the embedded one" in ours
    for model, gain in PUBLISHED.items():
        assert model in paper
        assert f"{gain:+.1f}" in paper
        assert model not in ours
    assert "+25.0" not in paper
    assert "testbed" not in paper
    assert "says nothing about the paper’s" in paper


def test_a_gain_on_mmau_is_comparable_only_for_the_same_model_and_split() -> None:
    found = parts(benchmark_page(results(MMAU, "first", "test-mini"), "command"))
    assert "MMAU test-mini (first)" in found["Points gained by steering in this run"]
    assert "checkpoint" in found["Points gained by steering in this run"]
    assert "Alike only for the same model" in found["Points gained in the paper, on MMAU"]


@pytest.mark.parametrize("over", ["items", "draws"])
def test_hover_text_says_what_an_interval_is_over_unless_that_is_items(over: str) -> None:
    rows = [("random heads", beta, 0.5, 0.4, 0.6, "conflict", over) for beta in (0, 1)]
    columns = ["method", "beta", "accuracy", "low", "high", "condition", "over"]
    line = steering_curve(pd.DataFrame(rows, columns=columns)).data[-1]
    said = "" if over == "items" else " over draws"
    assert list(line.customdata) == [f" [40.0%, 60.0%]{said}"] * 2
    assert "%{customdata}" in line.hovertemplate


def test_single_layers_have_a_line_a_strength_and_shade_the_chosen_layers() -> None:
    rows = [
        (layer, beta, condition, 0.1 * layer)
        for condition in ("captionless", "conflict")
        for layer in range(3)
        for beta in (0.0, 2.0)
    ]
    table = pd.DataFrame(rows, columns=["layer", "beta", "condition", "accuracy"])
    figure = layer_curve(table, chosen=[1])
    assert [(line.name, list(line.y)) for line in figure.data] == [
        (f"β = {beta}", pytest.approx([0.0, 0.1, 0.2])) for _ in range(2) for beta in (0, 2)
    ]
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(0.7, 1.3)] * 2
    with pytest.raises(ValueError, match="no column accuracy"):
        layer_curve(table.drop(columns="accuracy"))
    with pytest.raises(ValueError, match="no rows"):
        layer_curve(table[:0])
