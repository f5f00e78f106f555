"""Ready-made pipeline: Kafka topics to a table, each record once.

    ORDERS_URL=postgresql+psycopg://user:password@host/database \\
    python -m beam_exactly_once.pipelines.kafka_to_sql \\
        --bootstrap_servers localhost:9092 --topics orders \\
        --url '${env:ORDERS_URL}' --table orders --mode upsert --key_columns id --order_by updated_at \\
        --checkpoint_location s3://checkpoints/orders

A record's value is a JSON object, whose fields are the table's columns. Every option of Beam is taken too. Exit
codes: 0 done, 2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start the same command again, 1 anything else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from beam_exactly_once.kafka import Record
from beam_exactly_once.pipelines.ready_made import (
    add_rejected_output,
    comma_separated,
    on_error,
    run_ready_made,
    source,
    write_rejected,
)
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.secrets import referenced
from beam_exactly_once.transforms.decode_records import DecodeRecords
from beam_exactly_once.transforms.write_sql import WriteToSql

_NO_OBJECT = "the value is no JSON object; --rejected_output takes such records"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the pipeline; returns the exit code."""
    return run_ready_made(
        argv,
        module="kafka_to_sql",
        description="Kafka topics to a table, exactly once.",
        add_flags=_add_flags,
        wire=_wire,
    )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", required=True, help="SQLAlchemy's; with a password: ${env:NAME} or ${file:/path}")
    parser.add_argument("--table", required=True, help="it must exist")
    parser.add_argument("--columns", default=None, help="what is written, with commas; default: the whole table")
    parser.add_argument("--mode", choices=["append", "upsert"], default="append")
    parser.add_argument("--key_columns", default="", help="of upsert: a unique key, with commas")
    parser.add_argument("--order_by", default=None, help="of upsert: the greatest value of a key wins")
    parser.add_argument("--receipts_table", default=None, help="of the table of receipts; default: that of the table")
    parser.add_argument("--shards", type=int, default=1, help="transactions a batch")
    parser.add_argument("--direct", action="store_true", help="write before the marker: faster; it cannot change later")
    parser.add_argument(
        "--value_format",
        choices=["json", "record"],
        default="json",
        help="json: the value is an object, its fields are columns; record: topic, offset, key, value, … are columns",
    )
    add_rejected_output(parser, "that are no JSON object or do not fit the table")


def _wire(stream: ExactlyOnceStream, flags: argparse.Namespace) -> None:
    sink = WriteToSql(
        referenced(flags.url),
        flags.table,
        columns=None if flags.columns is None else comma_separated(flags.columns),
        mode=flags.mode,
        key_columns=comma_separated(flags.key_columns),
        newest_by=flags.order_by,
        receipts_table=flags.receipts_table,
        shards=flags.shards,
        direct=flags.direct,
        on_error=on_error(flags),
    )
    if flags.value_format == "record":
        write_rejected(flags, stream | "ReadFromKafka" >> source(flags, as_arrow=True) | "WriteToSql" >> sink)
        return
    records = stream | "ReadFromKafka" >> source(flags, as_arrow=False)
    decode = DecodeRecords(row_of_json, on_error=on_error(flags))
    if flags.rejected_output is None:
        _ = records | "FromJson" >> decode | "WriteToSql" >> sink
    else:
        rows, undecodable = records | "FromJson" >> decode
        write_rejected(flags, undecodable, rows | "WriteToSql" >> sink)


def row_of_json(record: Record) -> dict[str, Any]:
    """The object that a record's value is, with numbers as they were written.

    Raises:
        ValueError: the value is no JSON object.
    """
    try:
        row = json.loads(record.value or b"", parse_float=Decimal)
    except ValueError as error:
        raise ValueError(f"{_NO_OBJECT} ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(_NO_OBJECT)
    return row


if __name__ == "__main__":
    sys.exit(main())
