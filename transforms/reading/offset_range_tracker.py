"""The restriction of a read: an offset range, its tracker, its coder."""

from __future__ import annotations

import itertools

import apache_beam as beam
import orjson
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker

from beam_exactly_once.offsets import OffsetRange


class OffsetRangeTracker(RestrictionTracker):
    """Tracks claims of a half-open range whose offsets may be missing.

    A claim of ``offset`` claims everything up to and including it, so a reader claims a whole chunk at once. The
    tracker remembers the offset that was last *asked for*: after a refused claim nothing can be split any more,
    and the reader owns exactly ``[start, current_restriction().stop)``.
    """

    def __init__(self, restriction: OffsetRange) -> None:
        self._range = restriction
        self._asked = restriction.start - 1
        self._checkpointed = False

    def current_restriction(self) -> OffsetRange:
        """What this reader still owns: shrinks when a split gives the tail away."""
        return self._range

    def try_claim(self, position: int) -> bool:
        """Claim every offset up to ``position``; False when a split gave it away.

        Raises:
            ValueError: ``position`` does not lie above the last one asked for.
        """
        if position <= self._asked:
            raise ValueError(f"claims must rise: asked for {position} after {self._asked} of {self._range}")
        self._asked = position
        return position < self._range.stop

    def try_split(self, fraction_of_remainder: float) -> tuple[OffsetRange, OffsetRange] | None:
        """Give away the tail after a fraction of what nobody asked for yet; 0 gives away all of it."""
        if self._checkpointed:
            return None
        unclaimed = self._range.stop - (self._asked + 1)
        kept = int(unclaimed * fraction_of_remainder)
        split_at = self._asked + 1 + kept
        if unclaimed <= 0 or split_at >= self._range.stop:
            return None
        if fraction_of_remainder == 0:
            self._checkpointed = True
        primary, residual = cut(self._range, split_at)
        self._range = primary
        return primary, residual

    def check_done(self) -> None:
        """Raise unless everything was claimed, or the reader has not begun.

        BundleBasedDirectRunner, which Beam's default runner may take for a graph with timers, asks before the reader begins.
        A reader that ends early raises by itself.
        """
        if self._range.start <= self._asked < self._range.stop - 1:
            raise ValueError(f"{self._range} is not done: nothing after offset {self._asked} was claimed")

    def current_progress(self) -> RestrictionProgress:
        """Offsets claimed and left."""
        claimed = min(self._asked + 1, self._range.stop) - self._range.start
        return RestrictionProgress(completed=claimed, remaining=self._range.size - claimed)

    def is_bounded(self) -> bool:
        """A range ends."""
        return True


class OffsetRangeCoder(beam.coders.Coder):
    """Wire shape: the JSON list ``[1, topic, partition, start, stop]``; the 1 is the version of the shape."""

    VERSION = 1

    def encode(self, value: OffsetRange) -> bytes:
        """The range as JSON."""
        return orjson.dumps([self.VERSION, value.topic, value.partition, value.start, value.stop])

    def decode(self, encoded: bytes) -> OffsetRange:
        """The inverse of :meth:`encode`."""
        version, topic, partition, start, stop = orjson.loads(encoded)
        if version != self.VERSION:
            raise ValueError(
                f"cannot decode an offset range of version {version}: workers and driver must run one version"
            )
        return OffsetRange(topic, partition, start, stop)

    def is_deterministic(self) -> bool:
        """The same range has the same bytes."""
        return True

    def to_type_hint(self) -> type[OffsetRange]:
        """Ranges are what this encodes."""
        return OffsetRange


beam.coders.registry.register_coder(OffsetRange, OffsetRangeCoder)


def cut(whole: OffsetRange, at: int) -> tuple[OffsetRange, OffsetRange]:
    """``[start, at)`` and ``[at, stop)``."""
    return (
        OffsetRange(whole.topic, whole.partition, whole.start, at),
        OffsetRange(whole.topic, whole.partition, at, whole.stop),
    )


def cut_evenly(whole: OffsetRange, max_size: int) -> list[OffsetRange]:
    """Cut a range into the fewest parts of at most ``max_size`` offsets, of nearly equal size."""
    parts = max(1, -(-whole.size // max_size))
    edges = [whole.start + whole.size * part // parts for part in range(parts + 1)]
    return [OffsetRange(whole.topic, whole.partition, start, stop) for start, stop in itertools.pairwise(edges)]
