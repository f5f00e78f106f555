"""The data files of a Delta table: Parquet files that say what the table's log says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.object_store import StagingWriter
from beam_exactly_once.sinks.delta.statistics import FileStatistics
from beam_exactly_once.sinks.files.block_file import BlockFile, ParquetFile
from beam_exactly_once.sinks.files.layout import FileLayout
from beam_exactly_once.sinks.files.manifest import batch_id_of_part
from beam_exactly_once.sinks.files.partitions import columns_in_files


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
    def __init__(self, *arguments: Any, **layout: Any) -> None:
        super().__init__(*arguments, **layout)
        self._statistics = FileStatistics()

    def _write_table(self, table: pa.Table) -> None:
        super()._write_table(table)
        self._statistics.look_at(table)

    @property
    def notes(self) -> Json:
        """Its columns, and its statistics as the log takes them; a batch is one shard of the table."""
        columns = {field.name: str(field.type) for field in self._schema or ()}
        return {"shard": 0, "columns": columns, "statistics": self._statistics.text(self.metadata[0], self._schema)}
