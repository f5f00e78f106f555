"""The stories of sinks on those that need no service."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import orjson
import pytest

from beam_exactly_once import WriteToFiles, read_batches
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.testing import STORIES, SinkUnderTest, Story
from beam_exactly_once.testing.conformance import Row


class Files(SinkUnderTest):
    """JSON lines, read by the manifests."""

    late_batches = 20  # each takes a tenth of a second

    def __init__(self, root: str) -> None:
        self._root = root

    def write(self, name: str, shards: int) -> beam.PTransform[Any, Any]:
        return WriteToFiles(f"{self._root}/{name}", format="json", name=name)

    def read(self, name: str) -> Iterator[Row]:
        store = open_object_store(f"{self._root}/{name}")
        for batch in read_batches(f"{self._root}/{name}"):
            for file in batch.files:
                yield from map(orjson.loads, (store.get(file.name) or b"").splitlines())


@pytest.mark.parametrize("story", STORIES, ids=str)
def test_files(story: Story) -> None:
    story.check(Files(f"memory://{secrets.token_hex(8)}"))
