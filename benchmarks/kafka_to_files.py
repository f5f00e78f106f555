"""The whole job: Kafka to Parquet files (zstd) on the local disk, exactly once, against a raw client loop.

    python benchmarks/kafka_to_files.py [--records 2400000] [--rounds 5] [--json]

- ``raw``: ``Consumer.consume(1000)`` and a 5-tuple a record; reads only, writes nothing.
- ``parquet``: ``ReadFromKafka(as_arrow=True)`` to ``WriteToFiles``, one batch: staged, committed, published.
- ``parquet_batches``: the same in batches of 256 MiB, as the average record size is learnt.

Time runs from the call of ``run()`` to its return in a fresh process. The rows in the published files are counted.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow.parquet as pq

import support
from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToFiles, read_batches
from support import TOPIC, Source

MAX_BATCH_BYTES = 256 << 20


def prepare(source: Source, max_bytes_per_batch: int | None) -> Callable[[], int]:
    output = f"{source.work_dir}/output"
    stream = ExactlyOnceStream(f"{source.work_dir}/checkpoint")
    read = ReadFromKafka(source.bootstrap_servers, [TOPIC], as_arrow=True, max_batch_bytes=max_bytes_per_batch)
    _ = stream | read | WriteToFiles(output)

    def run() -> int:
        stream.run().wait_until_finish()
        files = [file for batch in read_batches(output) for file in batch.files]
        return sum(pq.read_metadata(file.uri.removeprefix("file://")).num_rows for file in files)

    return run


def parquet(source: Source) -> Callable[[], int]:
    return prepare(source, None)


def parquet_batches(source: Source) -> Callable[[], int]:
    return prepare(source, MAX_BATCH_BYTES)


if __name__ == "__main__":
    support.run_throughput("kafka_to_files", __doc__, [parquet, parquet_batches])
