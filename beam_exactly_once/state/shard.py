"""``Shard``: what an operator remembers of some slices, looked up for a batch, and changed by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from beam_exactly_once.state.hashing import Hashes, Numbers
from beam_exactly_once.state.run import Run, Versions, look_up
from beam_exactly_once.state.state_list import Section, Slice
from beam_exactly_once.state.types.arrow_state import joined


class Known(NamedTuple):
    """What was found of some keys."""

    places: Numbers
    """Which of the keys."""
    values: pa.Array | None
    """Theirs; None if nothing was found."""
    versions: Versions
    expiry_ms: Numbers


@dataclass(eq=False)
class OpenSlice:
    """A slice while a bundle has it. Its sections are opened when they are needed: a fresh worker need not read all."""

    base: Slice
    open_sections: Callable[[Sequence[Section]], list[Run]]
    delta: Run | None = None
    """What the batch changes of it."""
    next_due_ms: int | None = None
    """When its next timer is due, behind the batch."""
    _runs: list[Run] | None = None

    @property
    def changed(self) -> list[Run]:
        """What the batch changes of it, as a run in front of its sections; none if it changes nothing."""
        return [] if self.delta is None else [self.delta]

    @property
    def runs(self) -> list[Run]:
        """Of its sections, the newest first, without rows of other slices."""
        if self._runs is None:
            bounds = self.base.first_hash, self.base.end_hash
            self._runs = [run.slice(*bounds) for run in self.open_sections(self.base.sections)]
        return self._runs


class Shard:
    """The slices of one shard.

    Args:
        slices: neighbours, in order.
    """

    def __init__(self, slices: Sequence[OpenSlice]) -> None:
        self.slices = slices

    def holds(self, hashes: Hashes) -> bool:
        """Whether all of these, which are sorted, are of this shard."""
        first, end = self.slices[0].base.first_hash, self.slices[-1].base.end_hash
        return not len(hashes) or (int(hashes[0]) >= first and int(hashes[-1]) < end)

    def look_up(self, hashes: Hashes, keys: pa.LargeBinaryArray) -> Known:
        """What is remembered of each key.

        Args:
            hashes: of the keys, sorted.
            keys: different ones.
        """
        none = np.zeros(0, np.int64)
        columns: list[pa.Array] = []
        parts = [(none, np.zeros(0, np.uint8), none)]
        for one, start, stop in self._cut(hashes):
            found = look_up(one.runs, hashes[start:stop], keys.slice(start, stop - start))
            for number in np.unique(found.runs[found.runs >= 0]):
                places, run = np.flatnonzero(found.runs == number), one.runs[number]
                rows = found.rows[places]
                columns.append(run.values.take(pa.array(rows)))
                parts.append((places + start, run.versions[rows], run.expiry_ms[rows]))
        places, versions, expiry_ms = map(np.concatenate, zip(*parts, strict=True))
        return Known(places, joined(columns) if columns else None, versions, expiry_ms)

    def change(self, delta: Run) -> None:
        """Put rows in front of what is remembered."""
        for one, start, stop in self._cut(delta.hashes):
            if stop > start:
                one.delta = delta.slice(one.base.first_hash, one.base.end_hash)

    def _cut(self, hashes: Hashes) -> list[tuple[OpenSlice, int, int]]:
        """Each slice with hashes, and which of the sorted ``hashes`` are its own."""
        firsts = np.array([one.base.first_hash for one in self.slices], np.uint64)
        bounds = [*np.searchsorted(hashes, firsts).tolist(), len(hashes)]
        cut = zip(self.slices, pairwise(bounds), strict=True)
        return [(one, start, stop) for one, (start, stop) in cut if stop > start]
