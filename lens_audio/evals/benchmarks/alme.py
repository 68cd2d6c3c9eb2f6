"""ALME (Billa, arXiv 2602.11488): does a model follow what it hears, or a transcript that lies?

57,602 recordings of Common Voice 22.0 in eight languages, each with its transcript, a changed one,
and a question that the two answer differently. It is asked in four conditions: of the recording, of
its transcript alone, of both, and of the recording with the changed transcript. Keys, conditions and
rules are those of the repository jb1999/alme-benchmark; its `data/stimuli.jsonl` was not at hand.
Three things differ: our prompts are worded otherwise; they have no system prompt; and the published
script's dictionary, by which an English answer names a choice in another language, is not here, so
such answers name none.
"""

import ast
import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lens_audio import evals
from lens_audio.data.items import AudioQAItem
from lens_audio.evals.benchmarks.rows import (
    audio_path,
    choices_of,
    fact,
    items_of,
    located,
    read_rows,
    require,
    texts,
)

if TYPE_CHECKING:
    import lens_audio.evals.metrics  # on first use, so that questions are read without torch

AUDIO, TEXT = "audio_only", "text_only"
ALIGNED, CONFLICT = "audio_text_aligned", "audio_text_conflict"
CONDITIONS = (AUDIO, TEXT, ALIGNED, CONFLICT)
HEARD = (AUDIO, ALIGNED, CONFLICT)  # those with a recording
GIVEN = {
    AUDIO: "Answer the question about what is said in the recording.",
    TEXT: 'A transcript: "{text}"\nAnswer the question about it.',
    ALIGNED: 'The transcript of the recording: "{text}"\nAnswer the question from both.',
    CONFLICT: 'A transcript of the recording, perhaps a wrong one: "{text}"\n'
    "What you hear is right: answer the question from that.",
}
ASKED = (
    "{given}\n\nQuestion: {question}\nChoices: {choices}\n\n"
    'Answer in JSON with one of the choices, letter for letter: {{"answer": "..."}}'
)
LONGEST = 2000  # letters of a response that are read
CJK = "\u3040-\u30ff\u31f0-\u31ff\u4e00-\u9fff"
QUOTES = str.maketrans({"’": "'", "‘": "'", "´": "'", "“": '"', "”": '"'})


def chosen(response: str, choices: Sequence[str]) -> str | None:
    """The choice that a response names, by the published script; None for none.

    The "answer" of a JSON object (or what looks like one) is compared first: equal to a choice,
    beginning with one, containing one, the longest first. Then the whole response: equal, or
    containing one; where that fails, an answer that is most of a choice; then all again without
    accents. Case, the kind of quotation marks and leading punctuation count for nothing. A choice of
    one or two Chinese or Japanese letters is first looked for where no other such letter adjoins.
    """
    response = response[:LONGEST]
    longest_first = sorted(choices, key=len, reverse=True)
    answer, whole = _answer(response), _plain(response)
    if answer is not None:
        said = _plain(answer)
        bare = re.sub(r"^(choice)?\s*(选项)?\s*", "", said)
        found = (
            [c for c in choices if _plain(c) == said]
            or [c for c in choices if _plain(c) == bare]
            or [c for c in longest_first if bare.startswith(_plain(c))]
            or [c for c in longest_first if _plain(c) in bare]
        )
        if found:
            return found[0]
    heard = [whole] if answer is None else [whole, said]
    found = [c for c in choices if _plain(c) == whole]
    found = found or [c for text in heard for c in longest_first if _stands_in(_plain(c), text)]
    if answer is not None and len(said) >= 4:
        nearly = (c for c in longest_first if len(said) >= 0.6 * len(_plain(c)))
        found = found or [c for c in nearly if said in _plain(c)]
    bare_heard = map(_without_accents, heard)
    found = found or [
        c for text in bare_heard for c in longest_first if _without_accents(_plain(c)) in text
    ]
    return found[0] if found else None


def _answer(response: str) -> str | None:
    """The text under "answer" in JSON, a Python dictionary, or the beginning of either."""
    try:
        found = json.loads(response.strip())
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(response.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            match = re.search(r"""['"]answer['"]\s*:\s*['"]([^'"]{0,500})['"]""", response)
            found = {"answer": match[1]} if match else None
    said = found.get("answer") if isinstance(found, dict) else None
    if not said:
        return None
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), str(said))


def _plain(text: str) -> str:
    text = re.sub("'{2,}", "'", text.strip().lower().translate(QUOTES))
    while text and unicodedata.category(text[0]).startswith("P"):
        text = text[1:]
    return text.strip()


def _stands_in(choice: str, text: str) -> bool:
    if len(choice) <= 2 and re.fullmatch(f"[{CJK}]*", choice):
        return bool(re.search(f"(?<![{CJK}]){re.escape(choice)}(?![{CJK}])", text))
    return choice in text


def _without_accents(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(letter for letter in parts if not unicodedata.category(letter).startswith("M"))


@dataclass(frozen=True, eq=False)
class ALME:
    """ALME's questions in each condition, with their recordings; see `read`."""

    items: Sequence[AudioQAItem]
    version: str
    name: str = "ALME"
    groups: tuple[str, ...] = ("condition", "language", "flip_type")
    prompt: str = "verbatim"
    rule: str = (
        "ALME's own, without its dictionary: the share of conflict trials that follow the text"
    )

    def matches(self, prediction: str, answer: str, choices: Sequence[str]) -> bool:
        """Whether the choice that is named is the one that the recording answers."""
        return chosen(prediction, choices) == answer

    def official_row(self, item: AudioQAItem, prediction: str) -> dict[str, Any]:
        """A trial, under the keys of the published script's results."""
        said = chosen(prediction, item.choices)
        row = {
            "stimulus_id": self.unit(item),
            "condition": item.condition,
            "expected_answer": item.answer,
            "model_answer": said,
            "raw_response": prediction,
            "correct": said == item.answer,
            "language": item.facts["language"],
            "flip_type": item.facts["flip_type"],
        }
        if item.condition == CONFLICT:
            row["followed_text"] = said == _contradicting(item)
        return row

    def unit(self, item: AudioQAItem) -> str:
        """The stimulus, in all its conditions."""
        return item.record["stimulus_id"]

    def metrics(
        self, rows: Sequence["lens_audio.evals.metrics.Row"]
    ) -> dict[str, "lens_audio.evals.metrics.Ratio"]:
        """The text-dominance ratio, its form on questions understood in text, and accuracies.

        Among the conflict trials whose answer follows the recording or the changed transcript, the
        ratio is the share of those that follow the transcript: TDR = text / (text + audio), as the
        repository's instructions have it. Answers that name neither are left out.
        """
        share = evals.metrics.share
        conflict = [row.item.condition == CONFLICT for row in rows]
        text = [
            is_conflict and chosen(row.prediction, row.item.choices) == _contradicting(row.item)
            for row, is_conflict in zip(rows, conflict, strict=True)
        ]
        clear = [c and (t or row.correct) for row, c, t in zip(rows, conflict, text, strict=True)]
        nothing = "no conflict trial was answered with either"
        found = {"text-dominance ratio": share(text, clear, nothing)}
        understood = {
            self.unit(row.item) for row in rows if row.item.condition == TEXT and row.correct
        }
        if any(row.item.condition == TEXT for row in rows):
            known = [
                c and self.unit(row.item) in understood for row, c in zip(rows, clear, strict=True)
            ]
            found["text-dominance ratio, understood in text"] = share(text, known, nothing)
        right = [row.correct for row in rows]
        for condition in dict.fromkeys(row.item.condition for row in rows):
            among = [row.item.condition == condition for row in rows]
            found[f"accuracy, {condition}"] = share(right, among)
        return found

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        audio: str | os.PathLike[str] | None = None,
        conditions: Sequence[str] = CONDITIONS,
    ) -> "ALME":
        """`stimuli.jsonl`: JSON lines, or a list.

        Args:
            audio: the folder that `audio_path` starts from, that of the Common Voice corpus; by
                default the folder of the file.
            conditions: of `CONDITIONS`, by default all. `HEARD` are those with a recording.

        Raises:
            FileNotFoundError: if there is no such file or folder.
            ValueError: for rows that are no questions, named, or unknown conditions.
        """
        others = [condition for condition in conditions if condition not in CONDITIONS]
        if others or not conditions:
            raise ValueError(f"conditions are of {', '.join(CONDITIONS)}, not {others or 'none'}")
        path, folder = located(path, audio)
        rows, needs = read_rows(path).items(), () if TEXT in conditions else ("audio",)
        items = items_of(rows, lambda row: _trials(row, folder, conditions), path.name, needs)
        return cls(items, ", ".join(conditions))


def _contradicting(item: AudioQAItem) -> str | None:
    """The first choice that is not the right one: what the changed transcript answers."""
    return next((choice for choice in item.choices if choice != item.answer), None)


def _trials(row: Any, folder: Path, conditions: Sequence[str]) -> list[AudioQAItem]:
    keys = ("stimulus_id", "audio_path", "ref_text", "conflict_text")
    name, place, true_text, changed_text = texts(row, keys)
    require(row, ("question",))
    asked = row["question"]
    if not isinstance(asked, Mapping):
        raise ValueError("its question must be an object")
    question, answer = texts(asked, ("question_text", "correct_answer"))
    choices = choices_of(asked, "choices")
    recording = audio_path(place, folder, "audio_path")
    facts = {"language": fact(row.get("language")), "flip_type": fact(asked.get("flip_type"))}
    trials = []
    for condition in conditions:
        text = changed_text if condition == CONFLICT else true_text
        prompt = ASKED.format(
            given=GIVEN[condition].format(text=text),
            question=question,
            choices=json.dumps(choices, ensure_ascii=False),
        )
        heard = None if condition == TEXT else recording
        told = {"condition": condition, **facts}
        trials.append(AudioQAItem(f"{name}-{condition}", prompt, choices, answer, heard, told, row))
    return trials
