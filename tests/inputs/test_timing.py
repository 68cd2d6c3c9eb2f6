"""Token counts and times."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_audio.inputs import n_audio_tokens, seconds_per_token, token_spans, tokens_between

frames = st.integers(3, 3000)


@pytest.mark.parametrize(
    ("mel_frames", "tokens"), [(1, 0), (2, 0), (3, 1), (6, 1), (7, 2), (100, 25), (3000, 750)]
)
def test_known_token_counts(mel_frames, tokens):
    assert n_audio_tokens(mel_frames) == tokens


def test_the_count_of_a_tensor_is_the_count_of_each():
    lengths = torch.arange(1, 3001)
    assert n_audio_tokens(lengths).tolist() == [n_audio_tokens(n) for n in range(1, 3001)]


@given(frames)
def test_the_count_is_that_of_convolution_and_pool(n):
    x = torch.zeros(1, 1, n)
    x = torch.nn.functional.conv1d(x, torch.ones(1, 1, 3), stride=2, padding=1)
    assert n_audio_tokens(n) == torch.nn.functional.avg_pool1d(x, 2, 2).shape[-1]


def test_a_token_is_forty_milliseconds():
    assert seconds_per_token() == 0.04
    assert seconds_per_token(hop_length=256, sampling_rate=8000) == 0.128


@given(frames, st.sampled_from([(160, 16000), (256, 22050), (100, 8000)]))
def test_spans_tile_the_clip_exactly(n, hop_and_rate):
    hop, rate = hop_and_rate
    seconds = n * hop / rate
    spans = token_spans(n_audio_tokens(n), seconds, hop, rate)
    assert spans[0, 0] == 0
    assert spans[-1, 1].item() == seconds
    assert torch.equal(spans[1:, 0], spans[:-1, 1])
    assert (spans[:, 1] > spans[:, 0]).all()
    assert spans[:-1].flatten().tolist() == [
        4 * hop * k / rate for i in range(len(spans) - 1) for k in (i, i + 1)
    ]


@given(st.integers(321, 480_000))
def test_the_last_token_has_a_positive_length_for_any_number_of_samples(samples):
    mel_frames = -(-samples // 160)
    spans = token_spans(n_audio_tokens(mel_frames), samples / 16000)
    lengths = spans[:, 1] - spans[:, 0]
    assert 0.02 < lengths[-1] <= 0.06 + 1e-9


@given(frames, st.data())
def test_the_span_of_a_token_finds_that_token_alone(n, data):
    spans = token_spans(n_audio_tokens(n), n / 100)
    k = data.draw(st.integers(0, len(spans) - 1))
    start, end = spans[k].tolist()
    assert tokens_between(spans, start, end).tolist() == [k]


@given(frames, st.data())
def test_any_span_finds_the_tokens_that_overlap_it(n, data):
    spans = token_spans(n_audio_tokens(n), n / 100)
    start = data.draw(st.integers(0, n * 10 - 1)) / 1000
    end = data.draw(st.integers(round(start * 1000) + 1, n * 10)) / 1000
    found = tokens_between(spans, start, end).tolist()
    expected = [k for k, (a, b) in enumerate(spans.tolist()) if a < end and b > start]
    assert found == expected
    assert found


def test_float_noise_does_not_reach_the_next_token():
    spans = token_spans(25, 1.0)
    assert 0.56 + 0.04 > 0.6
    assert tokens_between(spans, 0.56, 0.56 + 0.04).tolist() == [14]
    assert tokens_between(spans, 0.9, 1.0 + 1e-12).tolist() == [22, 23, 24]


@pytest.mark.parametrize("span", [(0.5, 0.5), (0.6, 0.5), (float("nan"), 0.5), (0, float("nan"))])
def test_an_empty_or_reversed_span_is_refused(span):
    with pytest.raises(ValueError, match="start < end"):
        tokens_between(token_spans(25, 1.0), *span)


@pytest.mark.parametrize("span", [(-0.1, 0.5), (0.5, 1.01), (2, 3), (0, float("inf"))])
def test_a_span_outside_the_clip_is_refused(span):
    with pytest.raises(ValueError, match="leaves the clip, which lasts from 0 to 1 s"):
        tokens_between(token_spans(25, 1.0), *span)
