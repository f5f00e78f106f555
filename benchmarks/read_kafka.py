"""Reading Kafka: records that reach a counting step, against a raw client loop on the same broker.

    python benchmarks/read_kafka.py [--records 2400000] [--rounds 5] [--only arrow-stream …] [--json]

- ``raw``: ``Consumer.consume(1000)`` and a 5-tuple a record, no Beam.
- ``arrow``, ``records``: ``ReadFromKafka`` in an ordinary bounded ``beam.Pipeline``; records pass one ``beam.Map``.
- ``arrow-stream``, ``records-stream``: the same in an ``ExactlyOnceStream``, one batch, checkpoint on the local disk.

Time runs from the call of ``run()`` to its return in a fresh process, so starting the runner and opening clients count.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import apache_beam as beam

import support
from beam_exactly_once.kafka import KafkaRecord
from beam_exactly_once.pipelines import ExactlyOnceStream
from beam_exactly_once.transforms import ReadFromKafka
from support import TOPIC, Count, Source, Way


def value_of(record: KafkaRecord) -> bytes | None:
    return record.value


def prepare(arrow: bool, in_stream: bool, source: Source) -> Callable[[], int]:
    pipeline: Any = (
        ExactlyOnceStream(f"{source.work_dir}/checkpoint") if in_stream else beam.Pipeline(runner="FnApiRunner")
    )
    read = pipeline | ReadFromKafka(
        source.bootstrap_servers,
        [TOPIC],
        output="arrow" if arrow else "records",
        max_bytes_per_batch=None,
    )
    rows = read if arrow else read | beam.Map(value_of)
    _ = rows | beam.ParDo(Count(arrow=arrow))

    def run() -> int:
        pipeline.run().wait_until_finish()
        return support.counted

    return run


WAYS: dict[str, Way] = {
    "arrow": partial(prepare, True, False),
    "arrow-stream": partial(prepare, True, True),
    "records": partial(prepare, False, False),
    "records-stream": partial(prepare, False, True),
}

if __name__ == "__main__":
    support.run_throughput("read_kafka", __doc__, WAYS)
