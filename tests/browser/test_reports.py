"""The commands' pages in a browser: drawn, clicked, listened to."""

import pytest
import torch
from figures import PLAYHEADS, click, holds, overflow, playhead_near
from typer.testing import CliRunner

from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.cli import app
from lens_audio.plots import patching_heatmap
from lens_audio.plots.report import figure_html, write_page
from lens_audio.plots.report import page as whole_page

pytestmark = pytest.mark.browser
COMMANDS = {
    "listen": [],
    "patch": ["--by", "window", "--by", "group"],
    "circuit": ["--pairs", "4", "--edges", "12"],
    "heads": ["-n", "20"],
    "mmau": ["--dataset", "testbed", "-n", "16", "--draws", "1"],
    "steer": ["--n-calibration", "40", "--n-test", "24", "--draws", "2"],
    "eval": [
        "scenes",
        "-n",
        "4",
        "--model",
        "planted",
        "--answer-by",
        "log-probability",
        "--run",
        "aad=contrastive",
        "--run",
        "deaf=knock-out",
    ],
    "score-localisation": [
        "--checkpoint",
        "planted",
        "-n",
        "8",
        "--methods",
        "mean mass,knock-out",
    ],
}
TO_FOLDERS = ("mmau", "eval")  # the others write a page, and those below a table
WITH_TABLES = ("patch", "circuit", "heads", "steer", "score-localisation")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The page of each command on the bundled recordings, made when first asked for."""
    folder, made = tmp_path_factory.mktemp("reports"), {}

    def report(command):
        if command not in made:
            out = folder / command if command in TO_FOLDERS else folder / f"{command}.html"
            made[command] = out / "report.html" if command in TO_FOLDERS else out
            options = [*COMMANDS[command], "--out", str(out)]
            if command in WITH_TABLES:
                options += ["--table", str(folder / f"{command}.json")]
            result = CliRunner().invoke(app, [command, *options])
            assert result.exit_code == 0, result.output
        return made[command].as_uri()

    return report


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_figure_of_a_report_is_drawn_within_the_window(reports, page, command):
    page.goto(reports(command))
    page.wait_for_selector(".figure .main-svg")
    figures = page.query_selector_all(".figure")
    assert all(figure.query_selector(".main-svg") for figure in figures)
    assert overflow(page) <= 0
    page.keep(command)


@pytest.mark.parametrize("command", ["listen", "patch"])
def test_the_playhead_follows_the_sound(reports, page, command):
    page.goto(reports(command))
    page.wait_for_selector(".figure[data-time] .main-svg")
    assert holds(page, "document.querySelector('audio').readyState > 0")
    page.evaluate("document.querySelector('audio').currentTime = 1.5")
    assert holds(page, playhead_near(1.5))
    page.evaluate("document.querySelector('audio').play()")
    assert holds(page, f"{PLAYHEADS}.every((time) => time > 1.7)")


def test_a_click_on_a_figure_over_time_moves_the_sound(reports, page):
    page.goto(reports("listen"))
    figure = page.wait_for_selector(".figure[data-time]")
    page.wait_for_selector(".figure[data-time] .main-svg")
    assert holds(page, "document.querySelector('audio').readyState > 0")
    click(page, figure, 1.0, 2, "Math.abs(document.querySelector('audio').currentTime - 1) < 0.05")


def test_the_slider_of_a_sweep_over_three_axes_changes_the_map(tmp_path, page):
    result = PatchingResult(
        torch.rand(1, 3, 4, 5, 1),
        {
            "metric": ["m"],
            "layer": list("012"),
            "position": list("0123"),
            "head": list("01234"),
            "example": ["0"],
        },
        torch.zeros(1, 1),
        torch.ones(1, 1),
        {"site": "z", "direction": "denoise"},
    )
    figure = patching_heatmap(result)
    path = write_page(tmp_path / "page.html", whole_page("sweep", figure_html(figure, "sweep")))
    page.goto(path.as_uri())
    page.wait_for_selector(".slider-grip-rect")
    shown = "document.querySelector('#sweep').data.findIndex((t) => t.visible !== false)"
    for share, position in ((0.02, 0), (0.98, 3), (0.35, 1)):
        box = page.query_selector(".slider-rail-touch-rect").bounding_box()
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        page.mouse.down()
        page.wait_for_timeout(200)
        page.mouse.up()
        assert holds(page, f"{shown} == {position}")


def test_the_slider_of_a_circuit_adds_edges_and_a_click_on_a_node_tells_of_it(reports, page):
    page.goto(reports("circuit"))
    page.wait_for_selector("#circuit .main-svg")
    edges = (
        "document.querySelector('#circuit').data.filter((t) => t.meta && t.meta.edge).length / 2"
    )
    assert holds(page, f"{edges} == 12")
    page.fill("#n-edges", "3")
    assert holds(page, f"{edges} == 3")
    assert page.inner_text("#n-shown").startswith("3 of 12; faithfulness of the first 2: ")
    page.fill("#n-edges", "12")
    assert holds(page, f"{edges} == 12")
    nodes = "document.querySelector('#circuit').data.find((t) => t.meta && t.meta.nodes)"
    for kind, is_heard in (("H", True), ("MLP", False)):
        number = page.evaluate(f"{nodes}.customdata.findIndex((name) => name.includes('{kind}'))")
        name, x, y = page.evaluate(f"['customdata', 'x', 'y'].map((key) => {nodes}[key][{number}])")
        click(
            page,
            page.query_selector("#circuit"),
            x,
            y,
            f"document.querySelector('#node').value == '{name}'",
        )
        assert page.is_visible("#heard") == is_heard
        assert page.inner_text("#effect").startswith("Direct effect on logit(")
        if is_heard:
            assert page.evaluate("document.querySelector('#heard').data[0].y") == [name]
    assert holds(page, "document.querySelector('#again').readyState > 0")


def test_a_hostile_name_and_question_cannot_run(tmp_path, page):
    from lens_audio import testbed

    hostile = tmp_path / "<img src=x onerror=document.title='run'>.wav"
    hostile.write_bytes(testbed.demo_clip().read_bytes())
    out = tmp_path / "page.html"
    question = "</script><script>document.title='run'</script>What is heard?"
    result = CliRunner().invoke(
        app, ["listen", str(hostile), "--question", question, "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    page.goto(out.as_uri())
    page.wait_for_selector(".figure .main-svg")
    assert page.title().startswith("Is the model listening?")
    assert "onerror" in page.inner_text("header")
