"""What ``wal verify`` checks: every segment is whole and follows the one before, and so is the chain of claims. Reads only,
beside writers, streams and sweeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile

from beam_exactly_once.errors import CorruptObject
from beam_exactly_once.object_store.side_by_side import side_by_side
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.readers import all_readers
from beam_exactly_once.wal.segments import SegmentHeader


@dataclass(slots=True)
class Looked:
    """What was looked at, how many there were, and what is wrong: where, and what of it."""

    name: str
    examined: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)


def verify_log(log: WalLocation) -> list[Looked]:
    """Look at all that streams may read, and at what retention and writers rest on.

    Raises:
        NewerFormat: an object needs a newer version of this library.
        StoreUnavailable: no definite answer in time.
    """
    found = [Looked("readers")]
    try:
        found[0].examined = len(all_readers(log))
    except CorruptObject as error:
        found[0].faults.append((log.names.readers, str(error)))
    for partition in log.partitions():
        segments, claims = Looked(f"segments of partition {partition}"), Looked(f"claims of partition {partition}")
        found += [segments, claims]
        try:
            newest = log.newest(partition)
        except CorruptObject as error:
            segments.faults.append((log.names.segments(partition), str(error)))
            continue
        if newest is not None:
            _verify_segments(log, newest, segments)
            _verify_claims(log, newest, claims)
    return found


def _verify_segments(log: WalLocation, newest: SegmentHeader, looked: Looked) -> None:
    """From the newest down to the floor: each must stop where the one above begins."""
    partition, above = newest.partition, newest.stop
    floor = log.floor(partition)
    for base, read in _read_all(log, partition, above, floor):
        if base < log.floor(partition):  # a sweep went over it
            return
        looked.examined += 1
        name = log.names.segment(partition, base)
        if isinstance(read, CorruptObject):
            looked.faults.append((name, str(read)))
        elif read is None or read.stop != above:
            stop = "nowhere" if read is None else str(read.stop)
            looked.faults.append(
                (name, f"stops at {stop}, and the next segment begins at {above}: records are missing.")
            )
        above = base
    if above > log.floor(partition):
        begin = log.floor(partition)
        looked.faults.append((log.names.segments(partition), f"holds nothing of the offsets [{begin}, {above})."))


def _read_all(
    log: WalLocation, partition: int, stop: int, floor: int
) -> Iterator[tuple[int, SegmentHeader | CorruptObject | None]]:
    """Where each segment begins, the newest first, and its header if it is whole."""

    def read(base: int) -> SegmentHeader | CorruptObject | None:
        try:
            segment = log.segment(partition, base)
        except CorruptObject as error:
            return error
        return None if segment is None else segment.header

    return side_by_side(read, takewhile(lambda base: base >= floor, log.bases_below(partition, stop)))


def _verify_claims(log: WalLocation, newest: SegmentHeader, looked: Looked) -> None:
    """Each names the one before it; those below the floor are kept, too, and fence writers that are late."""
    partition, at = newest.partition, newest.claim
    floor = log.floor(partition)
    while True:
        name = log.names.segment(partition, at)
        try:
            claim = log.header(partition, at)
        except CorruptObject as error:
            looked.faults.append((name, str(error)))
            return
        if claim is None or not claim.is_claim:
            if at >= floor:
                looked.faults.append((name, "is no claim, and a later segment names it as one."))
            return
        looked.examined += 1
        if claim.previous_claim is None:
            return
        at = claim.previous_claim
