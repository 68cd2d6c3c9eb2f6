"""Pairs of the testbed's recordings, of unequal length, on the embedded checkpoint."""

import numpy as np
import pytest
import torch

import lens_audio as la
from lens_audio.analysis.metrics import logit_diff
from lens_audio.analysis.patching import sweep
from lens_audio.analysis.patching.attribution import attribute, rank_correlation
from lens_audio.analysis.patching.paths import path_patch
from lens_audio.data import pair

torch.set_num_threads(1)
TESTBED = la.HookedAudioTransformer.from_pretrained(la.testbed.checkpoint_dir())


def unequal_items(n):
    """Items of unequal length with other answers: n clean ones, n corrupted ones."""
    items = la.testbed.make_items(4 * n, seed=11)
    both = [
        (one, other)
        for one, other in zip(items[::2], items[1::2], strict=True)
        if one.answer != other.answer and len(one.waveform) != len(other.waveform)
    ][:n]
    assert len(both) == n
    return [one for one, _ in both], [other for _, other in both]


def about_recordings(questions_of, items):
    """The questions of some items about the recordings of others."""
    audio = [(item.waveform, item.sampling_rate) for item in items]
    return TESTBED.prompt([item.question for item in questions_of], audio=audio)


def answers_of(items, others):
    tokens = ([TESTBED.to_single_token(item.answer) for item in side] for side in (items, others))
    return logit_diff(*tokens)


def test_padding_is_padding_by_hand():
    items, others = unequal_items(2)
    pairs = pair(about_recordings(items, items), about_recordings(items, others))
    by_hand = []
    for side in (items, others):
        waves = [np.zeros(max(len(i.waveform), len(j.waveform)), np.float32)
                 for i, j in zip(items, others, strict=True)]  # fmt: skip
        for wave, item in zip(waves, side, strict=True):
            wave[: len(item.waveform)] = item.waveform
        questions = [item.question for item in items]
        by_hand.append(TESTBED.prompt(questions, audio=waves, sampling_rate=16000))
    metric = answers_of(items, others)
    for found, expected in (
        (sweep(TESTBED, pairs, site="z", metric=metric, positions="last"),
         sweep(TESTBED, *by_hand, "z", metric, positions="last")),
        (attribute(TESTBED, pairs, metric=metric, sites="z")["z"],
         attribute(TESTBED, *by_hand, metric, sites="z")["z"]),
        (path_patch(TESTBED, pairs, metric=metric, senders=[(3, 1)]),
         path_patch(TESTBED, *by_hand, metric, senders=[(3, 1)])),
    ):  # fmt: skip
        assert torch.equal(found.values, expected.values)


@pytest.mark.long
@pytest.mark.parametrize("fit", ["pad", "crop", "group"])
def test_twenty_unequal_pairs_of_the_testbed(fit):
    items, others = unequal_items(20)
    clean = about_recordings(items, items)
    corrupted = about_recordings(others if fit == "group" else items, others)
    pairs, metric = pair(clean, corrupted, fit=fit), answers_of(items, others)
    end = sweep(TESTBED, pairs, site="resid_post", metric=metric, positions="last", layers=[-1])
    torch.testing.assert_close(end.values[0, 0], end.source[0], atol=1e-3, rtol=0)
    if fit != "group":  # the questions are the same, so the sound is all of the difference
        sound = sweep(
            TESTBED, pairs, site="resid_pre", metric=metric, positions="audio", layers=[0]
        )
        torch.testing.assert_close(sound.values[0, 0], sound.source[0], atol=1e-3, rtol=0)
    groups = None if fit == "group" else {"audio": "audio", "text": "text", "last": "last"}
    exact = sweep(TESTBED, pairs, site="mlp_out", metric=metric, positions=groups)
    estimated = attribute(TESTBED, pairs, metric=metric, sites="mlp_out")["mlp_out"]
    torch.testing.assert_close(estimated.base, exact.base, atol=1e-3, rtol=0)
    if fit == "group":
        assert rank_correlation(estimated, exact) > 0.5
    paths = path_patch(TESTBED, pairs, metric=metric, senders=[(3, 0), (3, 5)])
    head = sweep(TESTBED, pairs, site="z", metric=metric, positions="all", layers=[3], heads=[0, 5])
    # Of a head of the last layer all paths are direct.
    torch.testing.assert_close(paths.values, head.values[:, 0], atol=1e-3, rtol=0)
