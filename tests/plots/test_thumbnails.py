"""Thumbnails of all heads: the numbers that the page holds, and how many bytes they take."""

import base64
import json
import re

import numpy as np
import pytest
from models import Layout, Sizes, make_prompt

from lens_audio.plots import head_thumbnails
from lens_audio.plots.thumbnails import thumbnails_html


def test_the_page_holds_each_heads_attention_to_the_clip() -> None:
    prompt = make_prompt(Sizes(), Layout([7], [[20, 40]]))
    n_tokens = len(prompt.audio_positions(0))
    attention = np.random.default_rng(0).random((2, 3, n_tokens)).astype(np.float32)
    attention[1, 2] = 0
    n_first = int((prompt.audio_times(0)[1:, 0] == 0).nonzero().flatten()[0]) + 1
    html = thumbnails_html(prompt, attention, clip=1)
    data = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])
    numbers = np.frombuffer(base64.b64decode(data["attention"]), "<u2").reshape(2, 3, -1)
    largest = np.array(data["largest"]).reshape(2, 3, 1)
    own = attention[..., n_first:]
    np.testing.assert_allclose(numbers / 65535 * largest, own, atol=1e-4)
    np.testing.assert_allclose(data["mass"], own.sum(-1).ravel(), rtol=1e-4)
    assert len(data["edges"]) == own.shape[-1] + 1
    assert len(head_thumbnails(prompt, attention)) < 200_000  # plotly alone has 4 million


def test_a_thousand_heads_over_thirty_seconds_are_about_two_megabytes() -> None:
    prompt = make_prompt(Sizes(n_frames=1500), Layout([7], [[3000]]))
    attention = np.random.default_rng(0).random((32, 32, 750)).astype(np.float32)
    assert 2e6 < len(thumbnails_html(prompt, attention)) < 2.2e6


def test_what_does_not_fit_is_refused() -> None:
    prompt = make_prompt(Sizes(), Layout([7], [[20]]))
    with pytest.raises(ValueError, match="there is no clip 1"):
        thumbnails_html(prompt, np.zeros((2, 2, 30)), clip=1)
    with pytest.raises(ValueError, match="audio tokens, but attention to 1"):
        thumbnails_html(prompt, np.zeros((2, 2, 1)))
