"""The panel of edges without a browser: found, drawn, clicked, judged, saved and opened again."""

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import lens_audio as la
from lens_audio.analysis import circuits
from lens_audio.explorer.edges_panel import MOST_EDGES
from lens_audio.explorer.state import EdgesState, read_state
from lens_audio.explorer.static import StaticExplorer

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")
MODEL = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
ITEM = la.testbed.demo_item()
PROMPT = MODEL.prompt(ITEM.question, audio=ITEM.waveform, sampling_rate=ITEM.sampling_rate)
PAIR = la.data.pair(PROMPT, PROMPT.silenced())
FIRST = 12  # edges


@pytest.fixture(scope="module")
def opened():
    """One for all: each test finds its own edges, or shows those that were found."""
    return la.explore(MODEL, PAIR, choices=ITEM.choices)


@pytest.fixture(scope="module")
def found(opened):
    """What the panel finds at first."""
    opened.edges.run.click()
    return opened.edges.edges


@pytest.fixture
def explorer(opened, found):
    """With the first edges shown, none judged, and no head in the working set."""
    found.found.faithfulness.clear()
    opened.edges.show(EdgesState(found.method, FIRST, found.found))
    opened.circuit = ()
    return opened


def metric_of(explorer):
    right, wrong = (explorer.session.tokens[i] for i in explorer.session.default_answers)
    return la.analysis.metrics.logit_diff(right, wrong)


def nodes_of(explorer):
    return next(trace for trace in explorer.edges.figure.data if trace.mode == "markers+text")


def click(explorer, node):
    nodes = nodes_of(explorer)
    points = SimpleNamespace(point_inds=[list(nodes.customdata).index(node)])
    nodes._dispatch_on_click(points, None)


def shown(explorer):
    return {
        tuple(t.meta["edge"]) for t in explorer.edges.figure.data if t.meta and "edge" in t.meta
    }


def test_the_edges_are_those_of_the_analysis(explorer):
    method = explorer.edges.method.value = "eap-ig-inputs"
    explorer.edges.run.click()
    expected = circuits.edges(MODEL, PAIR, metric_of(explorer), method)
    kept = explorer.edges.found.graph
    assert len(kept) == MOST_EDGES
    torch.testing.assert_close(kept.scores, expected.scores, rtol=0, atol=0)
    few = expected.greedy(explorer.edges.n_edges.value)
    assert shown(explorer) == set(map(tuple, few.kept_edges().tolist()))
    assert (
        f"of 1,519 edges</b>, taken greedily from the logits downward; scored by {method} on "
        in (explorer.edges.outcome.value)
    )


def test_the_slider_sets_how_many_edges_are_shown(explorer):
    before = shown(explorer)
    explorer.edges.n_edges.value = FIRST + 1
    assert len(shown(explorer)) == FIRST + 1
    assert shown(explorer) > before


def test_a_click_on_a_head_selects_it_and_tells_its_direct_effect(explorer):
    click(explorer, "L1H6")
    assert explorer.head == (1, 6)
    assert explorer.time.data[0].y[0] == "L1H6"
    right, wrong = (explorer.session.tokens[i] for i in explorer.session.default_answers)
    toward = MODEL.W_U[:, right] - MODEL.W_U[:, wrong]
    names = ("blocks.1.attn.hook_z", "ln_final.hook_scale")
    effects = []
    for prompt in (PAIR.clean, PAIR.corrupted):
        _, cache = MODEL.run_with_cache(prompt, names_filter=lambda name: name in names)
        written = cache[names[0]][0, -1, 6] @ MODEL.W_O[1, 6] / cache[names[1]][0, -1]
        effects.append((written * MODEL.ln_final.w @ toward).item())
    clean, corrupted = effects
    said = f"{clean:+.2f} in the clean run, {corrupted:+.2f} in the corrupted run."
    assert f"Direct effect on logit(glass) - logit(knock): {said}" in explorer.edges.told.value


def test_a_click_on_an_mlp_marks_it_and_leaves_the_selected_head(explorer):
    explorer.select(1, 6)
    click(explorer, "MLP0")
    assert explorer.head == (1, 6)
    assert "<b>MLP0</b>" in explorer.edges.told.value
    nodes = nodes_of(explorer)
    widths = zip(nodes.customdata, nodes.marker.line.width, strict=True)
    assert [node for node, width in widths if width > 2] == ["MLP0"]


def test_the_edges_that_are_shown_are_judged(explorer):
    explorer.edges.judge.click()
    few = explorer.edges.graph
    expected = circuits.circuit_metric(MODEL, PAIR, few, metric_of(explorer)).faithfulness
    assert f"<b>faithfulness {expected:.3f}</b>" in explorer.edges.outcome.value
    explorer.edges.n_edges.value += 1
    assert "faithfulness" not in explorer.edges.outcome.value


def test_the_heads_of_the_edges_join_the_working_set(explorer):
    explorer.circuit = [(0, 0)]
    explorer.edges.add.click()
    names = {
        name for edge in explorer.edges.graph.to_dataframe().itertuples() for name in edge[1:3]
    }
    heads = {f"L{layer}H{head}" for layer, head in explorer.circuit.heads}
    assert heads == {name for name in names if "H" in name} | {"L0H0"}


@pytest.fixture
def another():
    """An explorer of another pair, with its edges asked for."""

    def make(*prompts, **metric):
        explorer = la.explore(MODEL, *prompts, choices=ITEM.choices)
        for choice, value in metric.items():
            getattr(explorer.answers.metric, choice).value = value
        explorer.edges.run.click()
        return explorer

    return make


def test_a_pair_in_which_nothing_is_corrupted_is_told(another):
    explorer = another(PROMPT, PROMPT)
    assert "every edge scores 0: the clean and the corrupted prompt are the same" in (
        explorer.edges.status.value
    )
    assert explorer.edges.graph is None


def test_edges_of_a_pair_of_unequal_recordings_are_found(another):
    shorter = PROMPT.with_audio(ITEM.waveform[:20000], sampling_rate=ITEM.sampling_rate)
    explorer = another(la.data.pair(PROMPT, shorter, fit="group"))
    assert "Found" in explorer.edges.status.value
    assert len(shown(explorer)) == 20


def test_an_error_is_told_and_leaves_the_edges_before(explorer):
    metric = explorer.answers.metric
    before, key = shown(explorer), metric.key
    metric.instead.value = metric.answer.value
    explorer.edges.run.click()
    assert "begin with the same token" in explorer.edges.status.value
    assert shown(explorer) == before
    metric.choose(key)


def test_a_search_leaves_room_for_clicks_and_stops(explorer):
    explorer.edges.method.value = "eap-ig-activations"
    before = shown(explorer)

    async def user():
        explorer.edges.run.click()
        await asyncio.sleep(0.05)
        explorer.select(1, 1)
        explorer.edges.stop.click()
        await asyncio.sleep(0.05)

    asyncio.run(user())
    assert "Stopped after" in explorer.edges.status.value
    assert explorer.head == (1, 1)
    assert shown(explorer) == before
    assert not explorer.edges.run.disabled


def test_edges_are_saved_and_opened_again(explorer, tmp_path):
    explorer.select(1, 6)
    explorer.edges.judge.click()
    path = explorer.save(tmp_path / "x.json")
    again = la.explore(MODEL, PAIR, state=path)
    assert shown(again) == shown(explorer)
    assert again.edges.outcome.value == explorer.edges.outcome.value
    assert again.edges.told.value == explorer.edges.told.value
    assert again.save(tmp_path / "y.json").read_text() == path.read_text()


def test_a_page_has_the_edges_that_are_shown(explorer):
    explorer.edges.judge.click()
    page = explorer.html().split("<body>")[1]
    facts = page.split('id="circuit-facts">')[1].split("</script>")[0]
    assert len(json.loads(facts)["order"]) == FIRST
    assert f"{FIRST} of 1,519 edges, scored by eap on 1 pair of recordings" in page
    ((n, _),) = json.loads(facts)["faithfulness"]
    assert n == FIRST


def test_without_widgets_a_saved_state_shows_its_edges(explorer):
    assert 'id="circuit"' in StaticExplorer(explorer.session, explorer.state).html()


def test_a_state_that_was_saved_before_there_were_edges_opens(opened, tmp_path):
    saved = json.loads(opened.state.to_json(opened.session))
    del saved["edges"]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(saved))
    assert read_state(path, opened.session).edges == EdgesState()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "exact"),
        ("n_edges", 0),
        ("n_edges", MOST_EDGES + 1),
        ("edges", []),
        ("edges", [["L9H0", "logits", "resid", -1.0]]),
        ("edges", [["logits", "embed", "resid", -1.0]]),
        ("edges", [["embed", "logits", "q", -1.0]]),
        ("edges", [["MLP3", "L0H0", "q", -1.0]]),
        ("metric", {"name": "probability", "of": "nothing", "against": "glass"}),
        ("about", {}),
    ],
)
def test_edges_that_do_not_fit_are_refused(opened, found, tmp_path, field, value):
    saved = json.loads(replace(opened.state, edges=found).to_json(opened.session))
    part = saved["edges"]
    (part if field in part else part["found"])[field] = value
    path = tmp_path / "x.json"
    path.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=r"x\.json: edges: "):
        read_state(path, opened.session)
