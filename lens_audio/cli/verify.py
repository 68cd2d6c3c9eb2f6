"""`lens-audio verify`: does a checkpoint compute here what it computes in transformers?"""

import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lens_audio.cli.checks import checkpoint_path, shown_name
from lens_audio.cli.commands.verify import Verify
from lens_audio.files import check_writable, write_text
from lens_audio.plots.report import said_versions
from lens_audio.verification import Verification, verify
from lens_audio.verification.comparing import Difference
from lens_audio.verification.reading import ENCODER_OUT, LOGITS, PROJECTOR_OUT
from lens_audio.verification.result import AGREES, DIFFERS, NO_REFERENCE, Case

LEGEND = """\
apart    largest difference between ours and transformers with eager attention
own      largest difference between transformers with eager and with sdpa attention
share    largest difference divided by the largest value at its position
allowed  largest share that agrees; it follows from transformers' own
Of several blocks, the one nearest its limit is shown; the file has them all.
"""
EXIT_STATUS = {AGREES: 0, DIFFERS: 3, NO_REFERENCE: 4}


def run(request: Verify) -> int:
    """Verify, print, write the file; the exit status."""
    output = check_writable(request.output)
    progress, console = Console(stderr=True), Console(highlight=False)
    with progress.status("verifying") as status:
        found = verify(
            checkpoint_path(request.model),
            request.device,
            request.dtype,
            against=None if request.against is None else checkpoint_path(request.against),
            n_tokens=request.tokens,
            quick=request.quick,
            say=lambda text: status.update(escape(text)),
        )
    named = {"model": shown_name(request.model)}
    if request.against is not None:
        named["in_transformers"] = shown_name(request.against)
    write_text(output, json.dumps(named | found.to_json(), indent=1) + "\n")
    show(found, named["model"], console)
    console.print(f"\nFile: {escape(str(output))}", soft_wrap=True)
    return EXIT_STATUS[found.verdict]


def show(found: Verification, name: str, console: Console) -> None:
    """Print the table and the verdict."""
    facts = found.facts
    console.print(f"[bold]{escape(name)}[/], {facts['dtype']} on {escape(facts['device'])}")
    console.print(f"{said_versions(facts['versions'])}\n", soft_wrap=True)
    if found.has_reference:
        console.print(LEGEND)
    for case in found.cases:
        if found.has_reference:
            console.print(differences_table(case))
        for number, said in enumerate(tokens_said(case)):
            row = f", row {number}" if len(case.rows) > 1 else ""
            console.print(f"{case.name}{row}: {escape(said)}", soft_wrap=True)
    console.print(f"\n[bold]{escape(verdict(found))}[/]", soft_wrap=True)


def verdict(found: Verification) -> str:
    """The result in a sentence."""
    if found.first and found.has_reference:
        prompt, place = found.first
        return f"DIFFERS from transformers, first at {place} ({prompt})."
    if found.first:
        prompt, place = found.first
        return f"NaN or infinite values, first at {place} ({prompt})."
    if found.has_reference:
        return "Agrees with transformers."
    return (
        f"There is no reference: transformers has no {found.facts['architecture']} without remote "
        "code, which is not run. Instead it was checked that every block, the encoder's output and the "
        "logits are finite, and that tokens come, but not that they are the right ones."
    )


HEADER = ("place", "apart", "own", "share", "allowed", "")


def differences_table(case: Case) -> Table:
    """A line for each kind of place: of its blocks, the one closest to its limit."""
    table = Table(*HEADER, title=case.name)
    for column in table.columns[1:5]:
        column.justify = "right"
    for found in worst_of_each_kind(case):
        table.add_row(*line(found))
    return table


def worst_of_each_kind(case: Case) -> list[Difference]:
    """Encoder blocks, encoder, projector, decoder blocks, logits."""
    kinds: dict[str, list[Difference]] = {}
    for found in case.differences:
        is_one = found.place in (ENCODER_OUT, PROJECTOR_OUT, LOGITS)
        kind = found.place if is_one else found.place.split("blocks")[0]
        kinds.setdefault(kind, []).append(found)
    return [
        min(each, key=lambda d: (d.agrees, -d.ours.share / d.allowed)) for each in kinds.values()
    ]


def line(found: Difference) -> tuple[str, ...]:
    """A difference as text."""
    return (
        found.place.removesuffix(".hook_resid_post"),
        f"{found.ours.largest:.3g}",
        f"{found.own.largest:.3g}",
        f"{found.ours.share:.2g}",
        f"{found.allowed:.2g}",
        "agrees" if found.agrees else "DIFFERS",
    )


def tokens_said(case: Case) -> list[str]:
    """What to say of every row's greedy tokens."""
    said = []
    for number, row in enumerate(case.rows):
        text = f": {case.texts[number]!r}" if case.texts else ""
        n = len(row.ours)
        if row.transformers is None:
            said.append(f"{n} greedy tokens{text}")
        elif not row.agrees:
            share = row.logits.share if row.logits else 0.0
            said.append(
                f"greedy tokens DIFFER: the share of their logits is {share:.2g}, allowed "
                f"{row.allowed:.2g}{text}"
            )
        elif row.parts_at is None:
            said.append(f"{n} of {n} greedy tokens are the same{text}")
        else:
            said.append(
                f"{row.parts_at} of {n} greedy tokens are the same, then comes a tie: transformers' logits "
                f"of the two differ by {row.gap:.2g} of the largest{text}"
            )
    return said
