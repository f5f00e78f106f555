"""JSON from Kafka to typed columns in Parquet (zstd), exactly once, one batch: columns against rows and a raw client loop.

    python benchmarks/json_to_columns.py [--records 1200000] [--rounds 5] [--json]

- ``raw``: ``Consumer.consume(1000)`` and a 5-tuple a record; reads only, parses and writes nothing.
- ``undecoded``: Arrow batches of records as they are; parses nothing.
- ``columns``: ``ReadFromKafka(decoder=JsonDecoder(schema), as_arrow=True)``.
- ``rows``: ``beam.Map(json.loads)`` of the value, and the sink's ``schema=``.
- ``rows_orjson``: the same with orjson.
- ``rows_single``, ``rows_orjson_single``: the same two with one argument more, for which Beam calls the step row by row.

Time runs from the call of ``run()`` to its return in a fresh process. The rows in the published files are counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import apache_beam as beam
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

import support
from beam_exactly_once import ExactlyOnceStream, JsonDecoder, ReadFromKafka, WriteToFiles, read_batches
from support import TOPIC, Source

SCHEMA = pa.schema([("id", pa.int64()), ("customer", pa.int32()), ("paid", pa.bool_()), ("note", pa.string())])


def prepare(source: Source, steps: beam.PTransform, schema: pa.Schema | None = None, **read: Any) -> Callable[[], int]:
    output = f"{source.work_dir}/output"
    stream = ExactlyOnceStream(f"{source.work_dir}/checkpoint")
    records = stream | ReadFromKafka(source.bootstrap_servers, [TOPIC], max_batch_bytes=None, **read)
    _ = records | steps | WriteToFiles(output, schema=schema)

    def run() -> int:
        stream.run().wait_until_finish()
        files = [file for batch in read_batches(output) for file in batch.files]
        return sum(pq.read_metadata(file.uri.removeprefix("file://")).num_rows for file in files)

    return run


def nothing(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch


nothing.__annotations__ = {"batch": pa.RecordBatch, "return": pa.RecordBatch}


def undecoded(source: Source) -> Callable[[], int]:
    return prepare(source, beam.Map(nothing), as_arrow=True)


def columns(source: Source) -> Callable[[], int]:
    return prepare(source, beam.Map(nothing), decoder=JsonDecoder(SCHEMA), as_arrow=True)


def rows(source: Source) -> Callable[[], int]:
    return prepare(source, beam.Map(lambda record: json.loads(record.value)), SCHEMA)


def rows_orjson(source: Source) -> Callable[[], int]:
    return prepare(source, beam.Map(lambda record: orjson.loads(record.value)), SCHEMA)


def rows_single(source: Source) -> Callable[[], int]:
    return prepare(source, beam.Map(lambda record, _: json.loads(record.value), None), SCHEMA)


def rows_orjson_single(source: Source) -> Callable[[], int]:
    return prepare(source, beam.Map(lambda record, _: orjson.loads(record.value), None), SCHEMA)


if __name__ == "__main__":
    support.run_throughput(
        "json_to_columns", __doc__, [undecoded, columns, rows, rows_single, rows_orjson, rows_orjson_single]
    )
