"""Driving a sink of files by hand: its DoFns as a runner fuses them, its publisher, and a look at the store."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.transforms.window import GlobalWindow

from beam_exactly_once import Record, read_batches
from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.object_store import ObjectStore, open_object_store
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.sinks.contract import Part
from beam_exactly_once.sinks.files.encoding import FileEncoding
from beam_exactly_once.sinks.files.layout import FileLayout
from beam_exactly_once.sinks.files.publisher import FilesPublisher
from beam_exactly_once.testing.published_rows import published_rows
from beam_exactly_once.transforms.encode_rows import ToBlocks
from beam_exactly_once.transforms.write_files import StageFiles

STREAM = "5eed"
SCHEMA = pa.schema([("id", pa.int64()), ("name", pa.string())])


def attempt_of(batch_id: int, nonce: str = "00aa11bb22cc33dd") -> Attempt:
    return Attempt(1, batch_id, nonce)


class Sink:
    """The two DoFns of a sink, fused as a runner does it."""

    def __init__(self, output: str, **layout: Any) -> None:
        location = StoreLocation(output, None)
        self.blocks = ToBlocks(FileEncoding(FileLayout(**layout), location), "orders")
        self.stage = StageFiles("orders", location, FileLayout(**layout))
        self.stage.setup()

    def start_bundle(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.blocks.start_bundle()
        self.stage.start_bundle()

    def process(self, row: Any) -> None:
        for block in self.blocks.process(row) or ():
            assert self.stage.process(block, self.attempt) is None

    def finish_bundle(self) -> list[dict[str, Any]]:
        for block in self.blocks.finish_bundle():
            self.stage.process(block.value, self.attempt)
        emitted = self.stage.finish_bundle()
        assert all(element.windows == (GlobalWindow(),) for element in emitted)
        reports = [report for _, report in (element.value for element in emitted)]
        assert all(report.sink == "orders" for report in reports)
        return [report.staged for report in reports]

    def bundle(self, rows: Iterable[Any], attempt: Attempt) -> list[dict[str, Any]]:
        self.start_bundle(attempt)
        for row in rows:
            self.process(row)
        return self.finish_bundle()


def stage_bundle(output: str, rows: Iterable[Any], batch_id: int = 0, **layout: Any) -> list[dict[str, Any]]:
    """One bundle through a sink; returns its committables."""
    sink = Sink(output, **layout)
    try:
        return sink.bundle(rows, attempt_of(batch_id))
    finally:
        sink.stage.teardown()


def part(attempt: Attempt, committable: dict[str, Any]) -> Part:
    """What a commit has published of a sink without shards."""
    return Part(STREAM, attempt, None, 0, (committable,))


def publish_batch(
    output: str, committables: list[dict[str, Any]], batch_id: int = 0, stream_id: str = STREAM
) -> FilesPublisher:
    publisher = FilesPublisher("orders", StoreLocation(output, None))
    for committable in committables:
        publisher.publish(part(attempt_of(batch_id), committable))
    publisher.finish(stream_id, attempt_of(batch_id), tuple(committables))
    return publisher


def store_of(output: str) -> ObjectStore:
    return open_object_store(output)


def keys(output: str) -> list[str]:
    return [entry.key for entry in store_of(output).list()]


def staged_names(output: str) -> list[str]:
    return sorted(staged.final_key for staged in store_of(output).list_staged())


def read_parquet(output: str) -> list[dict[str, Any]]:
    return [row for body in visible_files(output, ".parquet") for row in pq.read_table(io.BytesIO(body)).to_pylist()]


def read_json(output: str) -> list[dict[str, Any]]:
    bodies = visible_files(output, ".json") + list(map(gzip.decompress, visible_files(output, ".json.gz")))
    assert all(body.endswith(b"\n") for body in bodies)
    return [orjson.loads(line) for body in bodies for line in body.splitlines()]


def read_published(output: str) -> list[dict[str, Any]]:
    """Rows of all batches, through their manifests."""
    return [row for batch in read_batches(output) for row in published_rows(output, batch)]


def visible_files(output: str, suffix: str) -> list[bytes]:
    names = [key for key in keys(output) if key.rpartition("/")[2].startswith("part-") and key.endswith(suffix)]
    return [body for name in names if (body := store_of(output).get(name)) is not None]


def records(count: int, first: int = 0) -> list[Record]:
    return [
        Record("orders", 1, first + i, 1700000000000 + i, 1, b"k%d" % i, b"value %d" % (first + i))
        for i in range(count)
    ]
