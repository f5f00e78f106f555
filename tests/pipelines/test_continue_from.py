"""``continue_from``: a stream with a new checkpoint goes on where another checkpoint stands, with all its sources."""

from __future__ import annotations

import secrets
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once import CheckpointAt, ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles, WriteToSql
from beam_exactly_once.errors import CheckpointHole
from beam_exactly_once.sinks.files.manifest import read_batches
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from beam_exactly_once.testing.published_rows import published_rows
from support.ending import ends_with, kill

pytestmark = pytest.mark.runs_on("DirectRunner")


@dataclass
class Streams:
    """Orders and payments, each a source of its own; each stream into files of its own."""

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    cluster: MemoryKafka = field(default_factory=lambda: MemoryKafka({"orders": 1, "payments": 1}))

    def send(self, topic: str, *values: str) -> None:
        self.cluster.append(Record(topic, value=value.encode()) for value in values)

    def at(self, name: str, batch_id: int | None = None, **given: Any) -> CheckpointAt:
        return CheckpointAt(f"memory://{self.id}/{name}/checkpoint", batch_id, **given)

    def killed_after(self, name: str, call: str) -> None:
        with watching(StoreCalls(KillPoint.parse(call), kill)), ends_with("killed here"):
            self.run(name)

    def run(
        self, name: str, *topics: str, continue_from: CheckpointAt | None = None, max_batches: int | None = None
    ) -> list[str]:
        """All that the stream has published so far."""
        location = f"memory://{self.id}/{name}/files"
        stream = ExactlyOnceStream(
            f"memory://{self.id}/{name}/checkpoint", continue_from=continue_from, max_batches=max_batches
        )
        read = [
            stream | ReadFromKafka("memory:9092", [topic], name=topic, max_batch_offsets=1)
            for topic in topics or ("orders", "payments")
        ]
        _ = (
            read
            | beam.Flatten()
            | beam.Map(lambda record: {"v": record.value.decode()})
            | WriteToFiles(location, format="json")
        )
        with self.cluster.serving():
            stream.run()
        return sorted(row["v"] for batch in read_batches(location) for row in published_rows(location, batch))


@pytest.fixture
def streams() -> Streams:
    made = Streams()
    made.send("orders", "o1", "o2")
    made.send("payments", "p1", "p2")
    assert made.run("old") == ["o1", "o2", "p1", "p2"]
    made.send("orders", "o3")
    made.send("payments", "p3")
    return made


def test_behind_the_newest_batch(streams: Streams) -> None:
    assert streams.run("new", continue_from=streams.at("old")) == ["o3", "p3"]


def test_behind_a_batch_of_before_all_sources_move_together(streams: Streams) -> None:
    assert streams.run("new", continue_from=streams.at("old", 0)) == ["o2", "o3", "p2", "p3"]


def test_the_checkpoint_alone_decides_once_it_has_a_batch(streams: Streams) -> None:
    assert streams.run("new", continue_from=streams.at("old"), max_batches=1) == ["o3", "p3"]
    streams.send("orders", "o4")
    assert streams.run("new", continue_from=streams.at("old", 0)) == ["o3", "o4", "p3"]


def test_a_batch_that_may_not_be_published_is_not_passed_over(streams: Streams) -> None:
    """The old driver died between its commit and its publish: nobody but its pipeline can publish that."""
    streams.killed_after("old", "put_if_absent:commits/:1")
    with pytest.raises(
        CheckpointHole, match=r"nothing says that all of it is published.*Start the old pipeline once more"
    ):
        streams.run("new", continue_from=streams.at("old"))

    assert streams.run("old") == ["o1", "o2", "o3", "p1", "p2", "p3"]
    streams.send("orders", "o4")
    assert streams.run("new", continue_from=streams.at("old")) == ["o4"]


def test_such_a_batch_is_passed_over_by_who_has_looked(streams: Streams) -> None:
    streams.killed_after("old", "put_if_absent:commits/:1")
    streams.send("orders", "o4")
    assert streams.run("new", continue_from=streams.at("old", may_be_unpublished=True)) == ["o4"]


def test_an_earlier_batch_is_published_when_a_later_one_is_planned(streams: Streams) -> None:
    streams.killed_after("old", "put_if_absent:offsets/:1")
    assert streams.run("new", continue_from=streams.at("old", 1)) == ["o3", "p3"]


def test_a_direct_sink_may_hold_what_is_planned(streams: Streams, tmp_path: Path) -> None:
    """Its rows are written before the marker: to read them again would write them again."""
    url, checkpoint = f"sqlite:///{tmp_path}/orders.db", f"memory://{streams.id}/direct/checkpoint"
    with sqlite3.connect(tmp_path / "orders.db") as database:
        database.execute("CREATE TABLE orders (v TEXT NOT NULL)")

    def run(checkpoint: str, continue_from: CheckpointAt | None = None) -> None:
        with streams.cluster.serving(), ExactlyOnceStream(checkpoint, continue_from=continue_from) as stream:
            records = stream | ReadFromKafka("memory:9092", ["orders"], max_batch_offsets=1)
            _ = records | beam.Map(lambda one: {"v": one.value.decode()}) | WriteToSql(url, "orders", direct=True)

    with watching(StoreCalls(KillPoint.parse("put_if_absent:offsets/:2"), kill)), ends_with("killed here"):
        run(checkpoint)
    with pytest.raises(CheckpointHole, match=r"batch 1 is planned and not committed, and sink 'sql' writes directly"):
        run(f"memory://{streams.id}/new/checkpoint", CheckpointAt(checkpoint))

    with watching(StoreCalls(KillPoint.parse("put_if_absent:offsets/:1"), kill)), ends_with("killed here"):
        run(checkpoint)  # which commits batch 1, and plans batch 2
    with pytest.raises(CheckpointHole, match=r"batch 2 is planned and not committed, and sink 'sql' writes directly"):
        run(f"memory://{streams.id}/new/checkpoint", CheckpointAt(checkpoint, 0))

    run(checkpoint)
    streams.send("orders", "o4")
    run(f"memory://{streams.id}/new/checkpoint", CheckpointAt(checkpoint))
    with sqlite3.connect(tmp_path / "orders.db") as database:
        assert sorted(database.execute("SELECT v FROM orders")) == [("o1",), ("o2",), ("o3",), ("o4",)]


def test_a_source_that_is_gone_on_purpose_is_left_behind(streams: Streams) -> None:
    assert streams.run("new", "orders", continue_from=streams.at("old")) == ["o3"]


def test_a_source_that_the_other_checkpoint_does_not_know_is_refused(streams: Streams) -> None:
    streams.cluster.add_partitions("refunds", 1)
    with pytest.raises(CheckpointHole, match=r"batch 1 has no source 'refunds', but orders, payments. Name the source"):
        streams.run("new", "orders", "refunds", continue_from=streams.at("old"))


@pytest.mark.parametrize(("name", "batch_id", "complaint"), [("old", 7, "batch 7"), ("never", None, "any batch")])
def test_a_place_that_is_not_there_is_refused(
    streams: Streams, name: str, batch_id: int | None, complaint: str
) -> None:
    with pytest.raises(CheckpointHole, match=f"there is no marker of {complaint}"):
        streams.run("new", continue_from=streams.at(name, batch_id))
