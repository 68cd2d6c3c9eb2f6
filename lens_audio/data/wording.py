"""The words around a question: by name, or from a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

FIELDS = ("question", "choices")
# R1-AQA (Li et al., arXiv 2503.11197) asks MMAU so; the chat template goes around it.
R1_AQA = (
    "{question} Please choose the answer from the following options: {choices}. "
    "Output the final answer in <answer> </answer>."
)


@dataclass(frozen=True)
class Wording:
    """A template with `{question}` and `{choices}`."""

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
        if sorted(found) != sorted(FIELDS) or any(spec or how for _, _, spec, how in parts):
            raise ValueError(
                f"the prompt {self.name!r} must hold {{question}} and {{choices}} once each, and no "
                f"other braces ({{{{ and }}}} stand for braces); it holds {found or 'neither'}"
            )

    def ask(self, question: str, choices: Sequence[str]) -> str:
        """The user's text. Choices are written as a Python list, as R1-AQA does."""
        return self.template.format(question=question, choices=list(choices))

    def answer(self, choice: str) -> str:
        """The whole answer that names this choice: what its log-probability is taken of."""
        return f"<answer>{choice}</answer>" if "<answer>" in self.template else choice


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
    )
}


def wording(name_or_file: str) -> Wording:
    """A wording by its name, or the template in a text file.

    Raises:
        ValueError: for neither, or a template without its two fields.
    """
    if name_or_file in WORDINGS:
        return WORDINGS[name_or_file]
    path = Path(name_or_file).expanduser()
    if not path.is_file():
        raise ValueError(
            f"no prompt is called {name_or_file!r} and there is no such file; there are "
            f"{', '.join(WORDINGS)}, or give a text file with {{question}} and {{choices}}"
        )
    return Wording(path.name, path.read_text(encoding="utf-8-sig").strip())
