"""``EventTime``: how a source knows when its records happened, and so how far its time has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from beam_exactly_once.arguments import seconds
from beam_exactly_once.rows.event_times import By, checked_by


@dataclass(frozen=True)
class EventTime:
    """When the records of a source happened, for ``ReadFromKafka(event_time=…)``.

    From these times every batch gets the source's watermark: no record is expected to have happened before it. Operators whose
    windows and timeouts are in event time close by it. It is the latest time seen of each partition, less ``out_of_order_s``,
    and of the partitions the least, so that a slow one is waited for; it never falls. The watermark of a batch is in its plan,
    and made of what earlier batches have read: a replay has the same.

    The idea is that of Flink's bounded out-of-orderness, for each Kafka partition of its own, with idle partitions left out.

    Args:
        by: a column of the row, or a function of it, that gives whole milliseconds since 1970 UTC or a datetime with a zone. The
            row is what ``decoder`` makes, else the record; with ``as_arrow``, the batch of rows, of which a function gives a
            column. A record whose time cannot be found is treated as one that cannot be decoded. None: the timestamp that the
            record has in Kafka.
        out_of_order_s: how many seconds a record may be behind a later one of its partition.
        idle_s: a partition that had no record for that many seconds, and of which all is read, is not waited for. None: each is
            waited for, for ever.
        future_s: a time more than this many seconds after its batch was planned is an error of the sender. The record is given
            like any other; it does not move the watermark, and is counted.

    Raises:
        ConfigurationError: an argument is not possible.
    """

    by: By | None = None
    out_of_order_s: float = field(kw_only=True)
    idle_s: float | None = field(default=60.0, kw_only=True)
    future_s: float = field(default=3600.0, kw_only=True)

    def __post_init__(self) -> None:
        if self.by is not None:
            checked_by("by", self.by)
        seconds("out_of_order_s", self.out_of_order_s, zero=True)
        seconds("idle_s", self.idle_s, none="waiting for each partition for ever")
        seconds("future_s", self.future_s, zero=True)

    def latest_ms(self, planned_at_ms: int) -> int:
        """The latest time that counts in a batch."""
        return planned_at_ms + int(self.future_s * 1000)
