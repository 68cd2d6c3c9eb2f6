"""The words around a question: by name, or from a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from string import ascii_uppercase as LETTERS

LISTED, LETTERED = "choices", "lettered"
FIELDS = (["question"], [LISTED, "question"], [LETTERED, "question"])  # sorted
# R1-AQA (Li et al., arXiv 2503.11197) asks MMAU so; the chat template goes around it.
R1_AQA = (
    "{question} Please choose the answer from the following options: {choices}. "
    "Output the final answer in <answer> </answer>."
)


@dataclass(frozen=True)
class Wording:
    """A template with `{question}`, and `{choices}` or `{lettered}` where the question lists none.

    `{choices}` is the choices as a Python list, as R1-AQA has them; `{lettered}` has a line for each,
    such as "(A) dog".
    """

    name: str
    template: str

    def __post_init__(self) -> None:
        try:
            parts = list(Formatter().parse(self.template))
        except ValueError as error:
            raise ValueError(
                f"the prompt {self.name!r}: {error}; write {{{{ and }}}} for braces"
            ) from None
        found = [name for _, name, _, _ in parts if name is not None]
        if sorted(found) not in FIELDS or any(spec or how for _, _, spec, how in parts):
            raise ValueError(
                f"the prompt {self.name!r} must hold {{question}} once, {{choices}} or {{lettered}} "
                "once or neither of them, and no other braces ({{ and }} stand for braces); it holds "
                f"{found or 'none of them'}"
            )

    def ask(self, question: str, choices: Sequence[str]) -> str:
        """The user's text.

        Raises:
            ValueError: for more choices than letters.
        """
        lines = "\n".join(_lines(choices)) if self._has_letters else ""
        return self.template.format(question=question, choices=list(choices), lettered=lines)

    def answer(self, choice: str, choices: Sequence[str] = ()) -> str:
        """The whole answer that names this choice: what its log-probability is taken of.

        It has the form that the prompt asks for: with letters "[[A]]" where the template has double
        brackets, else the choice's line, "(A) dog"; otherwise the choice; in tags where the template
        has them.

        Args:
            choices: of the item, in its order, from which letters follow.

        Raises:
            ValueError: where there are letters, and the choice is none of the choices.
        """
        if self._has_letters:
            choice = self._lettered(choice, list(choices))
        return f"<answer>{choice}</answer>" if "<answer>" in self.template else choice

    def _lettered(self, choice: str, choices: Sequence[str]) -> str:
        if choice not in choices:
            raise ValueError(
                f"the prompt {self.name!r} gives choices letters, so the answer {choice[:80]!r} needs "
                "the choices that it is one of"
            )
        row = choices.index(choice)
        return f"[[{LETTERS[row]}]]" if "[[" in self.template else _lines(choices)[row]

    @property
    def _has_letters(self) -> bool:
        return any(name == LETTERED for _, name, _, _ in Formatter().parse(self.template))


def _lines(choices: Sequence[str]) -> list[str]:
    if len(choices) > len(LETTERS):
        raise ValueError(f"{len(choices)} choices are more than there are letters")
    return [f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]


WORDINGS = {
    wording.name: wording
    for wording in (
        Wording("r1-aqa", R1_AQA),
        Wording(
            "plain", "{question} Please choose the answer from the following options: {choices}."
        ),
        Wording(
            "brief", "{question}\nOptions: {choices}\nAnswer with one option and nothing else."
        ),
        Wording(
            "lettered",
            "{question}\n{lettered}\nEnd with the letter of one option in double brackets, as in [[A]].",
        ),
        Wording("verbatim", "{question}"),  # the question says everything
    )
}


def wording(name_or_file: str) -> Wording:
    """A wording by its name, or the template in a text file.

    Raises:
        ValueError: for neither, or a template with other fields than `Wording` takes.
    """
    if name_or_file in WORDINGS:
        return WORDINGS[name_or_file]
    path = Path(name_or_file).expanduser()
    if not path.is_file():
        raise ValueError(
            f"no prompt is called {name_or_file!r} and there is no such file; there are "
            f"{', '.join(WORDINGS)}, or give a text file with {{question}} and {{choices}} or {{lettered}}"
        )
    return Wording(path.name, path.read_text(encoding="utf-8-sig").strip())
