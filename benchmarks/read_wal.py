"""Reading a write-ahead log: CPU seconds a million records, by the records that a segment has.

    python benchmarks/read_wal.py [--records 500000] [--segment-records 5000 500 50] [--answer-ms 30]

- ``log``: ``WalLog`` alone, chunk by chunk.
- ``stream``: ``ReadFromWal`` and ``WriteToFiles`` (Parquet) in an ``ExactlyOnceStream``, from the start of the run to its end.

Records are of 200 bytes, the log and the output are on the local disk.
With ``--answer-ms`` its answers come so late as a store's behind a network do, and what is shown is how long reading takes, one
segment after the other and with the next ones asked for ahead.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator

from beam_exactly_once import ExactlyOnceStream, ReadFromWal, WriteToFiles
from beam_exactly_once.object_store import ObjectEntry
from beam_exactly_once.object_store.local import LocalStore
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.log import WalLog
from beam_exactly_once.wal.new_records import NewRecord, NewRecords
from beam_exactly_once.wal.partition_writer import PartitionWriter

RECORD_BYTES = 200
HOOKS = TopicPartition("hooks", 0)


def fill(folder: str, records: int, segment_records: int) -> None:
    """One partition, one claim, and segments of one size."""
    location = WalLocation.create(LocalStore(f"{folder}/hooks"))
    writer = PartitionWriter(location, 0, owner="benchmark", id_window=0)
    writer.claim()
    numbers = range(segment_records)
    segment = NewRecords.of(NewRecord(b"%0*d" % (RECORD_BYTES, number), 1_700_000_000_000) for number in numbers)
    for _ in range(records // segment_records):
        writer.begin(segment)
        writer.put()


def read_log(folder: str) -> int:
    """Records that the log gives."""
    return read_all(WalLog(LocalStore(f"{folder}/hooks"), HOOKS.topic))


def read_all(log: WalLog) -> int:
    """Records that a log gives, chunk by chunk."""
    log.describe([HOOKS.topic])
    position, stop, count = 0, log.bounds([HOOKS])[HOOKS].latest, 0
    while position < stop:
        chunk = log.next_chunk(HOOKS, position, stop)
        position, count = chunk.stop, count + len(chunk)
    log.close()
    return count


def read_in_stream(folder: str) -> int:
    """Records that a stream writes."""
    counted: list[int] = []
    with ExactlyOnceStream(
        f"{folder}/checkpoint", listeners=lambda one: counted.append(sum(one.rows_written.values()))
    ) as stream:
        records = stream | ReadFromWal(f"{folder}/hooks", as_arrow=True, max_batch_bytes=None)
        _ = records | WriteToFiles(f"{folder}/output")
    return sum(counted)


class FarStore(LocalStore):
    """Answers late."""

    def __init__(self, folder: str, answer_s: float) -> None:
        super().__init__(folder)
        self._answer_s = answer_s

    def get(self, key: str) -> bytes | None:
        """See :class:`ObjectStore`."""
        time.sleep(self._answer_s)
        return super().get(key)

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None) -> Iterator[ObjectEntry]:
        """See :class:`ObjectStore`."""
        time.sleep(self._answer_s)
        return super().list(prefix, start_after, limit)


def show_waiting(records: int, segment_records: int, answer_s: float) -> None:
    """How long it takes to read a log that is far away, in both ways."""
    with tempfile.TemporaryDirectory(prefix="beam-exactly-once-") as folder:
        fill(folder, records, segment_records)
        taken_s = []
        for reads_ahead in (False, True):
            log = WalLog(FarStore(f"{folder}/hooks", answer_s), HOOKS.topic, reads_ahead=reads_ahead)
            began_s = time.perf_counter()
            read_all(log)
            taken_s.append(time.perf_counter() - began_s)
    print(f"{segment_records:>18}{taken_s[0]:>16.2f}{taken_s[1]:>8.2f}   s, {records} records")


def cpu_s(read: Callable[[str], int], folder: str, records: int) -> float:
    """Of this process, a million records."""
    began_s = time.process_time()
    found = read(folder)
    if found != records:
        raise AssertionError(f"{found} of {records} records")
    return (time.process_time() - began_s) * 1_000_000 / records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=500_000)
    parser.add_argument("--segment-records", type=int, nargs="+", default=[5000, 500, 50])
    parser.add_argument("--answer-ms", type=float)
    asked = parser.parse_args()
    if asked.answer_ms is not None:
        print(f"{'records a segment':>18}{'one by one':>16}{'ahead':>8}")
        for segment_records in asked.segment_records:
            show_waiting(asked.records - asked.records % segment_records, segment_records, asked.answer_ms / 1000)
        return
    with tempfile.TemporaryDirectory(prefix="beam-exactly-once-") as folder:  # what is imported and started once
        fill(folder, 1000, 100)
        read_in_stream(folder)
    print(f"{'records a segment':>18}{'log':>8}{'stream':>8}   CPU s a million records")
    for segment_records in asked.segment_records:
        records = asked.records - asked.records % segment_records
        with tempfile.TemporaryDirectory(prefix="beam-exactly-once-") as folder:
            fill(folder, records, segment_records)
            found = [cpu_s(read, folder, records) for read in (read_log, read_in_stream)]
        print(f"{segment_records:>18}{found[0]:>8.2f}{found[1]:>8.2f}")


if __name__ == "__main__":
    main()
