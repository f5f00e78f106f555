"""The data files of a Delta table: Parquet files that say what the table's log says of them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.object_store import StagingWriter
from beam_exactly_once.sinks.files.block_file import BlockFile, ParquetFile
from beam_exactly_once.sinks.files.layout import FileLayout
from beam_exactly_once.sinks.files.manifest import batch_id_of_part
from beam_exactly_once.sinks.files.partitions import columns_in_files

STATISTICS_COLUMNS = 32
"""Delta's own default: so many columns, from the first, have statistics."""
MAX_TEXT_LETTERS = 64
"""Longer texts are not statistics: a bound that is cut must be cut upwards, which no reader needs that much."""
MAX_DECIMAL_DIGITS = 15
"""A JSON number holds so many exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaLayout(FileLayout):
    """Parquet files whose names tell which sink of which checkpoint they are from, since a table may have many writers."""

    origin: str = ""
    """Given once the sink has a name."""

    @property
    def extension(self) -> str:
        """With the origin."""
        return f"{self.origin}.parquet"

    def open_file(self, target: StagingWriter) -> BlockFile:
        """A new file, which notes its statistics."""
        schema = columns_in_files(self.schema, self.partition_by)
        return _FileWithStatistics(
            target,
            schema,
            compression=self.compression,
            max_row_group_rows=self.max_row_group_rows,
        )


def batch_id_of_file(name: str, origin: str) -> int | None:
    """The batch that a file of ``origin`` is of; None for a file of anybody else."""
    suffix = f".{origin}.parquet"
    return batch_id_of_part(name.removesuffix(suffix) + ".parquet") if name.endswith(suffix) else None


class _FileWithStatistics(ParquetFile):
    @property
    def notes(self) -> Json:
        """Its statistics, as the log takes them; a batch is one shard of the table."""
        return {"shard": 0, "statistics": statistics_of(self.metadata[0], self._schema)}


def statistics_of(metadata: pq.FileMetaData, schema: pa.Schema) -> Json:
    """What the table's log says of a file: rows, nulls, and bounds where they are exact. Pure.

    Bounds may be wider than the values, never narrower. Without bounds: floats, since Parquet's leave out NaN, which Delta
    takes for the greatest; booleans, bytes, long texts, and all that is nested.
    """
    minimum: Json = {}
    maximum: Json = {}
    nulls: Json = {}
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    positions = {metadata.schema.column(number).path: number for number in range(metadata.num_columns)}
    for field in list(schema)[:STATISTICS_COLUMNS]:
        if pa.types.is_nested(field.type):
            continue
        of_groups = [group.column(positions[field.name]).statistics for group in groups]
        if not all(found is not None and found.has_null_count for found in of_groups):
            continue
        nulls[field.name] = sum(found.null_count for found in of_groups)
        bounds = _bounds(field.type, [found for found in of_groups if found.num_values])
        if bounds is not None:
            minimum[field.name], maximum[field.name] = bounds
    return {"numRecords": metadata.num_rows, "minValues": minimum, "maxValues": maximum, "nullCount": nulls}


def _bounds(kind: pa.DataType, of_groups: Sequence[Any]) -> tuple[Any, Any] | None:
    if not of_groups or not all(found.has_min_max for found in of_groups):
        return None
    try:
        low, high = min(found.min for found in of_groups), max(found.max for found in of_groups)
    except (ValueError, OverflowError):  # a moment that Python's own types do not reach
        return None
    if pa.types.is_integer(kind):
        return int(low), int(high)
    if pa.types.is_string(kind):
        return (low, high) if max(len(low), len(high)) <= MAX_TEXT_LETTERS else None
    if pa.types.is_date(kind):
        return low.isoformat(), high.isoformat()
    if pa.types.is_decimal(kind) and kind.precision <= MAX_DECIMAL_DIGITS:
        return float(Decimal(low)), float(Decimal(high))
    if pa.types.is_timestamp(kind) and high.year < datetime.MAXYEAR:
        return _millisecond(low), _millisecond(high + datetime.timedelta(microseconds=999))
    return None


def _millisecond(moment: datetime.datetime) -> str:
    """Downwards; Delta's bounds of timestamps have no more digits."""
    text = moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
    return text if moment.tzinfo is None else f"{text}Z"
