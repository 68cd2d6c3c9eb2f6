"""The words around questions, and the answer in what is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_audio.data.wording import WORDINGS, Wording, wording
from lens_audio.evals.extraction import extract, is_closed


def test_r1_aqa_asks_as_its_authors_do():
    assert wording("r1-aqa").ask("Who speaks?", ["Man", "Woman"]) == (
        "Who speaks? Please choose the answer from the following options: ['Man', 'Woman']. "
        "Output the final answer in <answer> </answer>."
    )


@given(st.text(), st.text())
def test_braces_in_a_question_stay_as_they_are(question, choice):
    shown = {"lettered": "(B) {question}{0}", "verbatim": ""}
    for name, words in WORDINGS.items():
        asked = words.ask(question, [choice, "{question}{0}"])
        assert question in asked
        assert shown.get(name, "'{question}{0}'") in asked


@pytest.mark.parametrize(
    "template",
    [
        "{lettered}", "{question} {choices} {lettered}",
        "{choices}", "{question} {choices} {0}", "{question} {choices} {audio}", "",
        "{question!r} {choices}", "{question.__class__} {choices}", "{question} {choices} {",
        "{question} {question} {choices}", "{question:>9} {choices}", "{choices[0]} {question}",
    ],
)  # fmt: skip
def test_a_template_without_its_fields_or_with_others_is_refused(template):
    with pytest.raises(ValueError, match="the prompt 'mine'"):
        Wording("mine", template)


def test_a_byte_order_mark_is_no_part_of_a_wording(tmp_path):
    (tmp_path / "mine.txt").write_text("{question} {choices}", encoding="utf-8-sig")
    assert wording(str(tmp_path / "mine.txt")).ask("What?", []) == "What? []"


def test_a_wording_of_ones_own_is_a_file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("Q: {question}\nOne of {{{choices}}}?\n")
    assert wording(str(path)).ask("Who?", ["a", "b"]) == "Q: Who?\nOne of {['a', 'b']}?"
    with pytest.raises(ValueError, match="there are r1-aqa, plain"):
        wording("no such")


def test_a_question_that_says_everything_is_asked_as_it_is():
    assert wording("verbatim").ask("Who {speaks}?", ["Man", "Woman"]) == "Who {speaks}?"
    assert wording("verbatim").answer("Man") == "Man"


def test_lettered_choices_stand_on_lines_of_their_own():
    assert Wording("mine", "Q: {question}\n{lettered}!").ask("Who?", ["Man", "Woman"]) == (
        "Q: Who?\n(A) Man\n(B) Woman!"
    )
    assert wording("lettered").ask("Who?", ["Man", "Woman"]) == (
        "Who?\n(A) Man\n(B) Woman\nEnd with the letter of one option in double brackets, as in [[A]]."
    )


@pytest.mark.parametrize(
    ("template", "answer"),
    [
        ("{question} {lettered}", "(B) Woman"),
        ("{question} {lettered} such as [[A]]", "[[B]]"),
        ("{question} {lettered} in <answer>", "<answer>(B) Woman</answer>"),
        ("{question} {choices} such as [[A]]", "Woman"),
        ("{question} {choices} {{lettered}}", "Woman"),
    ],
)
def test_a_lettered_answer_has_the_form_that_is_asked_for(template, answer):
    assert Wording("mine", template).answer("Woman", ("Man", "Woman", "Child")) == answer


def test_a_letter_needs_the_choices():
    with pytest.raises(ValueError, match="'lettered' gives choices letters, so the answer 'Man'"):
        wording("lettered").answer("Man")
    with pytest.raises(ValueError, match="27 choices are more than there are letters"):
        wording("lettered").ask("Who?", [str(n) for n in range(27)])


def test_an_answer_has_the_form_that_is_asked_for():
    assert wording("r1-aqa").answer("Man") == "<answer>Man</answer>"
    assert wording("plain").answer("Man") == "Man"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("<answer>Man</answer>", "Man"),
        ("It is <ANSWER> Man </Answer>, I think", "Man"),
        ("<answer>Man", "Man"),
        ("first <answer>Man</answer>, no: <answer>Woman</answer>", "Woman"),
        (" Man. ", "Man."),
        ("", ""),
        ("Man</answer> and more", "Man"),
        ("</answer>", ""),
    ],
)
def test_the_answer_is_what_stands_in_the_tags(said, answer):
    assert extract(said) == answer


def test_generation_may_stop_at_the_closing_tag():
    assert is_closed("<answer>Man</answer>")
    assert not is_closed("<answer>Man</answ")
