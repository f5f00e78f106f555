"""What ``wal status`` shows: where partitions begin and end, who writes them, and what keeps them. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.readers import HOLD, ReaderRecord, all_readers
from beam_exactly_once.wal.sealed import Json


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition that has been written to: it holds ``[begin, end)``."""

    partition: int
    begin: int
    end: int
    arrived_ms: int
    """The latest arrival of a record, by the clocks of its writers."""
    id_window: int
    owner: str
    claimed_at_ms: int
    kept_from: int | None
    """The least offset that a stream may still read; None if none reads the log."""
    kept_by: Sequence[str]
    """Those that keep it from there on: stream and source."""

    def to_json(self) -> Json:
        """For machines."""
        return {
            "partition": self.partition,
            "begin": self.begin,
            "end": self.end,
            "arrived_ms": self.arrived_ms,
            "id_window": self.id_window,
            "owner": self.owner,
            "claimed_at_ms": self.claimed_at_ms,
            "kept_from": self.kept_from,
            "kept_by": list(self.kept_by),
        }


@dataclass(frozen=True, slots=True)
class WalStatus:
    """A log, its partitions, and the newest record of each source that reads it."""

    location: str
    log_id: str
    partitions: Sequence[PartitionStatus]
    readers: Sequence[ReaderRecord]

    @classmethod
    def of(cls, log: WalLocation) -> WalStatus:
        """The log as it is now.

        Raises:
            CorruptObject, NewerFormat: something of it cannot be read.
        """
        readers = sorted(all_readers(log), key=lambda one: (one.stream_id, one.source))
        partitions = [found for one in log.partitions() if (found := _partition(log, one, readers)) is not None]
        return cls(log.store.uri, log.log_id, partitions, readers)

    def to_json(self) -> Json:
        """For machines."""
        return {
            "location": self.location,
            "log_id": self.log_id,
            "partitions": [one.to_json() for one in self.partitions],
            "readers": [
                {
                    "stream_id": one.stream_id,
                    "source": one.source,
                    "state": state_of(one),
                    "next_offsets": {str(partition): offset for partition, offset in sorted(one.next_offsets.items())},
                }
                for one in self.readers
            ],
        }


def state_of(reader: ReaderRecord) -> str:
    """What a source has said: ``holds all``, ``released``, or the batch behind which nothing is needed."""
    if reader.is_released:
        return "released"
    return "holds all" if reader.number == HOLD else f"batch {reader.number - 1}"


def _partition(log: WalLocation, partition: int, readers: Sequence[ReaderRecord]) -> PartitionStatus | None:
    begin, newest = log.floor(partition), log.newest(partition)
    if newest is None:
        return None
    claim = newest if newest.is_claim else log.header(partition, newest.claim)
    holding = [one for one in readers if not one.is_released]
    kept_from = min((one.next_offset(partition) for one in holding), default=None)
    return PartitionStatus(
        partition,
        begin,
        newest.stop,
        newest.rising_ms,
        newest.id_window,
        "" if claim is None else claim.owner,
        0 if claim is None else claim.claimed_at_ms,
        None if kept_from is None else max(begin, kept_from),
        [f"{one.stream_id}/{one.source}" for one in holding if one.next_offset(partition) == kept_from],
    )
