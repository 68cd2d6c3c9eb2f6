"""What cannot be is told at once: without torch where that is possible, else without the model."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from lens_audio import HookedAudioTransformer, testbed
from lens_audio.analysis.dataset import LabelledItem
from lens_audio.cli import app
from lens_audio.cli.checkpoint import CheckpointFiles
from lens_audio.cli.checks import checkpoint_path
from lens_audio.cli.commands.steer import SpecialistsFrom, Steer
from lens_audio.cli.options import Adaptive
from lens_audio.steering import AudioSilenceSteering
from lens_audio.steering.audio_silence.settings import ADAPTIVE

CLIP = str(testbed.demo_clip())
QUESTION = {
    "id": "a", "audio_id": "good.wav", "question": "What?", "choices": ["bell", "dog"],
    "answer": "bell", "task": "sound",
}  # fmt: skip

# Everything in the folder of `files`, and what is said.
LIGHT = {
    "listen nofile.wav": "there is no audio file nofile.wav",
    "listen folder": "folder is a folder",
    "listen empty.wav": "empty.wav is an empty file",
    "listen good.wav --out none/page.html": "there is no folder none",
    "listen good.wav --out folder": "folder is a folder",
    "listen good.wav --out ./good.wav": "good.wav is the recording itself",
    "listen good.wav --model ../nowhere": "neither a folder nor",
    "listen good.wav --model good.wav": "good.wav is a file",
    "listen good.wav --model folder": "folder has no config.json",
    "listen good.wav --model damaged": "config.json is not valid JSON",
    "patch nofile.wav": "there is no audio file nofile.wav",
    "patch good.wav nofile.wav": "there is no audio file nofile.wav",
    "patch good.wav folder": "folder is a folder",
    "patch good.wav noise": "as in noise:10",
    "patch good.wav noise:loud": "as in noise:10",
    "patch good.wav noise:inf": "as in noise:10",
    "patch --table cells.xlsx": "must end in .csv or .json",
    "patch --table a.csv --out ./a.csv": "are both a.csv",
    "patch good.wav short.wav --out short.wav": "short.wav is the recording itself",
    "patch table.csv --table table.csv": "table.csv is the recording itself",
    "patch --table none/cells.csv": "there is no folder none",
    "patch --model folder": "folder has no config.json",
    "patch --choices dog,cat --answer cow": "'cow' is not one of the choices dog, cat",
    "patch --answer dog --instead dog": "both answers to compare are 'dog'",
    "heads --table t.txt": "must end in .csv or .json",
    "heads --out none/x.html": "there is no folder none",
    "heads --model folder": "folder has no config.json",
    "steer --table t.txt": "must end in .csv or .json",
    "steer --save none/s.safetensors": "there is no folder none",
    "steer --save a.csv --table a.csv": "are both a.csv",
    "steer --model folder": "folder has no config.json",
    "score-localisation --table t.txt": "must end in .csv or .json",
    "mmau": "give MMAU's JSON file",
    "mmau nofile.json": "there is no file nofile.json",
    "mmau folder": "there is no parquet file at folder",
    "mmau damaged.json": "damaged.json, line 2 is not valid JSON",
    "mmau good.json --audio none": "there is no folder none",
    "mmau good.json --benchmark-version v2": "not 'v2'",
    "mmau good.json --task speech": "no item has task 'speech'; there are sound",
    "mmau good.json --model folder": "folder has no config.json",
    "mmau good.json --out good.wav": "good.wav is a file",
    "mmau good.json --prompt nonsense": "no prompt is called 'nonsense'",
    "mmau good.json --steering nofile": "there is no file of steering nofile",
    "mmau good.json --ks x": "--ks: give numbers above 0",
    "mmau good.json --betas 1,inf": "--betas: give numbers above 0",
    "mmau good.json --calibration-share 1": "--calibration-share must lie between 0 and 1",
    "mmau good.json --device-map cuda": "--device-map can only be auto, not 'cuda'",
    "mmau good.json --device-map auto --device cpu": "--device-map spreads the model of a single process",
    "verify ../nowhere": "neither a folder nor",
    "verify folder": "folder has no config.json",
    "verify --against folder": "folder has no config.json",
    "verify --output none/x.json": "there is no folder none",
}

RUN = """
import json, sys
from typer.testing import CliRunner
from lens_audio.cli import app
for line in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, line.split())
    heavy = [name for name in ("torch", "transformers", "plotly") if name in sys.modules]
    print(json.dumps([line, result.exit_code, result.stderr, heavy]))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name in ("folder", "damaged"):
        (folder / name).mkdir()
    (folder / "damaged" / "config.json").write_text("{")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "noise.wav").write_bytes(b"RIFF but not really")
    rng = np.random.default_rng(0)
    for name, seconds in (("good", 1), ("long", 5), ("short", 0.5)):
        wave = rng.uniform(-0.2, 0.2, int(16000 * seconds))
        soundfile.write(folder / f"{name}.wav", wave, 16000)
    (folder / "table.csv").write_text("a,b")
    (folder / "good.json").write_text(json.dumps([QUESTION]))
    (folder / "damaged.json").write_text(json.dumps(QUESTION) + "\n{\n")
    missing = [QUESTION, {**QUESTION, "id": "b", "audio_id": "b.wav"}]
    (folder / "missing.json").write_text(json.dumps(missing))
    steering = AudioSilenceSteering([(0, 0)], provenance={"model": {"n_layers": 32}})
    steering.save(folder / "other.safetensors")
    config = json.loads((testbed.checkpoint_dir() / "config.json").read_text())
    for name in ("deep", "adapter"):
        (folder / name).mkdir()
    (folder / "deep" / "config.json").write_text('{"a":' + 10**5 * "[" + 10**5 * "]" + "}")
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    for name, changes in (("llama", {"model_type": "llama", "architectures": []}), ("bare", {})):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config | changes))
    shutil.copytree(testbed.checkpoint_dir(), folder / "brief")  # hears 3 s
    (folder / "brief" / "model.safetensors").unlink()
    processor = json.loads((folder / "brief" / "processor_config.json").read_text())
    processor["feature_extractor"]["chunk_length"] = 3
    (folder / "brief" / "processor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="module")
def told(files: Path) -> dict[str, tuple[int, str, list[str]]]:
    """What each command says in a process that nothing was imported in before."""
    words = [sys.executable, "-c", RUN, json.dumps(list(LIGHT))]
    done = subprocess.run(words, cwd=files, capture_output=True, text=True, check=True)
    return {line: tuple(rest) for line, *rest in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("line", LIGHT)
def test_it_is_told_before_torch_is_imported(line: str, told: dict) -> None:
    status, said, heavy = told[line]
    assert (status, heavy) == (1, []), said
    assert LIGHT[line] in said
    assert said.count("\n") == 1


BEFORE_THE_MODEL = {
    "listen long.wav": "--max-seconds 4",
    "listen good.wav --max-seconds 5": "at most 4, the longest that this model hears",
    "listen noise.wav": "cannot be read as audio",
    "listen good.wav --question <|im_end|>": "special tokens",
    "listen --top 33": "4 layers x 8 heads = 32",
    "listen --device cuda:77": "no device 'cuda:77'",
    "listen --model llama": "llama",
    "listen --model deep": "nested more than 64 levels deep",
    "listen --model adapter": "it is an adapter, not a model",
    "listen --model bare": "lacks the files of the tokenizer",
    "patch long.wav": "--max-seconds 4",
    "patch good.wav long.wav": "--max-seconds 4",
    "patch good.wav short.wav": "--fit crop keeps the first 0.500 s of both",
    "patch short.wav shuffle --max-seconds 0.3": "does not hold two segments",
    "patch --site nowhere": "no site is called 'nowhere'",
    "patch --by head --site mlp_out": "'mlp_out' has no heads",
    "patch --by group --site audio_encoder.z": "'audio_encoder.z' has no groups",
    "patch --by group --site audio_embed": "'audio_embed' has no groups",
    "patch --window 0.01": "shorter than an audio token",
    "patch --answer zebra": "'zebra' is not one of the choices",
    "patch good.wav --choices glass,glassy": "begin with the same token",
    "patch good.wav --answer glass --instead glassy": "begin with the same token",
    "patch good.wav --choices glass,glassy,dog --answer glass --instead glassy": "'glassy' begin",
    "patch --device cuda:77": "no device 'cuda:77'",
    "heads --k 33 -n 8": "4 layers x 8 heads = 32",
    "heads --model bare": "lacks the files of the tokenizer",
    "heads -n 8 --model brief": "but this model hears at most 3 s; give another --model",
    "steer --model brief": "but this model hears at most 3 s; give another --model",
    "steer --model bare": "lacks the files of the tokenizer",
    "mmau missing.json": "1 of 2 recordings are missing: b.wav",
    "mmau good.json": "1 items are too few to split",
    "mmau good.json --runs steered": "runs must be base",
    "mmau good.json --ks 17": "of a model that has 32 heads",
    "mmau good.json --steering other.safetensors": "was made on a model of n_layers 32",
    "mmau good.json --steering good.wav": "is no safetensors file",
    "mmau --dataset testbed -n 2 --task sound": "no item has task 'sound'; they have no task",
    "mmau good.json --model bare": "lacks the files of the tokenizer",
}


@pytest.mark.parametrize("line", BEFORE_THE_MODEL)
def test_it_is_told_before_the_model_is_loaded(
    line: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(HookedAudioTransformer, "from_pretrained", load)
    monkeypatch.chdir(files)
    before = set(files.iterdir())
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 1
    assert BEFORE_THE_MODEL[line] in " ".join(result.stderr.split())
    assert set(files.iterdir()) == before


@pytest.mark.parametrize(
    "line",
    [
        "listen --max-seconds nan",
        "listen --max-seconds 0",
        "patch --max-seconds inf",
        "mmau --max-seconds -1",
        "mmau --adaptive other",
        "steer --adaptive other",
        "steer --specialists-from nowhere",
        "score-localisation --checkpoint listen",
        "score-localisation --pairs 7",
    ],
)
def test_values_that_an_option_cannot_have_are_wrong_usage(line: str) -> None:
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 2
    assert line.split()[1] in result.stderr


def test_options_offer_what_there_is() -> None:
    choices, *_ = get_args(Adaptive)
    assert get_args(choices) == ADAPTIVE
    items = [testbed.make_items(1, 0, caption)[0] for caption in ("none", "true", "false")]
    from lens_audio.analysis.dataset import labelled

    conditions = {item.condition for item in labelled(items)}
    assert set(get_args(SpecialistsFrom)) == {"all", *conditions}


def test_items_whose_choices_begin_alike_are_refused_without_a_model() -> None:
    wave = np.random.default_rng(0).uniform(-0.2, 0.2, 16000)
    item = LabelledItem("a", "What?", ("dog", "glass", "glassy"), "dog", (wave, 16000))
    with pytest.raises(ValueError, match="'glass' and 'glassy' begin with the same token"):
        CheckpointFiles.read(None).check_items([item])


@pytest.mark.parametrize("line", ["heads -n 8", "steer --n-calibration 8"])
def test_choices_of_the_testbed_that_begin_alike_are_refused_before_the_model_is_loaded(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HookedAudioTransformer, "from_pretrained", load)
    monkeypatch.setattr("lens_audio.cli.checkpoint.first_token", lambda tokenizer, answer: 7)
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 1
    assert "begin with the same token of this model" in result.stderr


def test_a_prompt_longer_than_the_context_is_refused_without_a_model() -> None:
    with pytest.raises(ValueError, match="tokens, but this model's context only 1024"):
        CheckpointFiles.read(None).prompt("What? " * 1000, CLIP)


def test_a_checkpoint_tells_what_its_model_is() -> None:
    checkpoint = CheckpointFiles.read(None, "cpu")
    model = HookedAudioTransformer.from_pretrained(testbed.checkpoint_dir(), device="cpu")
    for name in ("n_layers", "n_heads", "d_model", "n_ctx", "d_vocab"):
        assert getattr(checkpoint.cfg, name) == getattr(model.cfg, name)
    ours, its = checkpoint.prompt("What?", CLIP), model.prompt("What?", audio=CLIP)
    assert torch.equal(ours.tokens, its.tokens)
    assert torch.equal(ours.mel, its.mel)


def test_a_name_of_an_embedded_checkpoint_is_its_folder_unless_there_is_one_of_that_name(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in testbed.CHECKPOINTS:
        assert checkpoint_path(name) == testbed.checkpoint_dir(name)
    assert checkpoint_path(None) == testbed.checkpoint_dir("listen")
    assert checkpoint_path("Qwen/Qwen2-Audio-7B") == "Qwen/Qwen2-Audio-7B"
    (tmp_path / "planted").mkdir()
    with pytest.warns(UserWarning, match="planted is a folder here"):
        assert checkpoint_path("planted") == "planted"


@pytest.mark.parametrize(
    ("model", "given", "items"),
    [
        (None, None, "testbed"),
        ("listen", None, "testbed"),
        ("planted", None, "scenes"),
        ("planted", "testbed", "testbed"),
        ("a/folder", None, "testbed"),
        (None, "scenes", "scenes"),
    ],
)
def test_steer_asks_what_the_checkpoint_was_trained_on(model, given, items) -> None:
    request = Steer(model=model, items=given)
    assert request.items == items
    assert f"--items {items}" in request.shown(with_defaults=True)
