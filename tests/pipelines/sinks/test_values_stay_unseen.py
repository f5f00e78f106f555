"""A row that no sink takes ends its stream, and its values are in no error, log line or stored object of ours."""

from __future__ import annotations

import json
import logging
import sqlite3
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import ForEachBatch, WriteToDelta, WriteToFiles, WriteToSql
from beam_exactly_once.errors import UnfitRow
from support.stream_under_test import StreamUnderTest

pytestmark = pytest.mark.runs_on("DirectRunner")

CANARY = "canary-4111"
COLUMNS = pa.schema([("id", pa.int64()), ("day", pa.date32()), ("names", pa.list_(pa.string()))])
FITS = {"id": 1, "day": "2026-01-01", "names": ["one"]}


def files(folder: Path, **sink: Any) -> beam.PTransform[Any, Any]:
    return WriteToFiles(str(folder / "output"), **sink)


def delta(folder: Path) -> beam.PTransform[Any, Any]:
    return WriteToDelta(str(folder / "table"), schema=COLUMNS)


def sql(folder: Path) -> beam.PTransform[Any, Any]:
    with sqlite3.connect(folder / "rows.db") as connection:
        connection.execute("CREATE TABLE rows (id BIGINT, day DATE, names JSON)")
    return WriteToSql(f"sqlite:///{folder / 'rows.db'}", "rows")


def each(folder: Path) -> beam.PTransform[Any, Any]:
    return ForEachBatch(lambda batch_id, rows: None, schema=COLUMNS)


SINKS = [
    pytest.param(lambda folder: files(folder, schema=COLUMNS), id="parquet"),
    pytest.param(lambda folder: files(folder, schema=COLUMNS, format="json"), id="json"),
    pytest.param(delta, id="delta"),
    pytest.param(sql, id="sql"),
    pytest.param(each, id="each batch"),
]
UNFIT = [
    pytest.param({**FITS, "id": CANARY}, id="a text for a number"),
    pytest.param({**FITS, "day": CANARY}, id="a text for a date"),
    pytest.param({**FITS, "day": f"2026-01-01T{CANARY}"}, id="a text that begins as a date"),
    pytest.param({**FITS, "id": {CANARY: CANARY}}, id="an object for a number"),
]


@pytest.mark.parametrize("unfit", UNFIT)
@pytest.mark.parametrize("sink", SINKS)
def test_values_of_a_row_that_does_not_fit(
    sink: Callable[[Path], Any], unfit: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stream = StreamUnderTest(str(tmp_path / "checkpoint"))
    stream.send(json.dumps(row).encode() for row in (FITS, unfit))
    write = sink(tmp_path)
    with pytest.raises(UnfitRow) as raised:
        stream.run_with(lambda records: records | beam.Map(lambda record: json.loads(record.value)) | write)
    assert CANARY not in "".join(traceback.format_exception(raised.value))
    assert CANARY not in "".join(str(record.getMessage()) + str(vars(record)) for record in caplog.records)
    stored = [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert stored == []
