"""``RangeGroup``: what a reader is given, with all that decides which records it must see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import orjson

from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.transforms.reading.span_tracker import Span

MAX_SMALL_OFFSETS = 10_000
"""A range of more offsets is read by itself: it pays for its own assignment."""
MAX_GROUP_OFFSETS = 100_000
GROUPS_FOR_MANY_WORKERS = 16
"""Groups that small ranges are dealt into, where it is not known how many workers take them, or where each has much to read."""


@dataclass(frozen=True, slots=True)
class PlannedRange:
    """Offsets to read, of which topic, at which isolation level.

    Args:
        offsets: the range.
        topic_id: the log's id of the topic; None reads whatever has its name.
        isolation_level: None leaves it to the reader's settings.
        latest_ms: the latest time of a record that counts as its event time; None where none is noted.
    """

    offsets: OffsetRange
    topic_id: str | None = None
    isolation_level: str | None = None
    latest_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RangeGroup:
    """Ranges that are read one after the other: a line of positions.

    The positions of the first range are its offsets, and each range begins where the one before it ends. So the line of one
    range is that range.
    """

    ranges: tuple[PlannedRange, ...]

    @property
    def line(self) -> Span:
        """All positions."""
        start = self.ranges[0].offsets.start
        return Span(start, start + sum(one.offsets.size for one in self.ranges))

    @property
    def is_small(self) -> bool:
        """Whether all ranges are small."""
        return max(one.offsets.size for one in self.ranges) <= MAX_SMALL_OFFSETS

    def placed(self) -> Iterator[tuple[int, PlannedRange]]:
        """Each range, and where it begins in the line."""
        position = self.ranges[0].offsets.start
        for one in self.ranges:
            yield position, one
            position += one.offsets.size

    def within(self, span: Span) -> list[OffsetRange]:
        """The offsets of a span of the line."""
        found = []
        for begin, one in self.placed():
            offset = one.offsets.start - begin  # adds to a position
            start, stop = max(begin, span.start), min(begin + one.offsets.size, span.stop)
            if start < stop:
                found.append(OffsetRange(one.offsets.topic, one.offsets.partition, start + offset, stop + offset))
        return found


def grouped(ranges: Iterable[PlannedRange], *, workers: int | None) -> Iterator[RangeGroup]:
    """Ranges of one isolation level for readers: small ones together, as many groups as keep several workers busy.

    Args:
        ranges: to read.
        workers: how many may take groups; None where that is not known.
    """
    small = []
    for one in ranges:
        if one.offsets.size > MAX_SMALL_OFFSETS:
            yield RangeGroup((one,))
        elif one.offsets.size:
            small.append(one)
    # Each group costs an assignment. To deal few records out evenly saves less than that.
    are_few = sum(one.offsets.size for one in small) <= MAX_SMALL_OFFSETS
    groups = workers if workers == 1 or (workers and are_few) else GROUPS_FOR_MANY_WORKERS
    max_ranges = -(-len(small) // groups)
    group: list[PlannedRange] = []
    offsets = 0
    for one in small:
        if group and (len(group) == max_ranges or offsets + one.offsets.size > MAX_GROUP_OFFSETS):
            yield RangeGroup(tuple(group))
            group, offsets = [], 0
        group.append(one)
        offsets += one.offsets.size
    if group:
        yield RangeGroup(tuple(group))


class RangeGroupCoder(beam.coders.Coder):
    """Wire shape: the JSON list ``[3, [topic, partition, start, stop, topic id, isolation level, latest time], …]``, a list for
    each range; the 3 is its version."""

    VERSION = 3

    def encode(self, value: RangeGroup) -> bytes:
        """The ranges as JSON."""
        return orjson.dumps([self.VERSION, *map(_fields_of, value.ranges)])

    def decode(self, encoded: bytes) -> RangeGroup:
        """The inverse of :meth:`encode`."""
        version, *ranges = orjson.loads(encoded)
        if version != self.VERSION:
            raise ValueError(
                f"cannot decode planned ranges of version {version}: workers and driver must run one version"
            )
        return RangeGroup(tuple(PlannedRange(OffsetRange(*fields[:4]), *fields[4:]) for fields in ranges))

    def is_deterministic(self) -> bool:
        """The same ranges have the same bytes."""
        return True

    def to_type_hint(self) -> type[RangeGroup]:
        """Groups of ranges are what this encodes."""
        return RangeGroup


def _fields_of(one: PlannedRange) -> list[object]:
    offsets = one.offsets
    where = [offsets.topic, offsets.partition, offsets.start, offsets.stop]
    return [*where, one.topic_id, one.isolation_level, one.latest_ms]


beam.coders.registry.register_coder(RangeGroup, RangeGroupCoder)
