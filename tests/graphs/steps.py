"""Functions and DoFns of graphs. Workers in other processes find them here by their names."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.transforms.core import RestrictionProvider

from beam_exactly_once.kafka import KafkaRecord


def number(record: KafkaRecord) -> int:
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
