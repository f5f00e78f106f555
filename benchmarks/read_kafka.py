"""Reading Kafka: records that reach a counting step, against a raw client loop on the same broker.

    python benchmarks/read_kafka.py [--records 2400000] [--rounds 5] [--only arrow_in_stream …] [--json]

- ``raw``: ``Consumer.consume(1000)`` and a 5-tuple a record, no Beam.
- ``arrow``, ``records``: ``ReadFromKafka`` in an ordinary bounded ``beam.Pipeline``; records pass one ``beam.Map``.
- ``arrow_in_stream``, ``records_in_stream``: the same in an ``ExactlyOnceStream``, one batch, checkpoint on the local disk.
- ``…_by_messages``: these without the native reader. The others take it if it was built.

Time runs from the call of ``run()`` to its return in a fresh process, so starting the runner and opening clients count.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import pyarrow as pa

import support
from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record
from beam_exactly_once.kafka.native import READER_VARIABLE
from support import TOPIC, Source

counted = 0
"""What :class:`Count` counted in this process."""


class Count(beam.DoFn):
    """Counts its elements, or the rows of those that are Arrow batches."""

    def __init__(self, *, arrow: bool) -> None:
        self._arrow = arrow
        self._count = 0

    def process(self, element: pa.RecordBatch | bytes) -> None:
        self._count += element.num_rows if self._arrow else 1

    def finish_bundle(self) -> None:
        global counted
        counted += self._count
        self._count = 0


def value_of(record: Record) -> bytes | None:
    return record.value


def arrow(source: Source) -> Callable[[], int]:
    return prepare(beam.Pipeline(runner="FnApiRunner"), source, arrow=True)


def arrow_in_stream(source: Source) -> Callable[[], int]:
    return prepare(ExactlyOnceStream(f"{source.work_dir}/checkpoint"), source, arrow=True)


def records(source: Source) -> Callable[[], int]:
    return prepare(beam.Pipeline(runner="FnApiRunner"), source, arrow=False)


def records_in_stream(source: Source) -> Callable[[], int]:
    return prepare(ExactlyOnceStream(f"{source.work_dir}/checkpoint"), source, arrow=False)


def arrow_in_stream_by_messages(source: Source) -> Callable[[], int]:
    os.environ[READER_VARIABLE] = "python"
    return arrow_in_stream(source)


def records_in_stream_by_messages(source: Source) -> Callable[[], int]:
    os.environ[READER_VARIABLE] = "python"
    return records_in_stream(source)


def prepare(pipeline: beam.Pipeline, source: Source, *, arrow: bool) -> Callable[[], int]:
    stop: Any = None if isinstance(pipeline, ExactlyOnceStream) else "latest"
    read = pipeline | ReadFromKafka(source.bootstrap_servers, [TOPIC], as_arrow=arrow, stop=stop, max_batch_bytes=None)
    rows = read if arrow else read | beam.Map(value_of)
    _ = rows | beam.ParDo(Count(arrow=arrow))

    def run() -> int:
        pipeline.run().wait_until_finish()
        return counted

    return run


if __name__ == "__main__":
    ways = [
        arrow,
        arrow_in_stream,
        records,
        records_in_stream,
        arrow_in_stream_by_messages,
        records_in_stream_by_messages,
    ]
    support.run_throughput("read_kafka", __doc__, ways)
