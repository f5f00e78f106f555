"""A stream of one topic to files, run again and again, and acts in the middle of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from beam_exactly_once import (
    AvailableNow,
    BatchProgress,
    ExactlyOnceStream,
    ReadFromKafka,
    Trigger,
    WriteToFiles,
    read_batches,
)
from beam_exactly_once.checkpoint import Checkpoint, Marker, Plan
from services.streams.topics import Topic
from support.stream_under_test import opened

_ACTS: list[Callable[[], None]] = []


@contextmanager
def on_first_records(act: Callable[[], None]) -> Iterator[None]:
    """Act once, when the first records that are read come by: their reader waits behind them."""
    _ACTS.append(act)
    try:
        yield
        assert not _ACTS, "no record came by"
    finally:
        _ACTS.clear()


def act_once(records: pa.RecordBatch) -> pa.RecordBatch:
    if _ACTS:
        _ACTS.pop()()
    return records


class FileStream:
    """One topic to Parquet files."""

    def __init__(self, topic: Topic, folder: Path) -> None:
        self.topic = topic
        self.output = folder / "output"
        self.checkpoint = folder / "checkpoint"
        self.progress: list[BatchProgress] = []
        self.listeners: list[Callable[[BatchProgress], None]] = [self.progress.append]

    def run(
        self,
        trigger: Trigger = AvailableNow(),
        topics: list[str] | None = None,
        bootstrap_servers: str | None = None,
        max_batches: int | None = None,
        **options: Any,
    ) -> bytes:
        """Run to the end of the trigger; returns the pipeline as runners get it."""
        topics = [self.topic.name] if topics is None and "topic_pattern" not in options else topics or []
        servers = bootstrap_servers or self.topic.bootstrap_servers
        with ExactlyOnceStream(
            str(self.checkpoint), trigger=trigger, max_batches=max_batches, listeners=self.listeners
        ) as stream:
            source = ReadFromKafka(servers, topics, as_arrow=True, **options)
            _ = stream | source | beam.Map(act_once).with_output_types(pa.RecordBatch) | WriteToFiles(str(self.output))
        return bytes(stream.to_runner_api().SerializeToString())

    def stored(self) -> dict[str, bytes]:
        """Every file of the checkpoint and the output."""
        folders = [self.checkpoint, self.output, self.output.parent]
        return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}

    def values(self) -> Counter[bytes]:
        """Of all files that manifests name."""
        found: Counter[bytes] = Counter()
        for batch in read_batches(str(self.output)):
            for file in batch.files:
                found.update(pq.read_table(file.uri)["value"].to_pylist())
        return found

    def plan(self, batch_id: int) -> Plan:
        found = self._opened().read_plan(batch_id)
        assert found is not None
        return found

    def marker(self, batch_id: int) -> Marker | None:
        return self._opened().read_marker(batch_id)

    def lost(self) -> dict[int, dict[str, Any]]:
        """What each marker says is lost, by batch id; batches without loss are left out."""
        found = {}
        for batch in self.progress:
            marker = self.marker(batch.batch_id)
            assert marker is not None
            lost = marker.to_json()["sources"]["kafka"]["lost"]
            if lost:
                found[batch.batch_id] = orjson.loads(orjson.dumps(lost))
        return found

    def _opened(self) -> Checkpoint:
        return opened(str(self.checkpoint))
