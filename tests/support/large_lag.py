"""Read a large lag in one go, shuffle all of it, write it; print the peak of memory as one JSON line."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
import psutil

from beam_exactly_once import BatchProgress, ExactlyOnceStream, ReadFromKafka, Record, TopicPartition, WriteToFiles
from beam_exactly_once.kafka import Chunk, KafkaSettings, override_logs
from beam_exactly_once.offsets import LogBounds
from beam_exactly_once.topics import TopicDescription
from beam_exactly_once.transforms.reading.read_log import MAX_BATCH_BYTES

VALUE = b"x" * 10_000
PARTITIONS = 4
SHUFFLED_COPIES = 5
"""How often FnApiRunner holds the elements of a shuffle: encoded, grouped, and as Python objects on both sides."""
FIXED_BYTES = 256 << 20
"""Client queue, one chunk, the files' buffers, the interpreter's own."""


class MadeUpLog:
    """Serves records that nobody had to store."""

    def __init__(self, size: int) -> None:
        self._size = size

    def topics(self) -> list[str]:
        raise NotImplementedError

    def describe(self, topics: Sequence[str], *, patient: bool = True) -> dict[str, TopicDescription]:
        return dict.fromkeys(topics, TopicDescription(None, tuple(range(PARTITIONS))))

    def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, LogBounds]:
        return dict.fromkeys(partitions, LogBounds(0, self._size))

    def offsets_for_time(self, partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        raise NotImplementedError

    def next_chunk(self, topic_partition: TopicPartition, position: int, stop: int, max_records: int = 1000) -> Chunk:
        chunk_stop = min(stop, position + max_records)
        # A copy of its own for each value, as from a real client.
        records = [
            Record(topic_partition.topic, topic_partition.partition, offset, value=bytes(bytearray(VALUE)))
            for offset in range(position, chunk_stop)
        ]
        return Chunk.from_records(records, position, chunk_stop)

    def close(self) -> None:
        pass


def main(lag_bytes: int, folder: str) -> None:
    size = -(-lag_bytes // len(VALUE) // PARTITIONS) + 1
    progress: list[BatchProgress] = []
    before = psutil.Process().memory_info().rss

    def open_log(settings: KafkaSettings) -> MadeUpLog:
        return MadeUpLog(size)

    with override_logs(open_log), ExactlyOnceStream(f"{folder}/checkpoint", listeners=[progress.append]) as stream:
        _ = (
            stream
            | ReadFromKafka("memory:9092", ["orders"])
            | beam.Map(lambda record: (record.offset % 16, record.value))
            | beam.GroupByKey()
            | beam.FlatMap(lambda group: ({"value": value} for value in group[1]))
            | WriteToFiles(f"{folder}/output", format="json")
        )
    found = {
        "bytes_read": sum(batch.bytes_read for batch in progress),
        "batches": len(progress),
        "rss_before_bytes": before,
        "rss_peak_bytes": rss_peak_bytes(),
        "bound_bytes": SHUFFLED_COPIES * MAX_BATCH_BYTES + FIXED_BYTES,
    }
    print(json.dumps(found))


def rss_peak_bytes() -> int:
    """Of this program. On Linux ru_maxrss would begin with that of the process which started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
