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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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

_EXACT = (int, bool, str, bytes, type(None), datetime.date, datetime.datetime)


class Head(NamedTuple):
    """What is kept of a key beside its slides."""

    newest_ms: int
    """Where its newest slide ends that a closed window has."""
    total: Any
    """Of its slides that the next window shares with the last one; :data:`UNKNOWN` if it is to be folded of them."""


def stored_head(head: Head) -> tuple[Any, ...]:
    """As a plain value."""
    return (head.newest_ms,) if head.total is UNKNOWN else (head.newest_ms, head.total)


Key: TypeAlias = bytes
"""Of a user, encoded."""
BySlide: TypeAlias = dict[int, dict[Key, Any]]
"""Values by where their slide ends, or leaves, and by key."""


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

    def head_of(self, stored: tuple[Any, ...]) -> Head:
        """The inverse of :func:`stored_head`. A total without an inverse is of no use."""
        return Head(stored[0], UNKNOWN if self.inverse_fn is None or len(stored) == 1 else stored[1])

    def added(self, total: Any, value: Any) -> Any:
        """A total with one value more."""
        return UNKNOWN if total is UNKNOWN else self.kept(self.fn(total, value))

    def kept(self, total: Any) -> Any:
        """A total, if it may be: an inverse must give it back exactly."""
        return total if self.inverse_fn is not None and is_exact(total) else UNKNOWN


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
        heads: dict[Key, Head],
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
            if not self.heads:  # windows are empty up to the next slide
                end_ms = next((one for one in waiting if one in self._added), None)
            if end_ms is None or end_ms > upper_ms:
                return
            self._add(end_ms)
            yield end_ms, list(self.heads), self._results(end_ms)
            self._leave(end_ms)
            end_ms += self._each.windows.period_ms

    def _add(self, end_ms: int) -> None:
        each, heads = self._each, self.heads
        for key, value in self._added.pop(end_ms, {}).items():
            head = heads.get(key)
            heads[key] = Head(end_ms, each.kept(value) if head is None else each.added(head.total, value))

    def _results(self, end_ms: int) -> list[Any]:
        each, heads = self._each, self.heads
        unknown = [key for key, head in heads.items() if head.total is UNKNOWN]
        if not unknown:
            return [head.total for head in heads.values()]
        folded = self._folded(unknown, end_ms)
        results = [folded[key] if head.total is UNKNOWN else head.total for key, head in heads.items()]
        for key, result in folded.items():
            heads[key] = Head(heads[key].newest_ms, each.kept(result))
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
        each, heads = self._each, self.heads
        left_ms = end_ms - each.stays_ms
        for key, value in self._leaving.pop(end_ms, {}).items():
            head = heads[key]
            if head.newest_ms <= left_ms:
                del heads[key]
            elif head.total is not UNKNOWN:
                assert each.inverse_fn is not None
                heads[key] = Head(head.newest_ms, each.kept(each.inverse_fn(head.total, value)))
