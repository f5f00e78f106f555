"""``SlideEach``: what ``ReduceByKeyAndWindow`` keeps of each slide of a key, and how windows go over slides.

A slide is a span of one period; a window is as many of them as its size has. What is kept of a key:

- of each slide with rows, their value, until the last window that has it is closed;
- one *head*: which of its slides is the newest that a closed window has, and the *total* of those that the next window has, too.
  It expires where the next window ends. So there is one for as long as the next window has anything.

With an inverse, the next total is the last result without the slide that leaves: two calls, however many slides a window has.
Totals that are not exact are not kept: the inverse of a sum of floats is not, and behind an infinity it is NaN for ever. Such
results are folded anew of the slides, as all are without an inverse.

Pure, but for functions of users. The idea is that of Spark's ``reduceByKeyAndWindow``.
"""

from __future__ import annotations

import datetime
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple, TypeAlias

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.rows.event_times import By
from beam_exactly_once.state.hashing import Numbers
from beam_exactly_once.state.types import AccumulatorState, StateType
from beam_exactly_once.state.windows.operator import ByEventTime, open_windows
from beam_exactly_once.state.windows.windows import Falls, Windows

UNKNOWN = object()
"""A total that is not kept."""
NOTHING = object()
"""A total that is not there."""

_EXACT = (int, bool, str, bytes, type(None), datetime.date, datetime.datetime)


Key: TypeAlias = bytes
"""Of a user, encoded."""
BySlide: TypeAlias = dict[int, dict[Key, Any]]
"""Values by where their slide ends, or leaves, and by key."""


@dataclass(slots=True)
class Heads:
    """What is kept of keys beside their slides. Many keys: so two dicts, which have the same keys."""

    newest_ms: dict[Key, int] = field(default_factory=dict)
    """Where the newest slide ends that a closed window has."""
    totals: dict[Key, Any] = field(default_factory=dict)
    """Of the slides that the next window shares with the last one; :data:`UNKNOWN` where it is to be folded of them."""

    @classmethod
    def of(cls, users: Sequence[Key], stored: Sequence[tuple[Any, ...]], *, with_totals: bool) -> Heads:
        """From what is stored; without an inverse, totals are of no use."""
        totals = [one[1] if with_totals and len(one) == 2 else UNKNOWN for one in stored]
        newest_ms = [one[0] for one in stored]
        return cls(dict(zip(users, newest_ms, strict=True)), dict(zip(users, totals, strict=True)))

    def stored(self, users: Iterable[Key]) -> list[tuple[Any, ...]]:
        """As plain values."""
        newest_ms, totals = self.newest_ms, self.totals
        return [(newest_ms[user],) if totals[user] is UNKNOWN else (newest_ms[user], totals[user]) for user in users]


@dataclass(frozen=True)
class SlideEach(ByEventTime):
    """``ReduceByKeyAndWindow``: values reduced by slide, and slides by window."""

    fn: Callable[[Any, Any], Any]
    inverse_fn: Callable[[Any, Any], Any] | None
    windows: Windows
    by: By
    kind: str = field(default="reduce_by_key_and_window", init=False)
    adds_up: bool = field(default=False, init=False)
    """A window of a key is emitted once."""

    @property
    def state_type(self) -> StateType:
        """Of values, which the function makes."""
        return AccumulatorState("ReduceByKeyAndWindow")

    @property
    def definition(self) -> Json:
        """Its windows, as a checkpoint holds them."""
        return self.windows.to_json()

    @property
    def stays_ms(self) -> int:
        """How long a slide is in windows behind its end."""
        return self.windows.size_ms - self.windows.period_ms

    def lifted(self, values: list[Any]) -> list[Any]:
        """One value."""
        return [reduce(self.fn, values)]

    def falls(self, times_ms: Numbers, closed_ms: int | None, latest_ms: int) -> tuple[Falls, Numbers]:
        """The slides of rows; late is a row that no open window has."""
        period_ms = self.windows.period_ms
        slides = Windows(period_ms, period_ms, self.windows.offset_ms)
        return open_windows(slides, times_ms, None if closed_ms is None else closed_ms - self.stays_ms, latest_ms)

    def end_behind(self, at_ms: int) -> int:
        """Where the first window ends that ends behind this time."""
        period_ms = self.windows.period_ms
        return at_ms - (at_ms - self.windows.offset_ms) % period_ms + period_ms

    def with_more(self, heads: Heads, values: Mapping[Key, Any]) -> None:
        """Add a value to the totals of keys."""
        fn, before = self.fn, heads.totals
        if self.inverse_fn is None:
            before.update(dict.fromkeys(values, UNKNOWN))
            return
        totals = {}
        for key, value in values.items():
            total = before.get(key, NOTHING)
            totals[key] = value if total is NOTHING else UNKNOWN if total is UNKNOWN else fn(total, value)
        before.update(self.kept(totals))

    def with_less(self, heads: Heads, values: Mapping[Key, Any]) -> None:
        """Take a value away from the totals of keys."""
        inverse_fn, before = self.inverse_fn, heads.totals
        if inverse_fn is not None:
            known = [(key, value) for key, value in values.items() if before[key] is not UNKNOWN]
            before.update(self.kept({key: inverse_fn(before[key], value) for key, value in known}))

    def kept(self, totals: dict[Key, Any]) -> dict[Key, Any]:
        """Totals as far as they may be kept: an inverse must give each back exactly."""
        if self.inverse_fn is not None and {*map(type, totals.values())} <= {int}:
            return totals
        is_kept = is_exact if self.inverse_fn is not None else _never
        return {key: total if is_kept(total) else UNKNOWN for key, total in totals.items()}


def _never(value: Any) -> bool:
    return False


def is_exact(value: Any) -> bool:
    """Whether arithmetic with such a value rounds nothing: it is no float and no Decimal, and holds none."""
    kind = type(value)
    if kind in _EXACT:
        return True
    if kind is dict:
        return all(is_exact(one) for item in value.items() for one in item)
    return kind in (tuple, list, set, frozenset) and all(map(is_exact, value))


class Ring(NamedTuple):
    """The slides of one key, in order."""

    ends_ms: list[int]
    values: list[Any]


class Closing:
    """The windows of many keys, one end after the other.

    Args:
        each: the operator.
        heads: of all keys that have one. They are changed.
        added: slides, by where they end. They are used up.
        leaving: slides, by where the last window ends that has them. They are used up.
        rings: gives all slides of some keys.
    """

    def __init__(
        self,
        each: SlideEach,
        heads: Heads,
        added: BySlide,
        leaving: BySlide,
        rings: Callable[[Collection[Key]], Mapping[Key, Ring]],
    ) -> None:
        self.heads = heads
        self._each = each
        self._added = added
        self._leaving = leaving
        self._load = rings
        self._rings: dict[Key, Ring] = {}

    def windows(self, first_end_ms: int, upper_ms: int) -> Iterator[tuple[int, list[Key], list[Any]]]:
        """Close all windows that end from ``first_end_ms`` on, and no later than ``upper_ms``.

        Yields:
            where they end, the keys that have values in them, and the result of each.
        """
        waiting = iter(sorted(self._added))
        end_ms: int | None = first_end_ms
        while True:
            if not self.heads.totals:  # windows are empty up to the next slide
                end_ms = next((one for one in waiting if one in self._added), None)
            if end_ms is None or end_ms > upper_ms:
                return
            self._add(end_ms)
            yield end_ms, list(self.heads.totals), self._results(end_ms)
            self._leave(end_ms)
            end_ms += self._each.windows.period_ms

    def _add(self, end_ms: int) -> None:
        added = self._added.pop(end_ms, {})
        self._each.with_more(self.heads, added)
        self.heads.newest_ms.update(dict.fromkeys(added, end_ms))

    def _results(self, end_ms: int) -> list[Any]:
        totals = self.heads.totals
        results = list(totals.values())
        unknown = [key for key, total in totals.items() if total is UNKNOWN]
        if unknown:
            folded = self._folded(unknown, end_ms)
            results = [folded[key] if total is UNKNOWN else total for key, total in totals.items()]
            totals.update(self._each.kept(folded))
        return results

    def _folded(self, keys: Sequence[Key], end_ms: int) -> dict[Key, Any]:
        missing = [key for key in keys if key not in self._rings]
        if missing:
            self._rings.update(self._load(missing))
        fn, size_ms = self._each.fn, self._each.windows.size_ms
        folded = {}
        for key in keys:
            ends_ms, values = self._rings[key]
            folded[key] = reduce(fn, values[bisect_right(ends_ms, end_ms - size_ms) : bisect_right(ends_ms, end_ms)])
        return folded

    def _leave(self, end_ms: int) -> None:
        leaving, left_ms = self._leaving.pop(end_ms, {}), end_ms - self._each.stays_ms
        newest_ms, totals = self.heads.newest_ms, self.heads.totals
        for key in [key for key in leaving if newest_ms[key] <= left_ms]:
            del newest_ms[key], totals[key], leaving[key]
        self._each.with_less(self.heads, leaving)
