"""Functions and DoFns of graphs. Workers in other processes find them here by their names."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import (
    BagStateSpec,
    ReadModifyWriteStateSpec,
    TimerSpec,
    on_timer,
)
from apache_beam.transforms.window import GlobalWindow, GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP

from beam_exactly_once import BatchRows, Record, Rejected


def number(record: Record) -> int:
    assert record.value is not None
    return int(record.value)


def row(value: int) -> dict[str, int]:
    return {"v": value}


class _Twice(RestrictionProvider):
    """Two positions an element."""

    def initial_restriction(self, element: Any) -> OffsetRange:
        return OffsetRange(0, 2)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return OffsetRestrictionTracker(restriction)

    def restriction_size(self, element: Any, restriction: OffsetRange) -> int:
        return int(restriction.size())


class Deferring(beam.DoFn):
    """Emits an element and the next number; gives up after each, to be called again for the rest."""

    def process(
        self,
        element: int,
        tracker: Any = beam.DoFn.RestrictionParam(_Twice()),  # noqa: B008
    ) -> Iterator[int]:
        position = tracker.current_restriction().start
        if tracker.try_claim(position):
            yield element + position
            if position == 0:
                tracker.defer_remainder()


def ungrouped(group: tuple[Any, Iterable[int]]) -> list[int]:
    return list(group[1])


class SlowToEncode(int):
    """A number whose coder takes longer than Beam's workers with threads wait until they send what they have."""


class SlowCoder(beam.coders.Coder):
    """Of :class:`SlowToEncode`; written in Python, so that a bundle's output stream is seen between key and value."""

    waits_s: float = 0.0
    """How long encoding one number takes. Set where the graph runs in this process."""

    def encode(self, value: int) -> bytes:
        threading.Event().wait(self.waits_s)
        return b"%d" % value

    def decode(self, encoded: bytes) -> SlowToEncode:
        return SlowToEncode(encoded)

    def is_deterministic(self) -> bool:
        return True


beam.coders.registry.register_coder(SlowToEncode, SlowCoder)


def slow_pair(value: int) -> tuple[int, SlowToEncode]:
    return value % 2, SlowToEncode(value)


def product_of_pair(pair: tuple[int, SlowToEncode]) -> int:
    return pair[0] * 100 + pair[1]


# -- of random graphs: numbers in, numbers out -----------------------------------------------------------------------

MODULUS = 10_007
"""Keeps numbers small through long graphs."""


def scaled(value: int, by: int) -> int:
    return (value * 3 + by) % MODULUS


def some_copies(value: int, shift: int) -> list[int]:
    return [value + one for one in range((value + shift) % 3)]


def is_kept(value: int, remainder: int) -> bool:
    return value % 2 == remainder % 2


def third(value: int, parts: int = 3) -> int:
    return value % parts


def keyed(value: int, keys: int) -> tuple[int, int]:
    return value % keys, value


def itself_as_key(value: int) -> tuple[int, int]:
    return value, value * 2


def same(value: int) -> int:
    return value


def mixed(*values: int) -> int:
    """One number of several, whose order matters."""
    mix = 0
    for value in values:
        mix = (mix * 31 + value) % MODULUS
    return mix


def folded(key: int, groups: Iterable[Iterable[int]]) -> int:
    """One number of a key and what was grouped under it, whatever the order within each group."""
    parts = [key]
    for group in map(list, groups):
        parts += [sum(group), len(group)]
    return mixed(*parts)


def looked_up(value: int, *seen: Any, hows: tuple[str, ...]) -> int:
    """One number of an element and its side inputs."""
    return mixed(value, *(summary(how, value, side) for how, side in zip(hows, seen, strict=True)))


VIEW_KEYS = 3


def summary(how: str, value: int, side: Any) -> int:
    if how in ("singleton", "default"):
        return int(side)
    if how == "dict":
        return folded(len(side), [side.values()])
    if how == "multimap":
        return folded(0, [side[value % VIEW_KEYS], side[VIEW_KEYS]])
    return folded(0, [side])


class Nothing(beam.DoFn):
    """Emits nothing."""

    def process(self, element: int) -> None:
        pass


class Tagging(beam.DoFn):
    """One output for each remainder; of some numbers one more, which nobody declared."""

    def process(self, value: int) -> Iterator[Any]:
        yield value if value % 3 == 0 else beam.pvalue.TaggedOutput(f"of{value % 3}", value)
        if value % 5 == 0:
            yield beam.pvalue.TaggedOutput("undeclared", value)


class Buffering(beam.DoFn):
    """Emits all at the end of a bundle."""

    def start_bundle(self) -> None:
        self._held: list[int] = []

    def process(self, value: int) -> None:
        self._held.append(value)

    def finish_bundle(self) -> Iterator[Any]:
        for value in self._held:
            yield GlobalWindows.windowed_value(value, MIN_TIMESTAMP)


class _Several(_Twice):
    """One to three positions an element, each a restriction of its own from the beginning."""

    def initial_restriction(self, element: int) -> OffsetRange:
        return OffsetRange(0, 1 + element % 3)

    def split(self, element: int, restriction: OffsetRange) -> Iterator[OffsetRange]:
        yield from restriction.split(desired_num_offsets_per_split=1)


class Splitting(beam.DoFn):
    """Emits a number and those behind it, in parts."""

    def process(
        self,
        element: int,
        tracker: Any = beam.DoFn.RestrictionParam(_Several()),  # noqa: B008
    ) -> Iterator[int]:
        position = tracker.current_restriction().start
        while tracker.try_claim(position):
            yield element + position
            position += 1


class Counting(beam.DoFn):
    """Numbers the elements of a key, by state."""

    COUNT = ReadModifyWriteStateSpec("count", beam.coders.VarIntCoder())

    def process(self, pair: tuple[int, int], count: Any = beam.DoFn.StateParam(COUNT)) -> Iterator[int]:  # noqa: B008
        count.write((count.read() or 0) + 1)
        yield mixed(pair[0], count.read())


def pair(value: int) -> tuple[int, int]:
    """All under one key."""
    return 0, value


class TotalAtTheEnd(beam.DoFn):
    """Holds the numbers of a key until a timer fires, which is when the batch has no more of them."""

    HELD = BagStateSpec("held", beam.coders.VarIntCoder())
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def process(
        self,
        one: tuple[int, int],
        held: Any = beam.DoFn.StateParam(HELD),  # noqa: B008
        end: Any = beam.DoFn.TimerParam(END),  # noqa: B008
    ) -> None:
        held.add(one[1])
        end.set(GlobalWindow().max_timestamp())

    @on_timer(END)
    def on_end(self, held: Any = beam.DoFn.StateParam(HELD)) -> Iterator[int]:  # noqa: B008
        yield sum(held.read())


class AtTheEnd(beam.DoFn):
    """Holds the numbers of a key until a timer fires, which is when the batch has no more of them."""

    HELD = BagStateSpec("held", beam.coders.VarIntCoder())
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def process(
        self,
        pair: tuple[int, int],
        held: Any = beam.DoFn.StateParam(HELD),  # noqa: B008
        end: Any = beam.DoFn.TimerParam(END),  # noqa: B008
    ) -> None:
        held.add(pair[1])
        end.set(GlobalWindow().max_timestamp())

    @on_timer(END)
    def on_end(self, held: Any = beam.DoFn.StateParam(HELD)) -> Iterator[int]:  # noqa: B008
        values = list(held.read())
        held.clear()
        yield folded(0, [values])


class Tripped(Exception):
    """The exception of a fault."""


def trip(armed: str) -> None:
    """Fail if a file says so, and take it away: once, in whatever process."""
    with contextlib.suppress(FileNotFoundError):
        Path(armed).unlink()
        raise Tripped("tripped, as was asked for")


class Tripping(beam.DoFn):
    """The same numbers, and a fault in the middle of a bundle or at its end."""

    def __init__(self, armed: str, *, at_end: bool) -> None:
        self._armed = armed
        self._at_end = at_end

    def process(self, value: int) -> Iterator[int]:
        if not self._at_end:
            trip(self._armed)
        yield value

    def finish_bundle(self) -> None:
        if self._at_end:
            trip(self._armed)


# -- of sources and sinks --------------------------------------------------------------------------------------------


def sent(value: int) -> bytes:
    """A number as a record; one below zero cannot be decoded."""
    return b"%d" % value if value >= 0 else b"x%d" % -value


def rejected_record(rejected: Rejected) -> int:
    """A number of a record that was not decoded."""
    assert rejected.value is not None
    return int(rejected.value[1:]) + 1000


def numbers_of_batch(batch: pa.RecordBatch) -> list[int]:
    return [int(value) for value in batch.column("value").to_pylist()]


def misfit_row(value: int) -> dict[str, Any]:
    """A row; a third of them is no number."""
    return {"v": value if value % 3 else f"x{value}"}


def is_misfit(value: int) -> bool:
    return value % 3 == 0


def rejected_row(rejected: Rejected) -> int:
    """A number of a row that did not fit."""
    assert rejected.row is not None
    return int(rejected.row.partition("'x")[2].partition("'")[0]) + 2000


def store_call(folder: str, armed: str, rows: BatchRows) -> None:
    """User code of a sink: each call leaves a file of its own. A fault comes before."""
    trip(armed)
    values = [row["v"] for row in rows]
    Path(folder).mkdir(exist_ok=True)
    Path(folder, f"{rows.batch_id}-{secrets.token_hex(8)}").write_text(json.dumps(values))
