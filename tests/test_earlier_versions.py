"""Files that earlier versions wrote: results are read, and nothing is resumed that may be another's."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from models import Layout, hooked_model, make_prompt, with_sound_of

import lens_audio as la
from lens_audio.analysis import metrics
from lens_audio.analysis.patching import sweep
from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.data.wording import wording
from lens_audio.evals.benchmarks.testbed import SyntheticQA
from lens_audio.evals.protocol import Settings
from lens_audio.evals.run import evaluate
from lens_audio.steering import AudioSilenceSteering

FIRST = Path(__file__).parent / "data" / "resumable_0.1.0"


def sweep_again(path):
    clean = make_prompt(layout=Layout([8], [[31]]), seed=0)
    corrupted = with_sound_of(clean, make_prompt(layout=Layout([8], [[31]]), seed=1))
    return sweep(
        hooked_model(), clean, corrupted, "resid_pre", metrics.logit_diff(5, 7), positions="last",
        resume_from=path, verbose=False,
    )  # fmt: skip


def test_a_sweep_of_0_1_0_is_read_as_it_was():
    kept = PatchingResult.load(FIRST / "sweep.safetensors")
    now = sweep_again(None)
    assert kept.axes == now.axes
    for name in ("values", "base", "source"):
        torch.testing.assert_close(getattr(kept, name), getattr(now, name), atol=1e-4, rtol=1e-4)


def test_a_sweep_of_0_1_0_is_not_resumed_and_stays(tmp_path):
    path = Path(shutil.copy(FIRST / "sweep.safetensors", tmp_path))
    with pytest.raises(ValueError, match="an earlier version of lens_audio wrote it"):
        sweep_again(path)
    assert path.read_bytes() == (FIRST / "sweep.safetensors").read_bytes()


def test_an_mmau_folder_of_0_1_0_is_not_resumed_and_stays(tmp_path):
    model = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir(), device="cpu")
    shutil.copytree(FIRST / "mmau", tmp_path / "mmau")
    settings = Settings(
        wording("plain"), ks=(2,), betas=(2.0,), draws=1, batch_size=6, max_new_tokens=3,
        n_permutations=50,
    )  # fmt: skip
    with pytest.raises(ValueError, match="another version of lens_audio began it"):
        evaluate(model, SyntheticQA.make(4), tmp_path / "mmau", settings, workers=0, verbose=False)
    for path in (FIRST / "mmau").iterdir():
        assert (tmp_path / "mmau" / path.name).read_bytes() == path.read_bytes()


def test_the_steering_of_an_mmau_folder_of_0_1_0_is_read():
    steering = AudioSilenceSteering.load(FIRST / "mmau" / "steering.safetensors")
    facts = json.loads((FIRST / "mmau" / "results.json").read_text())
    assert [list(head) for head in steering.heads] == facts["heads"]
    assert steering.beta == facts["beta"]
