"""The explorer opens on every family, and on a recording of more than a window."""

import pytest
from family_processors import PROCESSORS, ask, either_way_with_long_clips, model_of

import lens_audio as la

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")
OTHERS = [n for n in PROCESSORS if n != "Qwen2-Audio"]


@pytest.mark.parametrize("name", either_way_with_long_clips(OTHERS))
def test_it_shows_a_recording_of_more_than_a_window_and_sweeps_over_its_time(name):
    explorer = la.explore(model_of(name), ask(name, 33), choices=["horn", "knock"])
    explorer.patching.site.value, explorer.patching.kind.value = "resid_pre", "window"
    explorer.patching.window.value = 5.0
    explorer.patching.run.click()
    assert explorer.result.axes["group"][-1] == "30.00-33.00 s"
