"""The rows of published files of any format, for tests."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.sinks.files.manifest import PublishedBatch
from beam_exactly_once.sinks.files.partitions import values_of_folders

Row = dict[str, Any]

LINE = "line"
"""Column of a line of a text file."""

_QUOTED_NAME = re.compile(rb'"(?:[^"]|"")*"(.)')


def published_rows(output: str, batch: PublishedBatch) -> Iterator[Row]:
    """The rows of a batch. Columns that are folders, and those of CSV, are text or null: they say no more."""
    store = open_object_store(output)
    for file in batch.files:
        body = store.get(file.name)
        assert body is not None, f"{file.uri} vanished"
        of_folder = values_of_folders(file.name)
        yield from ({**row, **of_folder} for row in _rows_of_file(file.name, body))


def _rows_of_file(name: str, body: bytes) -> Iterable[Row]:
    if name.endswith(".parquet"):
        return _rows_of_table(pq.read_table(io.BytesIO(body)))
    for extension, compression in ((".gz", "gzip"), (".zst", "zstd")):
        if name.endswith(extension):
            body = pa.CompressedInputStream(io.BytesIO(body), compression).read()
            name = name.removesuffix(extension)
    if name.endswith(".csv"):
        return _rows_of_csv(body)
    if name.endswith(".txt"):
        return ({LINE: line} for line in body.split(b"\n")[:-1])
    return map(orjson.loads, body.splitlines())


def _rows_of_csv(body: bytes) -> list[Row]:
    second = _QUOTED_NAME.match(body)
    delimiter = "," if second is None or second[1] == b"\n" else second[1].decode()
    parsing = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    names = pyarrow.csv.open_csv(io.BytesIO(body), parse_options=parsing).schema.names
    converting = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    return _rows_of_table(pyarrow.csv.read_csv(io.BytesIO(body), parse_options=parsing, convert_options=converting))


def _rows_of_table(table: pa.Table) -> list[Row]:
    return list(table.to_pylist())
