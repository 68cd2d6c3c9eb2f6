"""The encoder's activations of many recordings: what a run's own cache holds, clip by clip."""

import numpy as np
import pytest

import lens_audio as la
from lens_audio.data import encoder_activations

CLIPS = [
    (item.waveform[: 8000 + 4000 * n], 16000) for n, item in enumerate(la.testbed.make_items(3, 3))
]


@pytest.fixture(scope="module")
def model() -> la.HookedAudioTransformer:
    return la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())


@pytest.mark.parametrize("site", ["resid_post", "z"])
def test_they_are_those_of_a_run_about_each_clip(model, site) -> None:
    every = encoder_activations(model, CLIPS, site, layers=[-1, 0], every_frame=True, batch_size=2)
    means = encoder_activations(model, CLIPS, site, layers=[-1, 0])
    for number, clip in enumerate(CLIPS):
        prompt = model.prompt("Which sound?", audio=clip)
        _, cache = model.run_with_cache(prompt)
        n_frames = model.cfg.audio.n_frames(int(prompt.mel_lengths[0]))
        last = model.cfg.audio.n_layers - 1
        for place, layer in enumerate((last, 0)):
            name = la.hooks.hook_names(f"audio_encoder.{site}", layer)[0]
            expected = cache[name][0, :n_frames].numpy()
            np.testing.assert_allclose(every[number, place, :n_frames], expected, atol=2e-5)
            np.testing.assert_allclose(means[number, place], expected.mean(0), atol=2e-5)
        assert np.isnan(every[number, :, n_frames:]).all()
    model.check_no_hooks()


def test_one_row_a_clip_and_layer(model) -> None:
    array = encoder_activations(model, CLIPS[:1], verbose=False)
    cfg = model.cfg.audio
    assert (array.shape, array.dtype) == ((1, cfg.n_layers, cfg.d_model), np.float32)


@pytest.mark.parametrize(
    ("clips", "options", "says"),
    [
        ([], {}, "at least one clip"),
        (CLIPS, {"site": "pattern"}, "no frames"),
        (CLIPS, {"site": "pooled"}, "no frames"),
        (CLIPS, {"site": "nothing"}, "no site is called"),
        (CLIPS, {"layers": 99}, "layer"),
    ],
)
def test_what_there_is_not_is_refused(model, clips, options, says) -> None:
    with pytest.raises(ValueError, match=says):
        encoder_activations(model, clips, **options)
