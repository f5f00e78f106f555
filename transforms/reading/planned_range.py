"""``PlannedRange``: what a reader is given, with all that decides which records it must see."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
import orjson

from beam_exactly_once.offsets import OffsetRange


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


class PlannedRangeCoder(beam.coders.Coder):
    """Wire shape: the JSON list ``[2, topic, partition, start, stop, topic id, isolation level, latest time]``; the 2 is its
    version."""

    VERSION = 2

    def encode(self, value: PlannedRange) -> bytes:
        """The range as JSON."""
        one = value.offsets
        shown = value.topic_id, value.isolation_level, value.latest_ms
        return orjson.dumps([self.VERSION, one.topic, one.partition, one.start, one.stop, *shown])

    def decode(self, encoded: bytes) -> PlannedRange:
        """The inverse of :meth:`encode`."""
        version, *fields = orjson.loads(encoded)
        if version != self.VERSION:
            raise ValueError(
                f"cannot decode a planned range of version {version}: workers and driver must run one version"
            )
        topic, partition, start, stop, *shown = fields
        return PlannedRange(OffsetRange(topic, partition, start, stop), *shown)

    def is_deterministic(self) -> bool:
        """The same range has the same bytes."""
        return True

    def to_type_hint(self) -> type[PlannedRange]:
        """Planned ranges are what this encodes."""
        return PlannedRange


beam.coders.registry.register_coder(PlannedRange, PlannedRangeCoder)
