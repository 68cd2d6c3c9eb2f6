"""`lens-audio score-localisation`, on the embedded checkpoint with readers that are made up."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lens_audio import testbed
from lens_audio.cli import app
from lens_audio.cli.score_localisation import methods_of
from lens_audio.evals.localisation import METHODS
from lens_audio.tables import read_table

torch.set_num_threads(1)
TRUTH = testbed.Truth("planted", 4, 8, ((1, 2), (2, 3)), (), (), (), "by construction")


@pytest.fixture(autouse=True)
def _planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for home in ("cli.commands.score_localisation", "evals.localisation.card"):
        monkeypatch.setattr(
            f"lens_audio.{home}.checkpoint_dir", lambda name: testbed.checkpoint_dir()
        )
    known = {"planted": TRUTH}
    monkeypatch.setattr("lens_audio.evals.localisation.card.truth", known.__getitem__)


def test_it_prints_and_writes_a_table_and_a_page() -> None:
    words = ["--checkpoint", "planted", "-n", "8", "--methods", "mean mass, direct attribution"]
    result = CliRunner().invoke(app, ["score-localisation", *words])
    assert result.exit_code == 0, result.output
    table = read_table("lens-audio-score-localisation.csv")
    assert list(table["method"]) == ["mean mass", "direct attribution"] * 2
    assert list(table["condition"]) == ["captionless"] * 2 + ["conflict"] * 2
    assert "planted, captionless; intervals are over pairs" in result.stdout
    page = Path("lens-audio-score-localisation.html").read_text()
    command = "lens-audio score-localisation --checkpoint planted --pairs 8 --seed 90 --methods"
    assert command in page
    assert all(f'id="scores-{number}"' in page for number in (0, 1))
    assert "readers L1H2 L2H3. Known by construction" in page


def test_an_unknown_method_is_refused_before_the_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("lens_audio.HookedAudioTransformer.from_pretrained", load)
    result = CliRunner().invoke(app, ["score-localisation", "--methods", "knock-out,tea leaves"])
    assert result.exit_code == 1
    assert "no method is called 'tea leaves'; there are correlation, " in result.stderr


def test_methods_are_all_or_those_named() -> None:
    assert methods_of(None) == METHODS
    assert list(methods_of("knock-out, mean mass")) == ["knock-out", "mean mass"]


def test_it_offers_the_checkpoints_whose_readers_are_known() -> None:
    result = CliRunner().invoke(app, ["score-localisation", "--help"], env={"COLUMNS": "200"})
    assert f"<list[{'|'.join(testbed.KNOWN)}]>" in result.stdout
