"""Captions are found by their words, by a slot or by a pattern, and taken away alone."""

import re

import pytest
import torch

import lens_audio as la
from lens_audio.evals.benchmarks.scenes import CAPTION, CAPTIONS
from lens_audio.steering import contrastive
from lens_audio.steering.captions import captioned_rows, without_caption
from lens_audio.testbed.scenes import make_scene_items

MODEL = la.HookedAudioTransformer.from_pretrained(
    la.testbed.checkpoint_dir("planted"), device="cpu"
)
ITEMS = {c: make_scene_items(1, 71, c)[0] for c in CAPTIONS}
PROMPT = MODEL.prompt([i.question for i in ITEMS.values()], audio=[i.audio for i in ITEMS.values()])


@pytest.mark.parametrize("caption", CAPTIONS)
def test_the_caption_of_every_scene_is_found(caption):
    for item in make_scene_items(20, 72, caption):
        prompt = MODEL.prompt(item.question, audio=item.audio)
        (bare,) = without_caption(prompt, CAPTION).texts
        plain = make_scene_items(20, 72, "none")[int(item.id.split("-")[2])]
        assert bare == MODEL.prompt(plain.question, audio=plain.audio).texts[0]


def test_a_slot_stands_for_any_words_and_rows_without_it_stay():
    texts = ["A note says: a dog. What is it?", "What is it?"]
    prompt = MODEL.prompt(texts, audio=[ITEMS["none"].audio] * 2)
    bare = without_caption(prompt, "A note says: {caption}. ").texts
    assert [("note" in text, "What is it?" in text) for text in bare] == [(False, True)] * 2
    assert captioned_rows(prompt, "A note says: {caption}. ").tolist() == [True, False]


def test_rows_without_a_caption_are_unchanged_and_others_are_led_away_from_the_bare_prompt():
    plain = MODEL(PROMPT, logits_to_keep=1)[:, -1]
    with contrastive(2.0, "without_text", caption=CAPTION).attach(MODEL):
        led = MODEL(PROMPT, logits_to_keep=1)[:, -1]
    bare = MODEL(without_caption(PROMPT, CAPTION), logits_to_keep=1)[:, -1]
    assert torch.equal(led[0], plain[0])
    torch.testing.assert_close(led[1:], (3 * plain - 2 * bare)[1:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "caption", ["{caption}", "It is {caption}", "{caption}.", "a {caption} b {caption} c"]
)
def test_a_slot_needs_words_around_it(caption):
    with pytest.raises(ValueError, match="on both sides"):
        contrastive(1.0, "without_text", caption=caption)


def test_a_caption_that_occurs_twice_is_refused():
    with pytest.raises(ValueError, match=r"occurs .* times in row 0"):
        without_caption(PROMPT, re.compile("i"))


def test_alpha_of_minus_one_is_the_prompt_without_its_caption():
    with contrastive(-1.0, "without_text", caption=CAPTION).attach(MODEL):
        led = MODEL(PROMPT, logits_to_keep=1)[:, -1]
    bare = MODEL(without_caption(PROMPT, CAPTION), logits_to_keep=1)[:, -1]
    torch.testing.assert_close(led, bare, atol=1e-4, rtol=1e-4)


def test_nothing_is_led_towards_silence():
    with pytest.raises(ValueError, match="at least 0, not -1"):
        contrastive(-1.0)
