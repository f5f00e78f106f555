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
        topic_id: Kafka's id of the topic; None reads whatever has its name.
        isolation_level: None leaves it to the reader's settings.
    """

    offsets: OffsetRange
    topic_id: str | None = None
    isolation_level: str | None = None


class PlannedRangeCoder(beam.coders.Coder):
    """Wire shape: the JSON list ``[1, topic, partition, start, stop, topic id, isolation level]``; the 1 is its version."""

    VERSION = 1

    def encode(self, value: PlannedRange) -> bytes:
        """The range as JSON."""
        one = value.offsets
        return orjson.dumps(
            [self.VERSION, one.topic, one.partition, one.start, one.stop, value.topic_id, value.isolation_level]
        )

    def decode(self, encoded: bytes) -> PlannedRange:
        """The inverse of :meth:`encode`."""
        version, *fields = orjson.loads(encoded)
        if version != self.VERSION:
            raise ValueError(
                f"cannot decode a planned range of version {version}: workers and driver must run one version"
            )
        topic, partition, start, stop, topic_id, isolation_level = fields
        return PlannedRange(OffsetRange(topic, partition, start, stop), topic_id, isolation_level)

    def is_deterministic(self) -> bool:
        """The same range has the same bytes."""
        return True

    def to_type_hint(self) -> type[PlannedRange]:
        """Planned ranges are what this encodes."""
        return PlannedRange


beam.coders.registry.register_coder(PlannedRange, PlannedRangeCoder)
