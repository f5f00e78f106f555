"""Rows of Arrow into a table of PostgreSQL: the sink's own writing against plain COPY of the same rows.

    python tests/services/run.py postgres -- python benchmarks/sql_append.py [--rows 200000] [--rounds 5]

- ``sent``: binary COPY of bytes that were made before: what the server and the way to it take.
- ``psycopg``: binary COPY by ``write_row`` of Python rows that were made before.
- ``sink``: what ``WriteToSql`` does when it publishes: staged Arrow batches to COPY.
- ``staging``: what it does before the commit, without the file: batches checked against the table, their columns made its own.

Each is a transaction into a table of its own, in turn, round after round. CPU is that of this process, not the server's.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from beam_exactly_once.sinks.sql import rows
from beam_exactly_once.sinks.sql.binary_copy import BEGIN, END, binary_rows
from beam_exactly_once.sinks.sql.table import reflected
from beam_exactly_once.sinks.sql.target import SqlTarget

COLUMNS = {"id": "BIGINT", "customer": "INTEGER", "amount": "NUMERIC(12,2)", "at": "TIMESTAMPTZ", "note": "TEXT"}
OWN_TYPES = dict(zip(COLUMNS, ["int8", "int4", "numeric", "timestamptz", "text"], strict=True))
ROWS_AT_ONCE = 1000
TARGET = SqlTarget("bench_orders", None, None, "append", (), None, None, 1)
COPY = f"COPY bench_orders ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"


def batches_of(count: int) -> list[pa.RecordBatch]:
    numbers = range(count)
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    whole = pa.record_batch(
        {
            "id": pa.array(numbers, pa.int64()),
            "customer": pa.array([number % 9973 for number in numbers], pa.int32()),
            "amount": pa.array([Decimal(number) / 4 for number in numbers], pa.decimal128(12, 2)),
            "at": pa.array(
                [begin + datetime.timedelta(seconds=number) for number in numbers], pa.timestamp("us", "UTC")
            ),
            "note": pa.array([f"{number:07d} {'.' * 60}" for number in numbers]),
        }
    )
    return [whole.slice(first, ROWS_AT_ONCE) for first in range(0, count, ROWS_AT_ONCE)]


def sent(connection: sa.Connection, made: list[bytes]) -> None:
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(COPY) as copy:
        for part in made:
            copy.write(part)


def by_psycopg(connection: sa.Connection, made: list[tuple[Any, ...]]) -> None:
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(COPY) as copy:
        copy.set_types(list(OWN_TYPES.values()))
        for row in made:
            copy.write_row(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    engine = sa.create_engine(os.environ["POSTGRES_URL"])
    batches = batches_of(flags.rows)
    made = [BEGIN, *(bytes(binary_rows(batch, OWN_TYPES)) for batch in batches), END]
    tuples = [row for batch in batches for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)]
    declared = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS bench_orders"))
        connection.execute(sa.text(f"CREATE TABLE bench_orders ({declared})"))
        table = reflected(connection, TARGET, "postgresql")
    ways: dict[str, Callable[[sa.Connection], object]] = {
        "sent": lambda connection: sent(connection, made),
        "psycopg": lambda connection: by_psycopg(connection, tuples),
        "sink": lambda connection: rows.write_rows(connection, TARGET, batches),
        "staging": lambda connection: [table.block_of_batch(batch) for batch in batches],
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    cpu_seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(flags.rounds):
        for way, write in ways.items():
            with engine.begin() as connection:
                connection.execute(sa.text("TRUNCATE bench_orders"))
                began_s, began_cpu_s = time.perf_counter(), time.process_time()
                write(connection)
                seconds[way].append(time.perf_counter() - began_s)
                cpu_seconds[way].append(time.process_time() - began_cpu_s)
                count = connection.scalar(sa.text("SELECT count(*) FROM bench_orders"))
            if count != (0 if way == "staging" else flags.rows):
                raise RuntimeError(f"{way}: {count} rows are there")
    print(f"{flags.rows:,} rows, median of {flags.rounds} rounds, ratio within a round to the first line")
    print(f"{'way':<10}{'k rows/s':>10}{'ratio':>8}{'[min-max]':>12}{'CPU s/M':>10}")
    for way in ways:
        ratios = [one / other for one, other in zip(seconds["sent"], seconds[way], strict=True)]
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        print(
            f"{way:<10}{flags.rows / statistics.median(seconds[way]) / 1000:>10,.0f}{statistics.median(ratios):>8.2f}{spread:>12}"
            f"{statistics.median(cpu_seconds[way]) / flags.rows * 1e6:>10.2f}"
        )


if __name__ == "__main__":
    main()
