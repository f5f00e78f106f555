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
from functools import partial, reduce
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.rows.event_times import By
from beam_exactly_once.state.hashing import Numbers
from beam_exactly_once.state.keyed_chunk import KeyedChunk
from beam_exactly_once.state.ordering import Flags
from beam_exactly_once.state.run import NEVER
from beam_exactly_once.state.types import AccumulatorState, StateType
from beam_exactly_once.state.windows.operator import ByEventTime, open_windows
from beam_exactly_once.state.windows.windows import Falls, Windows

_EXACT = (int, bool, str, bytes, type(None), datetime.date, datetime.datetime)

Objects: TypeAlias = "np.ndarray[Any, np.dtype[np.object_]]"
"""Values of any type, taken and put many at once."""


def objects(values: Collection[Any]) -> Objects:
    """Values as an array, which has each as it is: numpy would look into lists."""
    return np.fromiter(values, np.object_, len(values))


class Slides(NamedTuple):
    """Slides that end, or leave, at one time: one of a key at most."""

    places: Numbers
    """Which keys have them."""
    values: Objects

    def only(self, rows: Flags | Numbers) -> Slides:
        """Some of them."""
        return Slides(self.places[rows], self.values[rows])


BySlide: TypeAlias = dict[int, Slides]
"""Slides by when that is."""


@dataclass(slots=True, eq=False)
class Heads:
    """What is kept of keys beside their slides. Keys are places: many are added to, and taken away from, at once."""

    newest_ms: Numbers
    """Where the newest slide ends that a closed window has."""
    totals: Objects
    """Of the slides that the next window shares with the last one."""
    is_there: Flags
    """Whether a key has such slides."""
    is_known: Flags
    """Whether it has its total; others are to be folded of their slides."""

    @classmethod
    def of(cls, count: int, places: Numbers, stored: Sequence[tuple[Any, ...]], *, with_totals: bool) -> Heads:
        """From what is stored of some of ``count`` keys; without an inverse, totals are of no use."""
        nothing = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        heads = cls(np.full(count, -NEVER), np.empty(count, np.object_), *nothing)
        heads.is_there[places] = True
        if {*map(len, stored)} == {2}:
            heads.newest_ms[places], totals = zip(*stored, strict=True)
            if with_totals:
                heads.put(places, totals, True)
            return heads
        heads.newest_ms[places] = [one[0] for one in stored]
        if with_totals:
            has_total = np.fromiter(map(len, stored), np.int64, len(stored)) == 2
            heads.put(places[has_total], [one[1] for one in stored if len(one) == 2], True)
        return heads

    def put(self, places: Numbers, totals: Collection[Any], is_known: Flags | bool) -> None:
        """Other totals of some keys."""
        self.totals[places] = objects(totals)
        self.is_known[places] = is_known

    def forget(self, places: Numbers) -> None:
        """Some keys have no slides any more."""
        self.totals[places] = None
        self.is_there[places] = self.is_known[places] = False

    def stored(self, places: Numbers) -> list[tuple[Any, ...]]:
        """As plain values."""
        every = zip(self.newest_ms[places].tolist(), self.totals[places].tolist(), strict=True)
        is_known = self.is_known[places]
        if is_known.all():
            return list(every)
        return [one if known else one[:1] for one, known in zip(every, is_known.tolist(), strict=True)]


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

    def lifted(self, chunk: KeyedChunk) -> KeyedChunk:
        """One value of each slide; one that is alone stays as it is."""
        return chunk if chunk.has_one_each else chunk.lifted(partial(reduce, self.fn))

    def falls(self, times_ms: Numbers, closed_ms: int | None, latest_ms: int) -> tuple[Falls, Numbers]:
        """The slides of rows; late is a row that no open window has."""
        period_ms = self.windows.period_ms
        slides = Windows(period_ms, period_ms, self.windows.offset_ms)
        return open_windows(slides, times_ms, None if closed_ms is None else closed_ms - self.stays_ms, latest_ms)

    def end_behind(self, at_ms: int) -> int:
        """Where the first window ends that ends behind this time."""
        period_ms = self.windows.period_ms
        return at_ms - (at_ms - self.windows.offset_ms) % period_ms + period_ms

    def with_more(self, heads: Heads, slides: Slides) -> None:
        """Add a slide to the totals of its keys."""
        places = slides.places
        if self.inverse_fn is not None:
            is_known, is_new = heads.is_known[places], ~heads.is_there[places]
            self._combine(self.fn, heads, slides.only(is_known))
            self.keep(heads, places[is_new], slides.values[is_new])
        heads.is_there[places] = True

    def with_less(self, heads: Heads, slides: Slides) -> None:
        """Take a slide away from the totals of its keys."""
        if self.inverse_fn is not None:
            self._combine(self.inverse_fn, heads, slides.only(heads.is_known[slides.places]))

    def keep(self, heads: Heads, places: Numbers, totals: Collection[Any]) -> None:
        """Keep totals as far as that is of use: an inverse must give each back exactly."""
        if self.inverse_fn is None:
            return
        if {*map(type, totals)} <= {int}:
            heads.put(places, totals, True)
        else:
            heads.put(places, totals, np.fromiter(map(is_exact, totals), np.bool_, len(totals)))

    def _combine(self, fn: Callable[[Any, Any], Any], heads: Heads, slides: Slides) -> None:
        totals = heads.totals[slides.places].tolist()
        self.keep(heads, slides.places, list(map(fn, totals, slides.values.tolist())))


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
        heads: of all keys. They are changed.
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
        rings: Callable[[Numbers], Mapping[int, Ring]],
    ) -> None:
        self.heads = heads
        self._each = each
        self._added = added
        self._leaving = leaving
        self._load = rings
        self._rings: dict[int, Ring] = {}

    def windows(self, first_end_ms: int, upper_ms: int) -> Iterator[tuple[int, Numbers, list[Any]]]:
        """Close all windows that end from ``first_end_ms`` on, and no later than ``upper_ms``.

        Yields:
            where they end, the keys that have values in them, and the result of each.
        """
        waiting = iter(sorted(self._added))
        end_ms: int | None = first_end_ms
        while True:
            if not self.heads.is_there.any():  # windows are empty up to the next slide
                end_ms = next((one for one in waiting if one in self._added), None)
            if end_ms is None or end_ms > upper_ms:
                return
            self._add(end_ms)
            places = np.flatnonzero(self.heads.is_there)
            yield end_ms, places, self._results(places, end_ms)
            self._leave(end_ms)
            end_ms += self._each.windows.period_ms

    def _add(self, end_ms: int) -> None:
        added = self._added.pop(end_ms, None)
        if added is not None:
            self._each.with_more(self.heads, added)
            self.heads.newest_ms[added.places] = end_ms

    def _results(self, places: Numbers, end_ms: int) -> list[Any]:
        results, is_unknown = self.heads.totals[places], ~self.heads.is_known[places]
        if is_unknown.any():
            folded = self._folded(places[is_unknown], end_ms)
            results[is_unknown] = objects(folded)
            self._each.keep(self.heads, places[is_unknown], folded)
        found: list[Any] = results.tolist()
        return found

    def _folded(self, places: Numbers, end_ms: int) -> list[Any]:
        missing = [place for place in places.tolist() if place not in self._rings]
        if missing:
            self._rings.update(self._load(np.array(missing)))
        fn, size_ms = self._each.fn, self._each.windows.size_ms
        folded = []
        for place in places.tolist():
            ends_ms, values = self._rings[place]
            folded.append(reduce(fn, values[bisect_right(ends_ms, end_ms - size_ms) : bisect_right(ends_ms, end_ms)]))
        return folded

    def _leave(self, end_ms: int) -> None:
        leaving = self._leaving.pop(end_ms, None)
        if leaving is not None:
            is_last = self.heads.newest_ms[leaving.places] <= end_ms - self._each.stays_ms
            self.heads.forget(leaving.places[is_last])
            self._each.with_less(self.heads, leaving.only(~is_last))
