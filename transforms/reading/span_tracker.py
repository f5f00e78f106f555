"""The restriction of a read: a span of its line of offsets, its tracker, its coder."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import apache_beam as beam
import orjson
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker


@dataclass(frozen=True, slots=True)
class Span:
    """Positions ``[start, stop)`` in the line of a :class:`~beam_exactly_once.transforms.reading.range_group.RangeGroup`."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"need 0 <= start <= stop, got {self}")

    @property
    def size(self) -> int:
        """Number of positions."""
        return self.stop - self.start

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to read."""
        return self.start == self.stop

    def __str__(self) -> str:
        return f"[{self.start}, {self.stop})"


class SpanTracker(RestrictionTracker):
    """Tracks claims of a span, at whose positions records may be missing.

    A claim of a position claims everything up to and including it, so a reader claims a whole chunk at once. The
    tracker remembers the position that was last *asked for*: after a refused claim nothing can be split any more,
    and the reader owns exactly ``[start, current_restriction().stop)``.
    """

    def __init__(self, restriction: Span) -> None:
        self._span = restriction
        self._asked = restriction.start - 1
        self._checkpointed = False

    def current_restriction(self) -> Span:
        """What this reader still owns: shrinks when a split gives the tail away."""
        return self._span

    def try_claim(self, position: int) -> bool:
        """Claim every position up to this one; False when a split gave it away.

        Raises:
            ValueError: ``position`` does not lie above the last one asked for.
        """
        if position <= self._asked:
            raise ValueError(f"claims must rise: asked for {position} after {self._asked} of {self._span}")
        self._asked = position
        return position < self._span.stop

    def try_split(self, fraction_of_remainder: float) -> tuple[Span, Span] | None:
        """Give away the tail after a fraction of what nobody asked for yet; 0 gives away all of it."""
        if self._checkpointed:
            return None
        unclaimed = self._span.stop - (self._asked + 1)
        kept = int(unclaimed * fraction_of_remainder)
        split_at = self._asked + 1 + kept
        if unclaimed <= 0 or split_at >= self._span.stop:
            return None
        if fraction_of_remainder == 0:
            self._checkpointed = True
        primary, residual = Span(self._span.start, split_at), Span(split_at, self._span.stop)
        self._span = primary
        return primary, residual

    def check_done(self) -> None:
        """Raise unless everything was claimed, or the reader has not begun.

        BundleBasedDirectRunner, which Beam's default runner may take for a graph with timers, asks before the reader begins.
        A reader that ends early raises by itself.
        """
        if self._span.start <= self._asked < self._span.stop - 1:
            raise ValueError(f"{self._span} is not done: nothing after position {self._asked} was claimed")

    def current_progress(self) -> RestrictionProgress:
        """Positions claimed and left."""
        claimed = min(self._asked + 1, self._span.stop) - self._span.start
        return RestrictionProgress(completed=claimed, remaining=self._span.size - claimed)

    def is_bounded(self) -> bool:
        """A span ends."""
        return True


class SpanCoder(beam.coders.Coder):
    """Wire shape: the JSON list ``[2, start, stop]``; the 2 is the version of the shape."""

    VERSION = 2

    def encode(self, value: Span) -> bytes:
        """The span as JSON."""
        return orjson.dumps([self.VERSION, value.start, value.stop])

    def decode(self, encoded: bytes) -> Span:
        """The inverse of :meth:`encode`."""
        version, *edges = orjson.loads(encoded)
        if version != self.VERSION:
            raise ValueError(f"cannot decode a span of version {version}: workers and driver must run one version")
        return Span(*edges)

    def is_deterministic(self) -> bool:
        """The same span has the same bytes."""
        return True

    def to_type_hint(self) -> type[Span]:
        """Spans are what this encodes."""
        return Span


beam.coders.registry.register_coder(Span, SpanCoder)


def cut_evenly(whole: Span, max_size: int) -> list[Span]:
    """Cut a span into the fewest parts of at most ``max_size`` positions, of nearly equal size."""
    parts = max(1, -(-whole.size // max_size))
    edges = [whole.start + whole.size * part // parts for part in range(parts + 1)]
    return [Span(start, stop) for start, stop in itertools.pairwise(edges)]
