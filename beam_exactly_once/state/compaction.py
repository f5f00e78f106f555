"""Which sections a batch merges: what one bundle decides of the slices that it holds. Pure.

A slice is a list of sections, the newest first. Each batch puts one more in front, so without merges a look-up would read them
all. The oldest section is the *base*, the others are *pending*. A merge takes the newest sections of a slice, and the batch's own
rows with them, which then need no section of their own:

- A small merge, where many sections are pending: a look-up reads few.
- A new base, where the pending sections have half as many rows as the base: what was replaced or deleted goes.
- Old and small sections are written again: a section keeps its whole object, and that may hold megabytes that nobody needs.

In each batch a bundle makes as many small merges as keep up with one section a slice, and one base. So no batch pays for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAX_PENDING = 8
"""So many pending sections are merged."""
FEW_PENDING = 3
"""More than these are merged before, if more slices get long together than can be merged then."""
LARGE_PENDING = 3
"""So many of them may stay apart because they are large."""
SLICES_A_MERGE = 8
"""A bundle makes one small merge for so many slices that it holds."""
BASE_SHARE = 0.5
"""Pending rows, as a share of those of the base, that make a new base."""
OLD_AGE_BATCHES = 64
OLD_SHARE = 0.25
"""How many rows of old sections are written again, as a share of the rows that the batch writes anyway."""


@dataclass(frozen=True, slots=True)
class Held:
    """A section of a slice, as far as it matters here."""

    rows: int
    tombstones: int
    age_batches: int
    """How many batches ago it was written."""


@dataclass(frozen=True, slots=True)
class Merge:
    """The newest sections of a slice become one, together with the batch's own rows of that slice."""

    slice_number: int
    sections: int
    is_base: bool
    """Whether they are all that the slice has: then tombstones go."""


def choose_merges(slices: Sequence[Sequence[Held]], batch_rows: int) -> list[Merge]:
    """What to merge, at most one merge a slice.

    Args:
        slices: the slices that a bundle holds: of each its sections, the newest first.
        batch_rows: how many rows the bundle writes in this batch.
    """
    pending_rows = [sum(section.rows for section in held[:-1]) for held in slices]
    chosen: dict[int, Merge] = {}
    due = [
        number
        for number, held in enumerate(slices)
        if len(held) > 1 and pending_rows[number] >= BASE_SHARE * held[-1].rows
    ]
    if due:
        number = max(due, key=lambda number: pending_rows[number])
        chosen[number] = Merge(number, len(slices[number]), is_base=True)
    for number in _longest([0 if number in chosen else len(held) - 1 for number, held in enumerate(slices)]):
        chosen[number] = Merge(number, _small(slices[number]), is_base=False)
    return [*chosen.values(), *_old(slices, pending_rows, chosen, OLD_SHARE * batch_rows)]


def _longest(pending: Sequence[int]) -> list[int]:
    """The slices of the small merges, by how many sections are pending in each."""
    quota = -(-len(pending) // SLICES_A_MERGE)
    many = sorted(
        (number for number, count in enumerate(pending) if count > FEW_PENDING), key=lambda number: -pending[number]
    )
    return [number for number in many[:quota] if len(many) > quota * (MAX_PENDING - pending[number])]


def _small(held: Sequence[Held]) -> int:
    """How many sections a small merge takes: none that is larger than the newer ones together, unless many would be left."""
    count = rows = 0
    for section in held[:-1]:
        left = len(held) - 1 - count
        if count > 1 and section.rows > rows and left <= LARGE_PENDING:
            break
        count += 1
        rows += section.rows
    return count


def _old(
    slices: Sequence[Sequence[Held]], pending_rows: Sequence[int], chosen: dict[int, Merge], max_rows: float
) -> list[Merge]:
    """Slices with old sections, the smallest first, until there are rows enough: with the base, if that is small as well."""
    merges = []
    costs = []
    for number, held in enumerate(slices):
        if number in chosen or all(section.age_batches < OLD_AGE_BATCHES for section in held):
            continue
        all_rows = pending_rows[number] + held[-1].rows
        if all_rows <= max_rows:
            costs.append((all_rows, Merge(number, len(held), is_base=True)))
        elif any(section.age_batches >= OLD_AGE_BATCHES for section in held[:-1]):
            costs.append((pending_rows[number], Merge(number, len(held) - 1, is_base=False)))
    for rows, merge in sorted(costs, key=lambda cost: cost[0]):
        max_rows -= rows
        if max_rows < 0:
            break
        merges.append(merge)
    return merges
