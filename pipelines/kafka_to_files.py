"""Ready-made pipeline: Kafka topics to exactly-once files.

    beam-exactly-once run kafka-to-files \\
        --bootstrap-servers localhost:9092 --topics orders \\
        --output-location s3://lake/orders --checkpoint-location s3://checkpoints/orders

``python -m beam_exactly_once.pipelines.kafka_to_files`` is the same. Every option of Beam is taken too. Exit codes: 0 done,
2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start the same command again, 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import EVENT_DATE, RECORD_SCHEMA, with_event_date
from beam_exactly_once.pipelines.ready_made import Given, ReadyMade
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.transforms.write_files import WriteToFiles

PARTITION_COLUMNS = ("topic", "partition", EVENT_DATE)


def _wire(stream: ExactlyOnceStream, given: Given) -> None:
    sink = given.output
    partition_by = known_columns(sink.get("partition_by", ()))
    records = stream | given.read(as_arrow=True)
    if EVENT_DATE in partition_by:
        records |= "EventDate" >> beam.Map(with_event_date).with_output_types(pa.RecordBatch)
    schema = _schema(sink.get("format", "parquet"), partition_by)
    given.write_rejected(records | WriteToFiles(**sink, schema=schema, on_error=given.on_error))


def known_columns(partition_by: Sequence[str]) -> Sequence[str]:
    """The columns by which records are partitioned.

    Raises:
        ConfigurationError: a record has no such column.
    """
    unknown = [column for column in partition_by if column not in PARTITION_COLUMNS]
    if unknown:
        raise ConfigurationError(
            f"--output-partition-by: {', '.join(unknown)} is not known. Records can be partitioned by "
            f"{', '.join(PARTITION_COLUMNS)}; for anything else write a pipeline of your own."
        )
    return partition_by


def _schema(format: str, partition_by: Sequence[str]) -> pa.Schema | None:
    """What CSV and text hold of a record; None: all of it."""
    if format not in ("csv", "text"):
        return None
    columns = {field.name: field for field in RECORD_SCHEMA}
    columns[EVENT_DATE] = pa.field(EVENT_DATE, pa.date32())
    names = [name for name in RECORD_SCHEMA.names if name != "headers"] if format == "csv" else ["value"]
    return pa.schema([columns[name] for name in dict.fromkeys([*names, *partition_by])])


PIPELINE = ReadyMade("kafka-to-files", "Kafka topics to files, exactly once.", WriteToFiles, _wire)
main = PIPELINE.main

if __name__ == "__main__":
    sys.exit(main())
