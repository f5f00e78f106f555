"""What a Delta table's log says of a file: its rows, and the nulls and bounds of its columns, as JSON text.

Bounds may be wider than the values, never narrower. They are of every column that can have some, or of none: readers such as
deltalake's datasets take a bound that is missing beside others for one that no row is within.
"""

from __future__ import annotations

import datetime
import json
import math
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_TEXT_LETTERS = 64
"""Of a bound. A longer text is cut: the lower one as it is, the upper one upwards."""
MAX_PARQUET_BYTES = 4096
"""Parquet has no bounds where a text is longer."""

Bounds: TypeAlias = tuple[Any, Any]


class FileStatistics:
    """Gathers, while a file is written, what Parquet's own statistics leave out."""

    def __init__(self) -> None:
        self._with_nan: set[str] = set()
        self._long_texts: dict[str, Bounds] = {}

    def look_at(self, table: pa.Table) -> None:
        """Take note of rows that are written."""
        for name, column in zip(table.schema.names, table.columns, strict=True):
            if pa.types.is_floating(column.type):
                if pc.any(pc.is_nan(column)).as_py():
                    self._with_nan.add(name)
            elif (
                pa.types.is_string(column.type) and (pc.max(pc.binary_length(column)).as_py() or 0) > MAX_PARQUET_BYTES
            ):
                beginnings = pc.min_max(pc.utf8_slice_codeunits(column, 0, MAX_TEXT_LETTERS + 1))
                found = beginnings["min"].as_py(), beginnings["max"].as_py()
                self._long_texts[name] = _joined([*filter(None, [self._long_texts.get(name)]), found])

    def text(self, metadata: pq.FileMetaData, schema: pa.Schema) -> str:
        """Of the closed file.

        Args:
            metadata: its footer.
            schema: its columns.
        """
        bounds: dict[str, Bounds | None] = {}
        nulls: dict[str, int] = {}
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        positions = {metadata.schema.column(number).path: number for number in range(metadata.num_columns)}
        for field in schema:
            if pa.types.is_nested(field.type):
                continue
            of_groups = [group.column(positions[field.name]).statistics for group in groups]
            nulls[field.name] = sum(found.null_count for found in of_groups)
            if nulls[field.name] < metadata.num_rows and not pa.types.is_binary(field.type):
                bounds[field.name] = self._bounds(field, [found for found in of_groups if found.num_values])
        said: dict[str, Any] = {"numRecords": metadata.num_rows, "nullCount": nulls}
        known = {name: found for name, found in bounds.items() if found is not None}
        if len(known) == len(bounds):
            said["minValues"] = {name: low for name, (low, _) in known.items()}
            said["maxValues"] = {name: high for name, (_, high) in known.items()}
        return orjson.dumps(said).decode()

    def _bounds(self, field: pa.Field, of_groups: Sequence[Any]) -> Bounds | None:
        """None where a value is beyond what the log can say."""
        if field.name in self._with_nan:  # greater than all to some readers, and neither to others
            return None
        known = [self._long_texts[field.name]] if field.name in self._long_texts else []
        try:
            known += [(found.min, found.max) for found in of_groups if found.has_min_max or not known]
            low, high = _joined(known)
            return _said(field.type, low, high)
        except (TypeError, ValueError, OverflowError):  # no bounds, or a moment that Python's own types do not reach
            return None


def completed(text: str, schema: pa.Schema, partition_by: Sequence[str]) -> str:
    """Statistics of a file as a table says them whose columns the file may lack: there all of it is null.

    Args:
        text: by :meth:`FileStatistics.text`.
        schema: of the table.
        partition_by: columns of the table that no file has.
    """
    said = json.loads(text, parse_int=orjson.Fragment, parse_float=orjson.Fragment)
    for field in schema:
        if pa.types.is_struct(field.type):  # present for the readers that want each column's, and saying nothing
            for bounds in ("minValues", "maxValues"):
                said.get(bounds, {})[field.name] = {}
        elif field.name not in partition_by and not pa.types.is_nested(field.type):
            said["nullCount"].setdefault(field.name, said["numRecords"])
    return orjson.dumps(said).decode()


def _joined(bounds: Sequence[Bounds]) -> Bounds:
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _said(kind: pa.DataType, low: Any, high: Any) -> Bounds | None:
    if pa.types.is_boolean(kind):
        return bool(low), bool(high)
    if pa.types.is_integer(kind):
        return int(low), int(high)
    if pa.types.is_floating(kind):
        return (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None
    if pa.types.is_decimal(kind):
        return _digits(low), _digits(high)
    if pa.types.is_date(kind):
        return low.isoformat(), high.isoformat()
    if pa.types.is_timestamp(kind):
        return _millisecond(low), _millisecond(high + datetime.timedelta(microseconds=999))
    above = _cut_upwards(high)
    return None if above is None else (low[:MAX_TEXT_LETTERS], above)


def _digits(number: Decimal) -> orjson.Fragment:
    """All of them, without an exponent: readers make decimals of a JSON number's text."""
    return orjson.Fragment(f"{number:f}")


def _millisecond(moment: datetime.datetime) -> str:
    """Downwards; Delta's bounds of timestamps have no more digits."""
    text = moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
    return text if moment.tzinfo is None else f"{text}Z"


def _cut_upwards(text: str) -> str | None:
    """The text, or a short one that is greater than all that begin as it does; None where there is none."""
    if len(text) <= MAX_TEXT_LETTERS:
        return text
    kept = text[:MAX_TEXT_LETTERS].rstrip(chr(sys.maxunicode))
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if following == 0xD800 else following)  # no text has a surrogate
