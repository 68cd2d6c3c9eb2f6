"""Runs of every kind: what they do to the model, what they are, and which may be continued."""

import json
from dataclasses import replace

import pytest
import torch

import lens_audio as la
from lens_audio import hooks
from lens_audio.analysis import choice_log_probs
from lens_audio.data.batches import rows
from lens_audio.data.wording import wording
from lens_audio.evals import Asking, evaluate, over_noise, silenced
from lens_audio.evals.runs import checked_runs, under
from lens_audio.steering import AudioSilenceSteering, SteeringVector

ASKING = Asking(wording=wording("plain"), max_new_tokens=4, batch_size=6)


def kinds(model):
    """A run of each kind."""
    direction = torch.linspace(-1, 1, model.cfg.d_model)
    return {
        "deaf": hooks.knock_out_attention(keys="audio"),
        "louder": hooks.scale_attention(keys="audio", factor=2.0, layers=[1, 2]),
        "vector": SteeringVector.supplied(direction, 2),
        "steered": AudioSilenceSteering(heads=((1, 0), (2, 3)), beta=2.0),
        "aad": la.steering.contrastive(alpha=1.0),
        "silenced": silenced,
        "noise": over_noise(seed=3),
    }


def ask(model, dataset, folder, runs, settings=ASKING, **options):
    options = {"workers": 0, "verbose": False, **options}
    results, _ = evaluate(model, dataset, folder, settings, runs=runs, **options)
    return results


@pytest.fixture(scope="module")
def results(model, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return ask(model, dataset, folder, kinds(model), items=dataset.items[::2])


def test_the_base_comes_first_and_controls_follow_their_runs(results):
    assert results.runs == [
        "base", "deaf", "louder", "vector", "vector random 1", "steered", "steered random 1", "aad",
        "silenced", "noise",
    ]  # fmt: skip
    assert results.controls == {"vector": ["vector random 1"], "steered": ["steered random 1"]}


def test_each_run_says_what_the_model_says_with_it_attached(results, model):
    for item, record in list(zip(results.items, results.records, strict=True))[:3]:
        prompt = model.prompt(wording("plain").ask(item.question, item.choices), audio=item.audio)
        for name, run in kinds(model).items():
            with under(run, model, prompt) as asked:
                text = model.generate(asked, 4, return_type="str", verbose=False).strip()
            assert record["runs"][name]["text"] == text, name


def test_runs_differ(results):
    said = {run: tuple(r["runs"][run]["text"] for r in results.records) for run in results.runs}
    assert len({said[run] for run in ("base", "deaf", "aad")}) == 3


def test_likeliest_options_are_scored_under_each_run(model, dataset, tmp_path):
    settings = replace(ASKING, answer_by="log-probability")
    runs = {"deaf": hooks.knock_out_attention(keys="audio"), "aad": la.steering.contrastive()}
    found = ask(model, dataset, tmp_path, runs, settings, items=dataset.items[:6])
    item, record = found.items[0], found.records[0]
    prompt = model.prompt(wording("plain").ask(item.question, item.choices), audio=item.audio)
    for name, run in runs.items():
        with under(run, model, prompt) as asked:
            expected = choice_log_probs(model, asked, item.choices)[0].tolist()
        log_probs = record["runs"][name]["log_probs"]
        assert [log_probs[c] for c in item.choices] == pytest.approx(expected, rel=1e-4)


def test_a_run_that_stops_at_its_closing_tag_says_nothing_after_it(model, dataset, tmp_path):
    """Of a model made to say a closed answer again and again."""
    tokens = model.to_tokens("</answer>", prepend_bos=False)[0].tolist()

    def only(logits, hook):
        position = hook.forward_info.n_total - hook.forward_info.n_first
        logits[...] = -torch.inf
        logits[..., tokens[position % len(tokens)]] = 0
        return logits

    settings = replace(ASKING, max_new_tokens=3 * len(tokens))
    runs = {"closed": [("unembed.hook_out", only)]}
    found = ask(
        model, dataset, tmp_path, runs, settings, items=dataset.items[:2],
        facts={"closed": {"what": "say a closing tag"}},
    )  # fmt: skip
    assert {r["runs"]["closed"]["text"] for r in found.records} == {"</answer>"}


def test_the_manifest_holds_what_each_run_is(results):
    runs = results.manifest["runs"]
    assert runs["base"] is None
    assert runs["aad"]["alpha"] == 1
    assert runs["steered"]["beta"] == 2
    assert runs["louder"]["hooks"][0][1]["factor"] == 2
    assert runs["noise"]["seed"] == 3
    assert runs["vector"]["directions"] != runs["vector random 1"]["directions"]
    json.dumps(runs)


def test_results_are_taken_from_the_journal_where_runs_are_the_same(model, dataset, tmp_path):
    some = dataset.items[:4]
    first = ask(model, dataset, tmp_path, kinds(model), items=some)
    lines = (tmp_path / "journal.jsonl").read_bytes()
    again = ask(model, dataset, tmp_path, kinds(model), items=some)
    assert again.records == first.records
    assert (tmp_path / "journal.jsonl").read_bytes() == lines


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("aad", lambda model: la.steering.contrastive(alpha=2.0)),
        ("louder", lambda model: hooks.scale_attention(keys="audio", factor=2.5, layers=[1, 2])),
        ("vector", lambda model: SteeringVector.supplied(torch.ones(model.cfg.d_model), 2)),
        ("noise", lambda model: over_noise(seed=4)),
        ("steered", lambda model: AudioSilenceSteering(heads=((1, 0),), beta=2.0)),
    ],
)
def test_another_run_of_the_same_name_is_refused(model, dataset, tmp_path, name, other):
    some = dataset.items[:2]
    ask(model, dataset, tmp_path, {name: kinds(model)[name]}, items=some)
    with pytest.raises(ValueError, match=f"belongs to another run.*{name}"):
        ask(model, dataset, tmp_path, {name: other(model)}, items=some)


def test_a_function_without_facts_cannot_be_continued(model, dataset, tmp_path):
    some, runs = dataset.items[:2], {"quiet": lambda prompt: prompt.silenced()}
    ask(model, dataset, tmp_path / "bare", runs, items=some)
    with pytest.raises(ValueError, match="'quiet' is a function"):
        ask(model, dataset, tmp_path / "bare", runs, items=some)
    facts = {"quiet": {"what": "silence"}}
    first = ask(model, dataset, tmp_path / "told", runs, items=some, facts=facts)
    assert ask(model, dataset, tmp_path / "told", runs, items=some, facts=facts).records == (
        first.records
    )


def test_hooks_are_gone_when_a_run_fails(model, dataset, tmp_path):
    runs = {"wrong": hooks.ablate("z", layers=[0], heads=[99])}
    with pytest.raises(ValueError, match="99"):
        ask(model, dataset, tmp_path, runs, items=dataset.items[:2])
    model.check_no_hooks()


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ({"base": hooks.knock_out_attention(keys="audio")}, "model as it is"),
        ({"a/b": None}, "names are of letters"),
        ({"a b": None, "a-b": None}, "same files"),
        ({"bare": [("hook_embed", lambda x, hook: x)]}, "is not known"),
        ({"short": lambda prompt: rows(prompt, 0, 1)}, "gave 1 rows for a prompt of 2"),
    ],
)  # fmt: skip
def test_what_is_no_run_is_refused(model, dataset, tmp_path, runs, said):
    with pytest.raises(ValueError, match=said):
        ask(model, dataset, tmp_path, runs, items=dataset.items[:2])


def test_a_number_is_no_run():
    with pytest.raises(TypeError, match="'steered' is a float; a run is None"):
        checked_runs({"steered": 4.0})


def test_facts_of_a_run_that_is_not_there_are_refused(model, dataset, tmp_path):
    with pytest.raises(ValueError, match="facts of 'other', but the runs are base, deaf"):
        ask(
            model, dataset, tmp_path, {"deaf": hooks.knock_out_attention(keys="audio")},
            facts={"other": {}}, items=dataset.items[:2],
        )  # fmt: skip


def test_p_is_corrected_for_the_number_of_runs(results):
    table = results.comparison
    assert (table["p_corrected"] >= table["p_value"]).all()
    assert len(table) == len(results.runs) - 1


def test_runs_are_compared_with_their_controls(results):
    table = results.against_controls.set_index("run")
    for run in ("vector", "steered"):
        change = (
            results.correct[run].double().mean()
            - results.correct[f"{run} random 1"].double().mean()
        )
        assert table.loc[run, "change"] == pytest.approx(float(change))
        assert table.loc[run, "low"] <= table.loc[run, "change"] <= table.loc[run, "high"]
