"""A sweep goes on only with its own file: the same cells, prompts, weights and metrics."""

from dataclasses import replace

import pytest
import torch
from models import AUDIO_TOKEN, Layout, hooked_model, make_prompt, with_sound_of

from lens_audio.analysis import metrics
from lens_audio.analysis.patching import progress, sweep, sweep_steps
from lens_audio.analysis.patching.result import PatchingResult
from lens_audio.files import FileLock

LAYOUT = Layout(n_text=[8, 8], clips=[[31], [31]])
LOGIT_DIFF = metrics.logit_diff(5, 7)


def pair(seed=0):
    clean = make_prompt(layout=LAYOUT, seed=seed)
    return [clean, with_sound_of(clean, make_prompt(layout=LAYOUT, seed=seed + 1))]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sweep.safetensors"


def run(path, model=None, prompts=None, metric=LOGIT_DIFF, site="z", **options):
    model, prompts = model or hooked_model(), prompts or pair()
    options = {"positions": "last", "resume_from": path, "verbose": False, **options}
    return sweep(model, *prompts, site, metric, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": "all"}, "cells was"),
        ({"positions": [3]}, "cells was"),
        ({"heads": "each"}, "axes head was None"),
        ({"layers": [1]}, "axes layer was"),
        ({"direction": "noise"}, "direction was 'denoise' and is 'noise'"),
        ({"site": "resid_pre"}, "site was 'z' and is 'resid_pre'"),
        ({"metric": metrics.logit_diff(5, 8)}, "other metrics: logit difference"),
        ({"metric": {"another name": LOGIT_DIFF}}, "axes metric was"),
    ],
)
def test_another_request_is_refused_with_what_differs(path, options, message):
    run(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        run(path, **options)
    assert path.read_bytes() == before


def changed(prompt, name):
    """The prompt with one entry of a tensor changed, in a way that the model would read."""
    tensor = getattr(prompt, name).clone()
    if name == "mel":
        tensor[0, 0, 0] += 1e-6
    elif name == "mel_lengths":
        tensor[0] += 1  # as many tokens
    elif name == "attention_mask":
        tensor[0, 0] = False
    else:
        row, place = (prompt.tokens != AUDIO_TOKEN).nonzero()[0].tolist()
        tensor[row, place] = 9
    return replace(prompt, **{name: tensor})


@pytest.mark.parametrize("name", ["mel", "mel_lengths", "attention_mask", "tokens"])
def test_other_prompts_are_refused(path, name):
    run(path)
    # A mask is the same in both prompts of a pair.
    both = range(2) if name == "attention_mask" else [1]
    prompts = pair()
    for i in both:
        prompts[i] = changed(prompts[i], name)
    with pytest.raises(ValueError, match=f"base {name} was"):
        run(path, prompts=prompts)


def test_one_weight_that_the_unpatched_runs_do_not_show_is_another_model(path):
    model = hooked_model()
    run(path, model)
    unused = next(t for t in range(4, 60) if not bool((pair()[0].tokens == t).any()))
    model.embed.W_E.data[unused, 0] += 1
    with pytest.raises(ValueError, match="model weights was"):
        run(path, model)


def test_a_normalised_metric_of_other_tokens_is_another_metric(path):
    model, (clean, corrupted) = hooked_model(), pair()

    def recovery(of):
        values = (of(model(prompt, logits_to_keep=1)[:, -1]) for prompt in (clean, corrupted))
        return metrics.normalised(of, *values)

    run(path, metric=recovery(LOGIT_DIFF))  # 1 and 0 on the unpatched runs, as the next is
    with pytest.raises(ValueError, match="other metrics: recovery"):
        run(path, metric=recovery(metrics.logit_diff(6, 9)))


@pytest.mark.parametrize("engines", [("fast", "naive"), ("naive", "fast")])
def test_either_engine_goes_on_with_the_others_sweep(path, engines):
    first = run(path, engine=engines[0], heads="each")
    again = run(path, engine=engines[1], heads="each")
    assert torch.equal(first.values, again.values)


def test_a_path_that_cannot_be_written_is_refused_before_the_model_runs(tmp_path, monkeypatch):
    model = hooked_model()

    def never(*args, **kwargs):
        raise AssertionError("the model was run")

    monkeypatch.setattr(model, "forward", never)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        run(tmp_path / "none" / "sweep.safetensors", model)
    with pytest.raises(IsADirectoryError):
        run(tmp_path, model)


def n_done(path):
    return int((~PatchingResult.load(path).values[0].isnan().all(-1)).sum()) if path.exists() else 0


def test_what_is_done_is_written_every_so_many_cells_and_every_so_many_seconds(path, monkeypatch):
    assert (progress.CELLS, progress.SECONDS) == (256, 30.0)
    clock = iter(range(0, 10_000, 8))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    kept = []
    steps = sweep_steps(
        hooked_model(), *pair(), "resid_pre", LOGIT_DIFF, layers=[0], resume_from=path
    )
    for done, _, _ in steps:
        kept.append((done, n_done(path)))
        if done == 12:
            break
    # 8 s a look at the clock: every fourth cell is 30 s late.
    assert max(behind - held for behind, held in kept) == 3
    monkeypatch.undo()
    monkeypatch.setattr(progress, "CELLS", 5)
    steps.close()
    path.unlink()
    steps = sweep_steps(
        hooked_model(), *pair(), "resid_pre", LOGIT_DIFF, layers=[0], resume_from=path
    )
    assert [n_done(path) for _, (_, _, _) in zip(range(12), steps, strict=False)] == (
        [0] * 5 + [5] * 5 + [10] * 2
    )


def test_a_sweep_that_is_left_keeps_what_is_done_and_lets_go_of_the_file(path):
    steps = sweep_steps(hooked_model(), *pair(), "z", LOGIT_DIFF, heads="each", resume_from=path)
    for done, _, _ in steps:
        if done == 3:
            break
    with pytest.raises(BlockingIOError, match="this process is writing"):
        run(path, heads="each", positions="each")
    steps.close()
    assert n_done(path) == 3
    FileLock(path).release()


def test_a_sweep_that_is_left_before_its_first_cell_lets_go_of_the_file(path):
    steps = sweep_steps(hooked_model(), *pair(), "z", LOGIT_DIFF, resume_from=path)
    next(steps)
    steps.close()
    assert not path.exists()
    FileLock(path).release()


def test_a_sweep_without_a_file_hashes_nothing(monkeypatch):
    def never(*args):
        raise AssertionError("hashed")

    monkeypatch.setattr("lens_audio.fingerprint.of_tensor", never)
    assert set(run(None).about) == {"site", "direction", "model"}


def test_a_result_that_was_saved_is_no_sweep_to_go_on_with(path):
    run(None).save(path)
    with pytest.raises(ValueError, match="saved by a sweep without resume_from"):
        run(path)


def test_a_file_of_another_kind_is_no_sweep(path):
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="no saved sweep"):
        run(path)
    FileLock(path).release()
