"""Ready-made pipeline: Kafka topics to exactly-once files.

    python -m beam_exactly_once.pipelines.kafka_to_files \\
        --bootstrap_servers localhost:9092 --topics orders \\
        --output s3://lake/orders --checkpoint_location s3://checkpoints/orders

Every option of Beam is taken too. Exit codes: 0 done, 2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start
the same command again, 1 anything else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import EVENT_DATE, RECORD_SCHEMA, with_event_date
from beam_exactly_once.pipelines.ready_made import (
    add_rejected_output,
    comma_separated,
    on_error,
    run_ready_made,
    source,
    storage_options,
    write_rejected,
)
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.transforms.write_files import WriteToFiles

PARTITION_COLUMNS = ("topic", "partition", EVENT_DATE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the pipeline; returns the exit code."""
    return run_ready_made(
        argv,
        module="kafka_to_files",
        description="Kafka topics to files, exactly once.",
        add_flags=add_flags,
        wire=_wire,
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What the shared flags lack."""
    parser.add_argument("--output", required=True, help="folder, s3://bucket/prefix or gs://bucket/prefix")
    parser.add_argument(
        "--file_format",
        choices=["parquet", "csv", "json", "text"],
        default="parquet",
        help="csv: without headers, keys and values must be UTF-8; text: the value, a line each",
    )
    parser.add_argument("--compression", default=None, help="parquet: zstd (default), snappy, …; others: gzip, zstd")
    parser.add_argument(
        "--partition_by",
        default="",
        metavar="COLUMNS",
        help=f"folders, such as topic=orders/event_date=2026-01-31: of {', '.join(PARTITION_COLUMNS)}, several with commas; "
        "event_date is the UTC date of the record's timestamp",
    )
    add_rejected_output(parser, "that the file format cannot hold")


def _wire(stream: ExactlyOnceStream, flags: argparse.Namespace) -> None:
    records = stream | "ReadFromKafka" >> source(flags, as_arrow=True)
    partition_by = partition_columns(flags.partition_by)
    if EVENT_DATE in partition_by:
        records |= "EventDate" >> beam.Map(with_event_date).with_output_types(pa.RecordBatch)
    rejected = records | "WriteToFiles" >> WriteToFiles(
        flags.output,
        format=flags.file_format,
        schema=_schema(flags.file_format, partition_by),
        compression=flags.compression or "auto",
        partition_by=partition_by,
        storage_options=storage_options(flags, flags.output),
        on_error=on_error(flags),
    )
    write_rejected(flags, rejected)


def partition_columns(text: str) -> list[str]:
    """The columns that ``--partition_by`` names.

    Raises:
        ConfigurationError: a record has no such column.
    """
    columns = comma_separated(text)
    unknown = [column for column in columns if column not in PARTITION_COLUMNS]
    if unknown:
        raise ConfigurationError(
            f"--partition_by={text}: {', '.join(unknown)} is not known. Records can be partitioned by "
            f"{', '.join(PARTITION_COLUMNS)}; for anything else write a pipeline of your own."
        )
    return columns


def _schema(format: str, partition_by: Sequence[str]) -> pa.Schema | None:
    """What CSV and text hold of a record; None: all of it."""
    if format not in ("csv", "text"):
        return None
    columns = {field.name: field for field in RECORD_SCHEMA}
    columns[EVENT_DATE] = pa.field(EVENT_DATE, pa.date32())
    names = [name for name in RECORD_SCHEMA.names if name != "headers"] if format == "csv" else ["value"]
    return pa.schema([columns[name] for name in dict.fromkeys([*names, *partition_by])])


if __name__ == "__main__":
    sys.exit(main())
