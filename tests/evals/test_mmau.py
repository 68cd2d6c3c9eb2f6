"""The official token-set match, on made-up cases and on every question of MMAU test-mini."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_audio.evals.benchmarks.mmau import matches

QUESTIONS = Path(__file__).parents[2] / "../shared/data/mmau/mmau-test-mini.json"
CHOICES = ["A dog barks", "A cat", "A dog howls"]


@pytest.mark.parametrize(
    ("prediction", "right"),
    [
        ("A dog barks", True),
        ("a DOG barks.", True),
        ("I hear that a dog barks", True),
        ("A dog", False),
        ("A dog barks, or a cat", False),
        ("A dog barks and howls", False),
        ("", False),
    ],
)
def test_all_words_of_the_answer_and_none_of_a_wrong_choice(prediction, right):
    assert matches(prediction, "A dog barks", CHOICES) is right


@given(st.permutations(CHOICES), st.text("xyz ,.!", max_size=10))
def test_order_of_choices_and_other_words_do_not_matter(choices, extra):
    assert matches(f"{extra} A dog barks", "A dog barks", choices)


def test_every_answer_of_mmau_matches_itself():
    if not QUESTIONS.exists():
        pytest.skip(f"{QUESTIONS.name} is not here")
    questions = json.loads(QUESTIONS.read_text())
    assert len(questions) == 1000
    assert all(matches(q["answer"], q["answer"], q["choices"]) for q in questions)
