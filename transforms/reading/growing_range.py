"""The restriction of a read that goes on: an offset range that may have no end, and its tracker."""

from __future__ import annotations

from collections.abc import Callable

import apache_beam as beam
import orjson
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker

from beam_exactly_once.offsets import OffsetRange, TopicPartition
from beam_exactly_once.transforms.reading.span_tracker import Span, SpanTracker, cut_evenly

NO_END = (1 << 63) - 1
"""Where a range stops that has no end: no log has so many offsets."""

_seen_ends: dict[TopicPartition, int] = {}


def saw_end(place: TopicPartition, latest: int) -> None:
    """Remember where a partition ended just now, for estimates of what is left in it."""
    _seen_ends[place] = latest


def seen_end(place: TopicPartition) -> int:
    """Where it ended when somebody in this process last looked; 0 if nobody did. Asks no broker: runners want this often."""
    return _seen_ends.get(place, 0)


class GrowingRangeTracker(RestrictionTracker):
    """Tracks claims of a range that may have no end; of one that has an end, as :class:`SpanTracker` does.

    A part of what is not claimed is a part of what the log holds: whoever gets the rest of it also gets all that comes.
    """

    def __init__(self, restriction: OffsetRange, log_end: Callable[[TopicPartition], int] = seen_end) -> None:
        self._place = restriction.topic_partition
        self._spans = SpanTracker(Span(restriction.start, restriction.stop))
        self._asked = restriction.start - 1
        self._log_end = log_end

    def current_restriction(self) -> OffsetRange:
        """What this reader still owns: shrinks when a split gives the tail away."""
        return self._range(self._spans.current_restriction())

    def try_claim(self, position: int) -> bool:
        """Claim every offset up to ``position``; False when a split gave it away."""
        is_claimed = self._spans.try_claim(position)
        self._asked = position
        return is_claimed

    def try_split(self, fraction_of_remainder: float) -> tuple[OffsetRange, OffsetRange] | None:
        """Give away the tail after a fraction of what the log holds and nobody asked for yet; 0 gives away all of it."""
        if self.is_bounded() or not fraction_of_remainder:
            parts = self._spans.try_split(fraction_of_remainder)
            return None if parts is None else (self._range(parts[0]), self._range(parts[1]))
        if not self._backlog:
            return None
        whole = self._spans.current_restriction()
        split_at = self._asked + 1 + int(self._backlog * fraction_of_remainder)
        self._spans = SpanTracker(Span(whole.start, split_at))
        if self._asked >= whole.start:
            self._spans.try_claim(self._asked)
        return self.current_restriction(), self._range(Span(split_at, whole.stop))

    def check_done(self) -> None:
        """Raise unless everything was claimed; of a range without an end the rest must have been given away."""
        if not self.is_bounded() and self._asked < NO_END - 1:
            raise ValueError(f"{self.current_restriction()} is not done: it has no end, and its rest was not put off")
        self._spans.check_done()

    def current_progress(self) -> RestrictionProgress:
        """Offsets claimed, and those that the log holds beyond them."""
        completed = self._asked + 1 - self._spans.current_restriction().start
        return RestrictionProgress(completed=completed, remaining=self._backlog)

    def is_bounded(self) -> bool:
        """Whether the range ends."""
        return self._spans.current_restriction().stop != NO_END

    @property
    def _backlog(self) -> int:
        stop = self._spans.current_restriction().stop
        return max(0, min(stop, self._log_end(self._place)) - (self._asked + 1))

    def _range(self, span: Span) -> OffsetRange:
        return OffsetRange(self._place.topic, self._place.partition, span.start, span.stop)


class GrowingRangeCoder(beam.coders.Coder):
    """Wire shape: the JSON list ``[1, topic, partition, start, stop]``; the 1 is its version."""

    VERSION = 1

    def encode(self, value: OffsetRange) -> bytes:
        """The range as JSON."""
        return orjson.dumps([self.VERSION, value.topic, value.partition, value.start, value.stop])

    def decode(self, encoded: bytes) -> OffsetRange:
        """The inverse of :meth:`encode`."""
        version, *fields = orjson.loads(encoded)
        if version != self.VERSION:
            raise ValueError(f"cannot decode a range of version {version}: workers and driver must run one version")
        return OffsetRange(*fields)

    def is_deterministic(self) -> bool:
        """The same range has the same bytes."""
        return True


def cut_to_size(whole: OffsetRange, max_size: int) -> list[OffsetRange]:
    """A range that has an end, in parts of at most ``max_size`` offsets."""
    spans = cut_evenly(Span(whole.start, whole.stop), max_size)
    return [OffsetRange(whole.topic, whole.partition, one.start, one.stop) for one in spans]


def backlog(restriction: OffsetRange) -> int:
    """How many offsets of it the log holds, at least 1: runners take 0 for nothing to do."""
    return max(1, min(restriction.stop, seen_end(restriction.topic_partition)) - restriction.start)
