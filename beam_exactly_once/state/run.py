"""``Run``: rows of state, sorted and immutable. Pure.

A batch knows all its keys at once, so they are looked up together: a step of numpy or Arrow for all of them, none for each.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.state.hashing import Hashes, Numbers, offsets_of
from beam_exactly_once.state.ordering import Flags, flags, order_of

TOMBSTONE = 0
"""The version of a row that says that its key is gone. Values have versions from 1 to 255."""
NEVER = 2**63 - 1
"""The ``expiry_ms`` of a row that does not expire."""
END_OF_HASHES = 1 << 64
"""Behind the last hash."""
ABSENT = -1
FIRST_EXPIRING = 8
"""So many rows are looked at first for the next one that expires."""

Versions: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
Places: TypeAlias = "np.ndarray[Any, np.dtype[np.uint32]]"


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Rows by hash, then by the bytes of key and subkey; no two rows have all three. Columns are shared, never changed."""

    hashes: Hashes
    keys: pa.LargeBinaryArray
    subkeys: pa.LargeBinaryArray
    values: pa.Array
    expiry_ms: Numbers
    versions: Versions
    by_expiry: Places | None
    """The rows by ``expiry_ms``; None if none expires."""

    @classmethod
    def of(
        cls,
        hashes: Hashes,
        keys: pa.LargeBinaryArray,
        values: pa.Array,
        versions: Versions,
        *,
        subkeys: pa.LargeBinaryArray | None = None,
        expiry_ms: Numbers | None = None,
    ) -> Run:
        """Rows in any order.

        Args:
            hashes: of the keys.
            keys: encoded.
            values: of any type; what a tombstone has there does not matter.
            versions: of the types that wrote the values; 0 makes a row a tombstone.
            subkeys: what tells rows of one key apart, if a key has many.
            expiry_ms: when each row expires, if any does.

        Raises:
            ValueError: two rows have the same hash, key and subkey.
        """
        subkeys = empty_values(len(keys)) if subkeys is None else subkeys
        order, repeats = order_of(hashes, keys, subkeys)
        if repeats.any():
            raise ValueError(f"{int(repeats.sum())} rows have the key and subkey of another row")
        expiry_ms = np.full(len(keys), NEVER, np.int64) if expiry_ms is None else expiry_ms
        at = pa.array(order)
        columns = (keys.take(at), subkeys.take(at), values.take(at))
        return cls.of_sorted(hashes[order], *columns, expiry_ms[order], versions[order])

    @classmethod
    def of_sorted(
        cls,
        hashes: Hashes,
        keys: pa.LargeBinaryArray,
        subkeys: pa.LargeBinaryArray,
        values: pa.Array,
        expiry_ms: Numbers,
        versions: Versions,
    ) -> Run:
        """Rows that are in order."""
        by_expiry = None
        if len(hashes) and expiry_ms.min() < NEVER:
            by_expiry = np.argsort(expiry_ms, kind="stable").astype(np.uint32)
        return cls(hashes, keys, subkeys, values, expiry_ms, versions, by_expiry)

    @classmethod
    def empty(cls, value_type: pa.DataType) -> Run:
        """Without rows."""
        none = empty_values(0)
        values = pa.array([], value_type)
        return cls.of_sorted(np.zeros(0, np.uint64), none, none, values, np.zeros(0, np.int64), np.zeros(0, np.uint8))

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def tombstones(self) -> int:
        """How many rows are tombstones."""
        return int(np.count_nonzero(self.versions == TOMBSTONE))

    @property
    def size_bytes(self) -> int:
        """Memory of its columns."""
        columns = (getattr(self, field.name) for field in fields(self))
        return sum(column.nbytes for column in columns if column is not None)

    def find(self, hashes: Hashes, keys: pa.LargeBinaryArray, among: Numbers | None = None) -> Numbers:
        """The row of each key, -1 where there is none; the first row, if a key has many.

        Args:
            hashes: what to find; quickest when sorted.
            keys: their keys.
            among: which of ``keys`` the hashes are of; None for all, in the same order.
        """
        rows = np.full(len(hashes), ABSENT, np.int64)
        if not len(self):
            return rows
        starts = np.minimum(np.searchsorted(self.hashes, hashes), len(self) - 1)
        hits = np.flatnonzero(self.hashes[starts] == hashes)
        if not len(hits):
            return rows
        found, wanted = starts[hits], keys.take(pa.array(hits if among is None else among[hits]))
        same = self._have_keys(found, wanted)
        if not same.all():
            others = np.flatnonzero(~same)
            stops = np.searchsorted(self.hashes, hashes[hits[others]], "right")
            found[others] = self._first_of(wanted.take(pa.array(others)), _between(found[others], stops))
        rows[hits] = found
        return rows

    def range_of(self, hashes: Hashes, keys: pa.LargeBinaryArray) -> tuple[Numbers, Numbers]:
        """The rows of each key: from where, and up to where."""
        starts = np.searchsorted(self.hashes, hashes, "left")
        stops = np.searchsorted(self.hashes, hashes, "right")
        hits = np.flatnonzero(starts < stops)
        if len(hits):
            wanted = keys.take(pa.array(hits))
            # Nearly always all rows of a hash are of one key.
            one_key = self._have_keys(starts[hits], wanted) & self._have_keys(stops[hits] - 1, wanted)
            mixed = hits[~one_key]
            if len(mixed):
                rows = _between(starts[mixed], stops[mixed])
                wanted = keys.take(pa.array(mixed))
                first, last = self._first_of(wanted, rows), self._first_of(wanted, rows[::-1])
                starts[mixed], stops[mixed] = first, np.where(first == ABSENT, ABSENT, last + 1)
        return starts, stops

    def first_not_below(self, starts: Numbers, stops: Numbers, subkeys: pa.LargeBinaryArray) -> Numbers:
        """Of each range of rows of one key, the first whose subkey is not below this one: a binary search in all at once."""
        low: Numbers = starts.copy()
        high: Numbers = stops.copy()
        while len(open_ := np.flatnonzero(low < high)):
            middle = (low[open_] + high[open_]) // 2
            is_below = flags(pc.less(self.subkeys.take(pa.array(middle)), subkeys.take(pa.array(open_))))
            low[open_[is_below]] = middle[is_below] + 1
            high[open_[~is_below]] = middle[~is_below]
        return low

    def holds(self, hashes: Hashes, keys: pa.LargeBinaryArray, subkeys: pa.LargeBinaryArray) -> Flags:
        """Whether there is a row with each key and subkey."""
        if not (offsets_of(self.subkeys)[-1] or offsets_of(subkeys)[-1]):
            there: Flags = self.find(hashes, keys) != ABSENT
            return there
        starts, stops = self.range_of(hashes, keys)
        rows = self.first_not_below(starts, stops, subkeys)
        is_there: Flags = rows < stops
        at = np.flatnonzero(is_there)
        found, wanted = self.subkeys.take(pa.array(rows[at])), subkeys.take(pa.array(at))
        is_there[at] = flags(pc.equal(found, wanted))
        return is_there

    def slice(self, first_hash: int, end_hash: int) -> Run:
        """The rows from ``first_hash`` on and before ``end_hash``, without a copy of them."""
        start, stop = (
            len(self) if limit >= END_OF_HASHES else int(np.searchsorted(self.hashes, np.uint64(limit)))
            for limit in (first_hash, max(first_hash, end_hash))
        )
        if start == 0 and stop == len(self):
            return self
        by_expiry = self.by_expiry
        if by_expiry is not None:
            by_expiry = by_expiry[(by_expiry >= start) & (by_expiry < stop)] - np.uint32(start)
        count = stop - start
        return Run(
            self.hashes[start:stop],
            self.keys.slice(start, count),
            self.subkeys.slice(start, count),
            self.values.slice(start, count),
            self.expiry_ms[start:stop],
            self.versions[start:stop],
            by_expiry,
        )

    def due(self, lower_ms: int, upper_ms: int) -> Numbers:
        """Rows that expire after ``lower_ms`` and no later than ``upper_ms``, the earliest first; not tombstones."""
        if self.by_expiry is None:
            return np.zeros(0, np.int64)
        start, stop = self._expiring(lower_ms, min(upper_ms, NEVER - 1))
        rows = self.by_expiry[start:stop].astype(np.int64)
        live: Numbers = rows[self.versions[rows] != TOMBSTONE]
        return live

    def expiring(self, after_ms: int) -> Iterator[Numbers]:
        """Rows that expire after ``after_ms``, the earliest first, a few and then more at once; tombstones among them."""
        if self.by_expiry is None:
            return
        start, stop = self._expiring(after_ms, NEVER - 1)
        count = FIRST_EXPIRING
        while start < stop:
            yield self.by_expiry[start : min(stop, start + count)].astype(np.int64)
            start, count = start + count, 4 * count

    def rows_at(self, rows: Numbers) -> Run:
        """Some of the rows; given in order."""
        at = pa.array(rows)
        columns = (self.keys.take(at), self.subkeys.take(at), self.values.take(at))
        return Run.of_sorted(self.hashes[rows], *columns, self.expiry_ms[rows], self.versions[rows])

    def _expiring(self, lower_ms: int, upper_ms: int) -> tuple[int, int]:
        """Where rows that expire after ``lower_ms`` and no later than ``upper_ms`` stand in ``by_expiry``."""
        assert self.by_expiry is not None
        by_expiry = self.by_expiry

        def expiry_ms(row: Any) -> Any:
            return self.expiry_ms[row]

        start = bisect.bisect_right(by_expiry, lower_ms, key=expiry_ms)
        if start == len(by_expiry) or expiry_ms(by_expiry[start]) > upper_ms:  # of most sections nothing expires now
            return start, start
        return start, bisect.bisect_right(by_expiry, upper_ms, lo=start, key=expiry_ms)

    def _have_keys(self, rows: Numbers, keys: pa.LargeBinaryArray) -> Flags:
        return flags(pc.equal(self.keys.take(pa.array(rows)), keys))

    def _first_of(self, keys: pa.LargeBinaryArray, rows: Numbers) -> Numbers:
        """The first of ``rows`` that has each key; -1 where none has. For keys of one hash: a look-up among all of them."""
        places = pc.fill_null(pc.index_in(keys, value_set=self.keys.take(pa.array(rows))), ABSENT)
        found: Numbers = np.append(rows, ABSENT)[places.to_numpy()]
        return found


class Found(NamedTuple):
    """Where keys were found: which run, and which row of it. Both are -1 for a key that is absent, deleted or expired."""

    runs: Numbers
    rows: Numbers


def look_up(
    runs_newest_first: Sequence[Run],
    hashes: Hashes,
    keys: pa.LargeBinaryArray,
    *,
    fired_ms: int | None = None,
) -> Found:
    """The newest row of each key, in any of the runs.

    Args:
        runs_newest_first: what to look into.
        hashes: of the keys.
        keys: what to find.
        fired_ms: rows that expire no later are absent; None for rows that are there until they are deleted.
    """
    found = Found(*(np.full(len(hashes), ABSENT, np.int64) for _ in range(2)))
    open_ = np.argsort(hashes)
    wanted = hashes[open_]
    for number, run in enumerate(runs_newest_first):
        if not len(open_):
            break
        rows = run.find(wanted, keys, open_)
        is_there = rows != ABSENT
        if not is_there.any():
            continue
        at, rows = open_[is_there], rows[is_there]
        is_live = run.versions[rows] != TOMBSTONE
        if fired_ms is not None:
            is_live &= run.expiry_ms[rows] > fired_ms
        found.runs[at[is_live]], found.rows[at[is_live]] = number, rows[is_live]
        open_, wanted = open_[~is_there], wanted[~is_there]
    return found


def _between(starts: Numbers, stops: Numbers) -> Numbers:
    """All rows from each start to its stop, in order; a range that is there twice counts once."""
    starts, chosen = np.unique(starts, return_index=True)
    lengths = stops[chosen] - starts
    rows: Numbers = np.arange(lengths.sum()) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    return rows


def empty_values(count: int) -> pa.LargeBinaryArray:
    """So many values of no bytes."""
    offsets = pa.py_buffer(np.zeros(count + 1, np.int64))
    return pa.Array.from_buffers(pa.large_binary(), count, [None, offsets, pa.py_buffer(b"")])
