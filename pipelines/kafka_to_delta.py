"""Ready-made pipeline: Kafka topics to a Delta Lake table, exactly once, one commit a batch.

    python -m beam_exactly_once.pipelines.kafka_to_delta \\
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

from beam_exactly_once.kafka import EVENT_DATE, RECORD_SCHEMA, with_event_date
from beam_exactly_once.pipelines.kafka_to_files import PARTITION_COLUMNS, partition_columns
from beam_exactly_once.pipelines.ready_made import (
    add_rejected_output,
    on_error,
    run_ready_made,
    source,
    storage_options,
    write_rejected,
)
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.transforms.write_delta import WriteToDelta


def main(argv: Sequence[str] | None = None) -> int:
    """Run the pipeline; returns the exit code."""
    return run_ready_made(
        argv,
        module="kafka_to_delta",
        description="Kafka topics to a Delta Lake table, exactly once.",
        add_flags=_add_flags,
        wire=_wire,
    )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, help="the table: folder, s3://bucket/prefix or gs://bucket/prefix")
    parser.add_argument(
        "--partition_by",
        default="",
        metavar="COLUMNS",
        help=f"of {', '.join(PARTITION_COLUMNS)}, several with commas; event_date is the UTC date of the record's timestamp",
    )
    parser.add_argument("--compression", default=None, help="zstd (default), snappy, …")
    add_rejected_output(parser, "that the table cannot hold")


def _wire(stream: ExactlyOnceStream, flags: argparse.Namespace) -> None:
    records = stream | "ReadFromKafka" >> source(flags, as_arrow=True)
    partition_by = partition_columns(flags.partition_by)
    schema = RECORD_SCHEMA
    if EVENT_DATE in partition_by:
        records |= "EventDate" >> beam.Map(with_event_date).with_output_types(pa.RecordBatch)
        schema = schema.append(pa.field(EVENT_DATE, pa.date32()))
    sink = WriteToDelta(
        flags.output,
        schema=schema,
        partition_by=partition_by,
        compression=flags.compression or "auto",
        on_error=on_error(flags),
        storage_options=storage_options(flags, flags.output),
    )
    write_rejected(flags, records | "WriteToDelta" >> sink)


if __name__ == "__main__":
    sys.exit(main())
