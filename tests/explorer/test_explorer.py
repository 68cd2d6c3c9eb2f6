"""The explorer without a browser: what clicks change, and what is refused."""

import asyncio
import json
import sys

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

import lens_audio as la
from lens_audio.explorer.player import OVER_TIME
from lens_audio.explorer.session import SITES
from lens_audio.explorer.state import SweepState, read_state
from lens_audio.plots.theme import BLUE

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")
MODEL = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())
ITEM = la.testbed.demo_item()
PROMPT = MODEL.prompt(ITEM.question, audio=ITEM.waveform, sampling_rate=ITEM.sampling_rate)


@pytest.fixture
def explorer():
    return la.explore(MODEL, PROMPT, choices=ITEM.choices)


@pytest.fixture(scope="module")
def opened():
    """For tests that change nothing of what another sees."""
    return la.explore(MODEL, PROMPT, choices=ITEM.choices)


def bars(explorer):
    return {trace.name: list(trace.x) for trace in explorer.answers.figure.data}


class Points:
    """What plotly says of a click."""

    def __init__(self, layer, head):
        self.xs, self.ys = [head], [layer]


def click(explorer, layer, head):
    explorer.map.data[0]._dispatch_on_click(Points(layer, head), None)


def test_it_opens_with_the_answers_of_both_runs(opened):
    clean = la.analysis.choice_log_probs(MODEL, PROMPT, ITEM.choices)
    silent = la.analysis.choice_log_probs(MODEL, PROMPT.silenced(), ITEM.choices)
    shown = bars(opened)
    np.testing.assert_allclose(shown["clean"], clean.softmax(-1)[0], rtol=1e-4)
    np.testing.assert_allclose(shown["corrupted"], silent.softmax(-1)[0], rtol=1e-4)


def test_it_opens_without_looking_for_edges(opened):
    assert opened.edges.graph is None
    assert opened.edges.figure is None
    assert 'id="circuit"' not in opened.html()


def test_the_map_is_the_attention_on_the_audio(opened):
    mass = la.analysis.audio_mass(la.analysis.audio_attention(MODEL, PROMPT)[0])
    np.testing.assert_allclose(opened.map.data[0].z, mass, rtol=1e-5)


def test_a_click_on_the_map_shows_that_head(explorer):
    click(explorer, 1, 6)
    assert explorer.head == (1, 6)
    assert "L1H6" in explorer.chosen.value
    assert explorer.time.data[0].y[0] == "L1H6"
    assert explorer.tokens.layout.title.text == "L1H6, clean"
    expected = la.plots.token_attention(la.analysis.head_pattern(MODEL, PROMPT, 1, 6)[0], PROMPT)
    np.testing.assert_allclose(explorer.tokens.data[0].z, expected.data[0].z)


def test_the_selected_head_is_marked(explorer):
    explorer.select(1, 6)
    (shape,) = [s for s in explorer.map.layout.shapes if s.line.color == BLUE]
    assert (shape.x0, shape.y0) == (5.5, 0.5)


def test_the_other_run_is_shown(explorer):
    explorer.role.value = "corrupted"
    attention = la.analysis.audio_attention(MODEL, PROMPT.silenced())[0]
    layer, head = explorer.head
    np.testing.assert_allclose(explorer.time.data[0].z[0], 100 * attention[layer, head], rtol=1e-4)
    assert "corrupted" in explorer.tokens.layout.title.text


def test_heads_are_added_and_taken_out(explorer):
    for head in [(2, 7), (0, 2)]:
        explorer.select(*head)
        explorer.add.click()
    assert explorer.circuit.heads == ((0, 2), (2, 7))
    assert [tag.description for tag in explorer.answers.tags.children] == ["L0H2", "L2H7"]
    explorer.answers.tags.children[0].click()
    assert explorer.circuit.heads == ((2, 7),)
    explorer.select(2, 7)
    explorer.add.click()
    assert len(explorer.circuit) == 0


@pytest.mark.parametrize(
    ("mode", "keep"), [("keep only these heads", True), ("knock these heads out", False)]
)
def test_the_working_set_changes_the_answers(explorer, mode, keep):
    explorer.circuit = [(0, 2), (2, 7)]
    explorer.answers.mode.value = mode
    right, wrong = (explorer.session.tokens[i] for i in explorer.session.default_answers)
    metric = la.analysis.metrics.logit_diff(right, wrong)
    test = la.analysis.CircuitTest(MODEL, PROMPT, PROMPT.silenced(), metric)
    outcome = (test.only if keep else test.without)([(0, 2), (2, 7)])
    assert f"{outcome.faithfulness:.3f}" in explorer.answers.outcome.value
    with MODEL.hooks(fwd_hooks=test.corrupting([(0, 2), (2, 7)], keep=keep)):
        probs = la.analysis.choice_log_probs(MODEL, PROMPT, ITEM.choices).softmax(-1)[0]
    np.testing.assert_allclose(list(bars(explorer).values())[2], probs, rtol=1e-4)
    explorer.answers.mode.value = "as it is"
    assert len(bars(explorer)) == 2


def test_a_sweep_over_heads_becomes_a_quantity_of_the_map(explorer):
    explorer.patching.run.click()
    recovery = explorer.result.recovery()
    assert explorer.quantity.value == "recovery of logit(glass) - logit(knock), z, denoise"
    np.testing.assert_allclose(explorer.map.data[0].z, recovery, rtol=1e-5)
    np.testing.assert_allclose(explorer.patching.figure.data[0].z, recovery, rtol=1e-5)


@pytest.mark.parametrize("site", SITES)
def test_every_offered_sweep_begins(opened, site):
    opened.patching.site.value = site
    for _, kind in opened.patching.kind.options:
        metric = opened.answers.metric.key
        steps = opened.session.sweep(kind, site, metric, "denoise", 0.25)
        (_, total, _), (done, _, result) = next(steps), next(steps)
        assert (done, total) == (1, result.values.numel())


def test_positions_are_named_by_their_tokens_and_times(explorer):
    explorer.patching.site.value, explorer.patching.kind.value = "audio_embed", "position"
    explorer.patching.run.click()
    assert explorer.patching.figure.layout.xaxis.title.text == "time (s)"


def test_a_sweep_over_time_follows_the_sound(explorer):
    explorer.patching.site.value, explorer.patching.kind.value = "resid_pre", "window"
    explorer.patching.run.click()
    assert OVER_TIME in explorer.patching.figure._dom_classes
    explorer.patching.kind.value = "group"
    explorer.patching.run.click()
    assert OVER_TIME not in explorer.patching.figure._dom_classes


def test_a_running_sweep_leaves_room_for_clicks_and_stops(explorer, monkeypatch):
    monkeypatch.setattr("lens_audio.explorer.patching_panel.SECONDS", 0.0)
    explorer.patching.site.value, explorer.patching.kind.value = "resid_pre", "position"

    async def user():
        explorer.patching.run.click()
        await asyncio.sleep(0.1)
        explorer.select(1, 1)
        explorer.patching.stop.click()
        await asyncio.sleep(0.1)

    asyncio.run(user())
    values = explorer.result.values
    assert bool(values.isnan().any())
    assert not bool(values.isnan().all())
    assert "Stopped" in explorer.patching.status.value
    assert "undefined" not in explorer.patching.figure.to_json()
    assert "not run yet" in explorer.patching.figure.to_json()
    assert not explorer.patching.run.disabled
    assert explorer.head == (1, 1)


def test_an_error_is_shown_and_not_lost(explorer):
    explorer.answers.metric.instead.value = explorer.answers.metric.answer.value
    explorer.patching.run.click()
    assert "begin with the same token" in explorer.patching.status.value


def test_an_error_leaves_no_older_number(explorer):
    explorer.answers.mode.value = "keep only these heads"
    assert "faithfulness" in explorer.answers.outcome.value
    explorer.answers.metric.instead.value = explorer.answers.metric.answer.value
    assert "same token" in explorer.answers.status.value
    assert explorer.answers.outcome.value == ""
    assert len(bars(explorer)) == 2


def test_a_figure_keeps_nothing_of_the_one_before(explorer):
    explorer.patching.run.click()
    assert explorer.patching.figure.data[0].texttemplate is not None  # numbers in the cells
    places = {"layer": list("0123"), "position": [str(p) for p in range(125)], "example": ["0"]}
    result = la.analysis.PatchingResult(
        torch.rand(1, 4, 125, 1), {"metric": ["m"], **places}, torch.zeros(1, 1), torch.ones(1, 1),
        {"site": "resid_pre", "direction": "denoise"},
    )  # fmt: skip
    explorer.patching.show(SweepState("resid_pre", "position", "denoise", 0.25, result))
    (cells,) = explorer.patching.figure.data
    assert (cells.text, cells.texttemplate) == (None, None)
    assert cells.z.shape == (4, 125)


def test_heads_of_the_encoder_are_not_taken_for_the_decoders(explorer):
    about = {"site": "audio_encoder.z", "direction": "denoise"}
    axes = {"metric": ["m"], "layer": list("0123"), "head": list("01234567"), "example": ["0"]}
    result = la.analysis.PatchingResult(
        torch.rand(1, 4, 8, 1), axes, torch.zeros(1, 1), torch.ones(1, 1), about
    )
    explorer._keep_recovery(result)
    assert explorer.quantity.value == "audio mass"


def test_a_prompt_of_two_clips_is_explored_clip_by_clip():
    halves = [ITEM.waveform[:16000], ITEM.waveform[16000:36000]]
    explorer = la.explore(MODEL, MODEL.prompt(ITEM.question, audio=halves, sampling_rate=16000))
    before = explorer.player.files
    explorer.clip.value = 1
    assert explorer.player.files != before
    assert explorer.time.layout.xaxis.range[1] == pytest.approx(1.25)
    assert "audio_encoder.resid_pre" not in explorer.patching.site.options
    explorer.patching.site.value = "audio_encoder.z"
    explorer.patching.run.click()
    assert "12 cells" in explorer.patching.status.value


def test_code_and_json_give_the_circuit(explorer):
    explorer.circuit = [(0, 2), (2, 7)]
    names = {"model": MODEL, "clean": PROMPT, "corrupted": PROMPT.silenced()}
    exec(explorer.to_code(), names)
    assert names["circuit"] == explorer.circuit
    about = json.loads(explorer.circuit.to_json(**explorer.answers.about()))
    assert about["answer"] == ITEM.answer
    assert "(0, 2), (2, 7)" in explorer.answers.export.value


def test_without_choices_the_likeliest_tokens_are_compared():
    explorer = la.explore(MODEL, PROMPT)
    probs = la.analysis.next_token_probs(MODEL, PROMPT)[0]
    assert MODEL.to_single_str_token(int(probs.argmax())) == explorer.session.candidates[0]
    assert bars(explorer)["clean"][0] == pytest.approx(float(probs.max()), rel=1e-4)


def test_another_recording_can_be_the_corrupted_one():
    other = PROMPT.with_audio(np.roll(ITEM.waveform, 8000), sampling_rate=ITEM.sampling_rate)
    explorer = la.explore(MODEL, PROMPT, other, choices=ITEM.choices)
    assert explorer.player.names == ["clean", "corrupted"]
    torch.testing.assert_close(
        explorer.session.mass("corrupted"),
        la.analysis.audio_mass(la.analysis.audio_attention(MODEL, other)[0]),
    )


def test_hostile_choices_are_text(explorer):
    choices = ["<img src=x onerror=alert(1)>", "glass"]
    explorer = la.explore(MODEL, PROMPT, choices=choices)
    explorer.circuit = [(0, 0)]
    assert "<img" not in explorer.answers.export.value
    assert "<img" not in explorer.answers.figure.layout.yaxis.ticktext[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: MODEL.prompt(["a", "b"], audio=[ITEM.waveform] * 2, sampling_rate=16000),
            "one row",
        ),
        (lambda: MODEL.prompt("What?"), "no audio"),
        (
            lambda: la.AudioPrompt.from_tensors(
                PROMPT.tokens, PROMPT.mel, PROMPT.mel_lengths, audio_mask=PROMPT.audio_mask
            ),
            r"tokenizer|processor",
        ),
    ],
    ids=["batch", "text only", "tensors"],
)
def test_what_cannot_be_explored_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        la.explore(MODEL, make())


@pytest.mark.parametrize("choices", ["horn", ["glass"], []])
def test_fewer_than_two_choices_are_refused(choices):
    with pytest.raises(ValueError, match="two texts or more"):
        la.explore(MODEL, PROMPT, choices=choices)


def test_a_pair_of_unequal_recordings_is_swept_window_by_window():
    shorter = PROMPT.with_audio(ITEM.waveform[:20000], sampling_rate=ITEM.sampling_rate)
    pair = la.data.pair(PROMPT, shorter, fit="group")
    explorer = la.explore(MODEL, pair, choices=ITEM.choices)
    patching = explorer.patching
    assert "pattern" not in patching.site.options
    assert "position" not in dict(patching.kind.options).values()
    patching.kind.value, patching.window.value = "window", 0.5
    patching.run.click()
    assert list(patching.result.axes["group"]) == ["0.00-0.50 s", "0.50-1.00 s", "1.00-2.81 s"]
    explorer.circuit = [(0, 2)]
    names = {"model": MODEL, "pair": pair}
    exec(explorer.to_code(), names)
    explorer.answers.mode.value = "knock these heads out"
    left = names["test"].without(explorer.circuit).faithfulness
    assert f"what is left {left:.3f}" in explorer.answers.outcome.value


def test_recordings_of_unequal_length_are_refused():
    shorter = PROMPT.with_audio(ITEM.waveform[:20000], sampling_rate=ITEM.sampling_rate)
    with pytest.raises(ValueError, match="positions do not correspond"):
        la.explore(MODEL, PROMPT, shorter)


def test_a_head_that_does_not_exist_is_refused(explorer):
    with pytest.raises(ValueError, match="4 layers x 8 heads"):
        explorer.select(4, 0)
    with pytest.raises(ValueError, match="4 layers x 8 heads"):
        explorer.circuit = [(0, 8)]
    assert len(explorer.circuit) == 0


def test_no_hook_is_left_on_the_model(explorer):
    explorer.answers.mode.value = "knock these heads out"
    explorer.patching.run.click()
    assert all(not point.fwd_hooks for point in MODEL.hook_points())


def test_no_figure_has_numbers_that_json_does_not_have(opened):
    for figure in (opened.map, opened.answers.figure, opened.time, opened.tokens):
        data = figure.get_state()["_widget_data"]
        json.dumps(data, allow_nan=False, default=lambda buffer: len(buffer))


def test_plotly_is_sent_once_and_compressed(opened):
    assert len(opened.map._esm) < 5000
    assert opened.map.source is opened.tokens.source
    assert len(opened.map.source.code) < 2_500_000


def test_a_click_shows_the_answer_without_the_head(explorer):
    click(explorer, 1, 6)
    right, wrong = (explorer.session.tokens[i] for i in explorer.session.default_answers)
    metric = la.analysis.metrics.logit_diff(right, wrong)
    outcome = la.analysis.CircuitTest(MODEL, PROMPT, PROMPT.silenced(), metric).without([(1, 6)])
    expected = f"{float(outcome.whole.mean()):.2f} → {float(outcome.metric.mean()):.2f}"
    assert expected in explorer.looked_at.value


def test_a_cell_of_a_sweep_selects_its_head_or_its_layer_and_time(explorer):
    explorer.patching.run.click()
    explorer.patching.figure.data[0]._dispatch_on_click(Points(2, 3), None)
    assert explorer.head == (2, 3)
    explorer.patching.site.value, explorer.patching.kind.value = "resid_pre", "window"
    explorer.patching.run.click()
    explorer.patching.figure.data[0]._dispatch_on_click(Points(1, 1.1), None)
    assert explorer.head[0] == 1
    assert explorer.span == (1.0, 1.25)


def test_what_a_heads_absence_does_is_still_shown_when_it_joins_the_working_set(explorer):
    click(explorer, 1, 6)
    explorer.add.click()
    assert "Without it" in explorer.looked_at.value
    explorer.answers.metric.name.value = "probability"
    assert "Without it" not in explorer.looked_at.value
    assert "Click a head to see the answer without it" in explorer.looked_at.value


def test_recoveries_have_one_scale_in_the_map_of_heads_and_in_the_sweeps(explorer):
    explorer.patching.run.click()
    assert explorer.map.data[0].zmax == explorer.patching.figure.data[0].zmax == 1


def test_a_figure_that_becomes_higher_stays_as_wide_as_its_place(explorer):
    sent = []
    explorer.map.observe(lambda change: sent.append(change["new"]), "_py2js_relayout")
    explorer.map.become(go.Figure(explorer.map).update_layout(height=700))
    assert [message["relayout_data"] for message in sent if message] == [{"autosize": True}]


def test_the_page_tells_the_prompt_and_the_head_and_asks_for_no_click(explorer):
    explorer.circuit = [(0, 2)]
    explorer.head = (1, 6)
    page = explorer.html().split("<body>")[1]
    for words in ("Which sound do you hear?", "L1H6", "Without it", "Outlined: the working set."):
        assert words in page
    assert "Click a head" not in page


def test_a_span_counts_the_attention_on_its_seconds(explorer):
    explorer.span = (0.5, 1.0)
    positions = PROMPT.positions_between(0, 0.5, 1.0)
    pattern = la.analysis.head_pattern(MODEL, PROMPT, 2, 7)[0]
    assert explorer.map.data[0].z[2][7] == pytest.approx(
        float(pattern[-1, positions].sum()), rel=1e-4
    )
    with pytest.raises(ValueError, match="span"):
        explorer.span = "all"


def test_a_saved_state_opens_where_it_was_left(explorer, tmp_path):
    explorer.select(1, 6)
    explorer.circuit, explorer.span = [(0, 2), (2, 7)], (0.5, 1.0)
    explorer.answers.mode.value = "knock these heads out"
    explorer.saving.notes.value = "the glass breaks <b>late</b>"
    explorer.patching.run.click()
    path = explorer.save(tmp_path / "x.json")
    again = la.explore(MODEL, PROMPT, state=path)
    assert (again.head, again.span, again.circuit.heads) == ((1, 6), (0.5, 1.0), ((0, 2), (2, 7)))
    torch.testing.assert_close(again.result.values, explorer.result.values, rtol=0, atol=0)
    assert again.answers.outcome.value == explorer.answers.outcome.value
    assert again.save(tmp_path / "y.json").read_text() == path.read_text()
    page = again.save(tmp_path / "x.html").read_text()
    assert page.count('class="figure"') == 5
    assert "<b>late" not in page
    with pytest.raises(ValueError, match=r"\.json.*\.html"):
        again.save(tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("field", "value"),
    [("selection", [9, 0]), ("span", [2.0, 1.0]), ("run", "other"), ("question", "?"), ("notes", 3),
     ("mode", None), ("working_set", [[0, -1]]), ("sweep", {"site": "nowhere"}),
     ("answers", {"clean": [1, 0, 0, 0], "corrupted": [1, 0, 0, 0]}), ("metric", {})],
)  # fmt: skip
def test_a_field_of_a_state_that_does_not_fit_is_named(opened, tmp_path, field, value):
    saved = json.loads(opened.state.to_json(opened.session))
    path = tmp_path / "x.json"
    path.write_text(json.dumps(saved | {field: value}))
    with pytest.raises(ValueError, match=f"x.json: {field}: "):
        read_state(path, opened.session)


def test_without_widgets_there_are_figures(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    static = la.explore(MODEL, PROMPT, choices=["<b>x</b>", "glass"])
    page = static.save(tmp_path / "page.html").read_text()
    assert page.count('class="figure"') == 4
    assert "<audio" in page
    assert "<b>x" not in page
    assert static._repr_html_().startswith("<iframe srcdoc=")
