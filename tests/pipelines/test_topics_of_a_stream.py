"""Which topics a stream reads while topics come, go, are recreated, or have no ids. Real brokers: tests/services."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from beam_exactly_once import (
    AvailableNow,
    BatchProgress,
    CheckpointAt,
    ExactlyOnceStream,
    ProcessingTime,
    ReadFromKafka,
    Record,
    Trigger,
    WriteToFiles,
)
from beam_exactly_once.checkpoint.resolution import propose, resolve
from beam_exactly_once.checkpoint.verification import verify_checkpoint
from beam_exactly_once.clock import SystemClock
from beam_exactly_once.errors import DataLoss, KafkaUnavailable, UnknownTopic
from beam_exactly_once.object_store import ObjectStore, open_object_store, override_stores
from beam_exactly_once.planning import topic_view
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching

pytestmark = pytest.mark.runs_on("DirectRunner")


class Stream:
    """Topics of a cluster in memory to JSON files."""

    def __init__(self, cluster: MemoryKafka, folder: Path, name: str = "one") -> None:
        self.cluster = cluster
        self.checkpoint = str(folder / name / "checkpoint")
        self.output = folder / name / "output"
        self.after_batch: list[Callable[[BatchProgress], None]] = []

    def run(
        self,
        trigger: Trigger = AvailableNow(),
        *,
        max_batches: int | None = None,
        continue_from: CheckpointAt | None = None,
        **read: Any,
    ) -> None:
        with (
            self.cluster.serving(),
            ExactlyOnceStream(
                self.checkpoint,
                trigger=trigger,
                max_batches=max_batches,
                continue_from=continue_from,
                listeners=self.after_batch,
            ) as stream,
        ):
            _ = (
                stream
                | ReadFromKafka("memory:9092", as_arrow=True, **read)
                | WriteToFiles(str(self.output), format="json")
            )

    def values(self) -> list[str]:
        lines = [line for file in self.output.glob("*.json") for line in file.read_bytes().splitlines()]
        return sorted(orjson.loads(line)["value"] for line in lines)


@pytest.fixture
def cluster() -> MemoryKafka:
    return MemoryKafka({"orders-eu": 1})


@pytest.fixture
def stream(cluster: MemoryKafka, tmp_path: Path) -> Stream:
    return Stream(cluster, tmp_path)


def send(cluster: MemoryKafka, topic: str, *values: str) -> None:
    cluster.add_partitions(topic, 1)
    cluster.append(Record(topic, value=value.encode()) for value in values)


# -- patterns --------------------------------------------------------------------------------------------------------


def test_a_pattern_matches_whole_names_and_no_internal_topics(stream: Stream, cluster: MemoryKafka) -> None:
    for topic in ("orders-eu", "orders-us", "all-orders-eu", "orders-eu-old", "__orders-eu"):
        send(cluster, topic, topic)
    stream.run(topic_pattern="(__)?orders-..")
    assert stream.values() == ["orders-eu", "orders-us"]


def test_internal_topics_are_read_when_asked_for(stream: Stream, cluster: MemoryKafka) -> None:
    for topic in ("__orders", "orders"):
        send(cluster, topic, topic)
    stream.run(topic_pattern="__orders")
    assert stream.values() == ["__orders"]


@pytest.mark.runs_on("DirectRunner", trigger="ProcessingTime")
def test_a_topic_that_appears_while_the_stream_runs_is_read_from_its_earliest(
    stream: Stream, cluster: MemoryKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_view, "DISCOVERY_INTERVAL_S", 0.0)
    send(cluster, "orders-eu", "before")
    stream.run(topic_pattern="orders-.*", start="latest")

    def then(batch: BatchProgress) -> None:
        if batch.batch_id == 0:
            send(cluster, "orders-us", "second", "third")

    stream.after_batch.append(then)
    send(cluster, "orders-eu", "first")
    stream.run(ProcessingTime(0), max_batches=2, topic_pattern="orders-.*")
    assert stream.values() == ["first", "second", "third"]


def test_a_pattern_without_a_match_is_an_error_at_once(stream: Stream, cluster: MemoryKafka) -> None:
    send(cluster, "__hidden", "x")
    with pytest.raises(
        UnknownTopic, match=r"'payments' matches none of the 1 topics that Kafka shows us, such as orders-eu"
    ):
        stream.run(topic_pattern="payments")


@pytest.mark.runs_on("DirectRunner", trigger="ProcessingTime")
def test_a_stream_that_goes_on_waits_for_a_match_and_says_so_once(
    stream: Stream, cluster: MemoryKafka, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(topic_view, "DISCOVERY_INTERVAL_S", 0.0)
    monkeypatch.setattr("beam_exactly_once.pipelines.micro_batches.IDLE_POLL_S", 0.0)
    asked = 0
    topics = MemoryKafka.ids

    def ids(self: MemoryKafka) -> dict[str, str]:
        nonlocal asked
        asked += 1
        if asked == 10:
            send(cluster, "payments", "paid")
        return topics(self)

    monkeypatch.setattr(MemoryKafka, "ids", ids)
    with caplog.at_level(logging.WARNING):
        stream.run(ProcessingTime(0), max_batches=1, topic_pattern="payments", start="latest")
    assert stream.values() == ["paid"]
    assert [record for record in caplog.messages if "waits for a topic" in record] == [
        "source 'kafka' waits for a topic to appear: topic_pattern='payments' matches none of the 1 topics that Kafka shows "
        "us, such as orders-eu. The pattern must match the whole name; correct it, or create a topic, or check what we may "
        "see"
    ]


def test_a_topic_that_comes_back_goes_on_at_its_place(
    stream: Stream, cluster: MemoryKafka, caplog: pytest.LogCaptureFixture
) -> None:
    send(cluster, "orders-eu", "a")
    send(cluster, "orders-us", "b")
    stream.run(topic_pattern="orders-.*")
    hidden = cluster._ids.pop("orders-us")
    with pytest.raises(DataLoss, match=r"no longer finds: topic orders-us, read partition 0 up to 1\."):
        stream.run(topic_pattern="orders-.*")
    send(cluster, "orders-eu", "c")
    stream.run(topic_pattern="orders-.*", on_data_loss="skip")
    assert "orders-us" in caplog.text
    cluster._ids["orders-us"] = hidden
    send(cluster, "orders-us", "d")
    stream.run(topic_pattern="orders-.*")
    assert stream.values() == ["a", "b", "c", "d"]


# -- ids -------------------------------------------------------------------------------------------------------------


def make_anew(cluster: MemoryKafka, *values: str) -> None:
    cluster.delete_topic("orders-eu")
    send(cluster, "orders-eu", *values)


def test_brokers_without_ids_are_read_unchecked_until_they_have_ids(
    stream: Stream, cluster: MemoryKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is a checkpoint that was written without ids: the first that are seen are taken for what was read before."""
    send(cluster, "orders-eu", "a")
    with monkeypatch.context() as old_broker:
        old_broker.setattr(MemoryKafka, "ids", lambda self: dict.fromkeys(self._ids))
        stream.run(topics=["orders-eu"])
        make_anew(cluster, "unseen", "b")
        stream.run(topics=["orders-eu"])
    send(cluster, "orders-eu", "c")
    stream.run(topics=["orders-eu"])
    assert stream.values() == ["a", "b", "c"]

    make_anew(cluster, "d", "e", "f", "g")
    with pytest.raises(DataLoss, match=r"its id is orders-eu#3.*orders-eu#2, partition 0 up to 3\."):
        stream.run(topics=["orders-eu"])


@pytest.mark.runs_on("DirectRunner", trigger="ProcessingTime")
def test_a_broker_that_still_gives_out_the_old_id_is_not_believed(stream: Stream, cluster: MemoryKafka) -> None:
    """An id never comes back. Believed, it would have the new topic read a second time afterwards."""
    send(cluster, "orders-eu", "a")

    def then(batch: BatchProgress) -> None:
        if batch.batch_id == 0:
            make_anew(cluster, "b", "c")
        else:
            cluster._ids["orders-eu"] = "orders-eu#1"

    stream.after_batch.append(then)
    with pytest.raises(KafkaUnavailable, match="describes orders-eu by the id of a topic that was deleted"):
        stream.run(ProcessingTime(0), topics=["orders-eu"], on_data_loss="skip")
    assert stream.values() == ["a", "b", "c"]


def test_a_start_from_another_checkpoint_takes_its_topic_ids_along(
    stream: Stream, cluster: MemoryKafka, tmp_path: Path
) -> None:
    send(cluster, "orders-eu", "a")
    stream.run(topics=["orders-eu"])
    second = Stream(cluster, tmp_path, "two")
    at = CheckpointAt(stream.checkpoint, 0)
    make_anew(cluster, "b", "c")
    with pytest.raises(DataLoss, match="recreated"):
        second.run(topics=["orders-eu"], continue_from=at)
    second.run(topics=["orders-eu"], continue_from=at, on_data_loss="skip")
    assert second.values() == ["b", "c"]


def test_a_start_from_another_checkpoint_has_options_of_its_own_store(
    stream: Stream, cluster: MemoryKafka, tmp_path: Path
) -> None:
    send(cluster, "orders-eu", "a")
    stream.run(topics=["orders-eu"])
    send(cluster, "orders-eu", "b")
    opened: list[tuple[str, object]] = []

    def open_store(uri: str, options: object) -> ObjectStore:
        opened.append((uri, options))
        return open_object_store(uri)

    second = Stream(cluster, tmp_path, "two")
    with override_stores(open_store):
        at = CheckpointAt(stream.checkpoint, storage_options={"region": "eu-central-1"})
        second.run(topics=["orders-eu"], continue_from=at)
    assert second.values() == ["b"]
    assert [options for uri, options in opened if uri == stream.checkpoint] == [{"region": "eu-central-1"}] * 2


def test_a_topic_that_is_read_again_later_is_still_known(
    stream: Stream, cluster: MemoryKafka, caplog: pytest.LogCaptureFixture
) -> None:
    send(cluster, "orders-eu", "a")
    send(cluster, "orders-us", "b")
    stream.run(topics=["orders-eu", "orders-us"])
    make_anew(cluster, "unseen", "c")
    send(cluster, "orders-us", "d")
    stream.run(topics=["orders-us"])
    assert "no longer reads topic orders-eu, read partition 0 up to 1. It goes on" in caplog.text
    with pytest.raises(DataLoss, match="topic orders-eu was deleted and recreated"):
        stream.run(topics=["orders-us", "orders-eu"])
    assert stream.values() == ["a", "b", "d"]


class Stop(Exception):
    """The driver dies."""


def stop() -> None:
    raise Stop


def test_a_batch_that_found_its_topic_replaced_gives_back_the_old_place(stream: Stream, cluster: MemoryKafka) -> None:
    """Abandoned, it leaves the stream in the old topic, so that the next start finds the loss again."""
    send(cluster, "orders-eu", "a", "b")
    stream.run(topics=["orders-eu"])
    make_anew(cluster, "c", "d", "e")
    with watching(StoreCalls(KillPoint("put_if_absent", "offsets/", 1), stop)), pytest.raises(Stop):
        stream.run(topics=["orders-eu"], on_data_loss="skip")
    store = open_object_store(stream.checkpoint)
    marker = resolve(propose(store, 1, "abandoned"), owner="test", clock=SystemClock())
    source = marker.sources["kafka"]
    assert {str(one): at for one, at in source.next_offsets.items()} == {"orders-eu-0": 2}
    assert dict(source.topic_ids) == {"orders-eu": "orders-eu#1"}

    with pytest.raises(DataLoss, match="recreated"):
        stream.run(topics=["orders-eu"])
    stream.run(topics=["orders-eu"], on_data_loss="skip")
    assert stream.values() == ["a", "b", "c", "d", "e"]
    assert [fault for check in verify_checkpoint(store).checks for fault in check.faults] == []
