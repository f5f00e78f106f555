"""What the lab shows in a terminal: a table, and a sentence for each design."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from beam_exactly_once.lab.experiment import RECORDS, Outcome, is_exact
from beam_exactly_once.lab.lives import Fate, Tally
from beam_exactly_once.lab.moments import DESIGNS, MOMENTS, Design
from beam_exactly_once.lab.old_designs import BLOCK_RECORDS

_SIGNS: dict[Fate, tuple[str, str]] = {"once": ("■", "green"), "lost": ("□", "red"), "repeated": ("2", "yellow")}


def show(outcomes: Sequence[Outcome], console: Console) -> None:
    """A row a moment, a column a design, a sign a block of records; then what each design came to."""
    tallies = {(outcome.design, outcome.moment.name): outcome.tally for outcome in outcomes}
    table = Table("SIGKILL", *DESIGNS.values(), box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for moment in MOMENTS:
        cells = [_cell(tallies.get((design, moment.name))) for design in DESIGNS]
        table.add_row(f"[dim]{moment.victim}[/]\n{moment.text}", *cells, end_section=True)
    console.print(table)
    console.print()
    legend = ", ".join(f"[{style}]{sign}[/] {fate}" for fate, (sign, style) in _SIGNS.items())
    console.print(f"One sign is {BLOCK_RECORDS} of {RECORDS:,} records: {legend}.\n")
    for line in sentences(outcomes):
        console.print(line, soft_wrap=True)


def sentences(outcomes: Sequence[Outcome]) -> list[str]:
    """One a design."""
    ours = f"Offset ranges:           {_worst(outcomes, 'offset_ranges')}: one marker decides what is read and what is visible."
    return [
        f"Receiver without a log:  {_worst(outcomes, 'receiver')}: Kafka took for done what only memory had.",
        f"Receiver with a log:     {_worst(outcomes, 'logged_receiver')}: two systems kept progress, and one was behind.",
        f"[green]{ours}[/]" if is_exact(outcomes) else f"[red]{ours} This must never be: please report it.[/]",
    ]


def counts(tally: Tally) -> str:
    """In words."""
    found = {"lost": tally.lost, "repeated": tally.repeated}
    return ", ".join(f"{count} {what}" for what, count in found.items() if count) or "exact"


def _cell(tally: Tally | None) -> str:
    if tally is None:
        return "\n[dim]no such moment[/]"
    signs = (_SIGNS[fate] for fate, count in tally.fates() for _ in range(-(-count // BLOCK_RECORDS)))
    bar = "".join(f"[{style}]{sign}[/]" for sign, style in signs)
    return f"{bar}\n{counts(tally)}"


def _worst(outcomes: Sequence[Outcome], design: Design) -> str:
    found = [outcome.tally for outcome in outcomes if outcome.design == design]
    return f"at worst {max(one.lost for one in found)} lost and {max(one.repeated for one in found)} repeated"
