"""The stories of sinks on Delta tables on a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from beam_exactly_once import WriteToDelta
from beam_exactly_once.testing import STORIES, SinkUnderTest, Story
from beam_exactly_once.testing.conformance import Row

SCHEMA = pa.schema([("id", pa.int64()), ("text", pa.string())])


class Delta(SinkUnderTest):
    """A table each name."""

    late_batches = 120  # each takes a tenth of a second; a log gets a checkpoint of its own after 100 commits

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, shards: int) -> beam.PTransform[Any, Any]:
        return WriteToDelta(str(self._folder / name), schema=SCHEMA, name=name)

    def read(self, name: str) -> list[Row]:
        if not DeltaTable.is_deltatable(str(self._folder / name)):
            return []
        rows: list[Row] = DeltaTable(str(self._folder / name)).to_pyarrow_table().to_pylist()
        return rows


@pytest.mark.parametrize("story", STORIES, ids=str)
def test_a_table(story: Story, tmp_path: Path) -> None:
    story.check(Delta(tmp_path))
