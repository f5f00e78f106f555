"""Ready-made pipeline: Kafka topics to a table, each record once.

    ORDERS_URL=postgresql+psycopg://user:password@host/database \\
    beam-exactly-once run kafka-to-sql \\
        --bootstrap-servers localhost:9092 --topics orders --checkpoint-location s3://checkpoints/orders \\
        --output-url '${env:ORDERS_URL}' --output-table orders \\
        --output-mode upsert --output-key-columns id --output-newest-by updated_at

A record's value is a JSON object, whose fields are the table's columns; with ``--decoder none`` the columns are those of a
record: ``topic``, ``offset``, ``key``, ``value`` and others.

``python -m beam_exactly_once.pipelines.kafka_to_sql`` is the same. Every option of
Beam is taken too. Exit codes: 0 done, 2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start the same command again,
1 anything else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.kafka import Record
from beam_exactly_once.pipelines.ready_made import Given, ReadyMade
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.transforms.write_sql import WriteToSql

_NO_OBJECT = "the value is not a JSON object; --rejected-location takes such records"


def _wire(stream: ExactlyOnceStream, given: Given) -> None:
    sink = WriteToSql(**given.output, on_error=given.on_error)
    decoder = given.source.get("decoder", row_of_json)
    if decoder is None:
        records = stream | given.read(as_arrow=True)
        given.write_rejected(records | sink)
        return
    decoded = stream | given.read(decoder=decoder, on_error=given.on_error)
    if given.on_error == "fail":
        _ = decoded | sink
    else:
        rows, undecodable = decoded
        given.write_rejected(undecodable, rows | sink)


def row_of_json(record: Record) -> dict[str, Any]:
    """The object that a record's value is, with numbers as they were written.

    Raises:
        UnfitRow: the value is not a JSON object.
    """
    try:
        row = json.loads(record.value or b"", parse_float=Decimal)
    except ValueError as error:
        why = error if isinstance(error, json.JSONDecodeError) else type(error).__name__  # others show bytes of it
        raise UnfitRow(f"{_NO_OBJECT} ({why})") from None
    if not isinstance(row, dict):
        raise UnfitRow(_NO_OBJECT)
    return row


def json_kind() -> Callable[[Record], dict[str, Any]]:
    """What ``--decoder json`` means."""
    return row_of_json


PIPELINE = ReadyMade(
    "kafka-to-sql",
    "Kafka topics to a table, exactly once.",
    WriteToSql,
    _wire,
    source_set=("as_arrow",),
    kinds={"decoder": {"json": json_kind}},
)
main = PIPELINE.main

if __name__ == "__main__":
    sys.exit(main())
