"""What becomes of state around a stream's life: operators that are dropped, streams that go on from others."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once import (
    CheckpointAt,
    ExactlyOnceStream,
    ReadFromKafka,
    StatefulCombinePerKey,
    UpdateStateByKey,
    WriteToFiles,
    WriteToSql,
)
from beam_exactly_once.checkpoint import Attempt, Marker, layout, marker_of_resolution
from beam_exactly_once.errors import ConfigurationError, PipelineChanged
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.command_line import run
from support.ending import ends_with, kill
from support.keyed_stream import KeyedStream, counted, keyed, row_of

pytestmark = pytest.mark.runs_on("DirectRunner")


class LivingStream(KeyedStream):
    """Counts by key in as many operators as each start says."""

    def start(
        self,
        *operators: Any,
        without: Sequence[str] = (),
        retain_batches: int = 100,
        max_batch_offsets: int | None = None,
        **stream: Any,
    ) -> None:
        with (
            self.cluster.serving(),
            ExactlyOnceStream(self.location, without=without, retain_batches=retain_batches, **stream) as pipeline,
        ):
            read = ReadFromKafka("memory:9092", ["orders"], max_batch_offsets=max_batch_offsets)
            pairs = pipeline | read | beam.Map(keyed)
            emitted = [pairs | operator for operator in operators] or [pairs]
            _ = emitted | beam.Flatten() | beam.MapTuple(row_of) | WriteToFiles(str(self.output), format="json")

    def marker(self) -> Marker:
        marker = self.checkpoint().newest_marker()
        assert marker is not None
        return marker


def counts(name: str, renamed_from: str | None = None) -> Any:
    return UpdateStateByKey(counted, name=name, renamed_from=renamed_from)


@pytest.fixture
def stream(tmp_path: Path) -> LivingStream:
    return LivingStream(tmp_path)


# -- dropped ---------------------------------------------------------------------------------------------------------


def test_an_operator_that_is_gone_is_dropped_only_on_purpose(stream: LivingStream) -> None:
    """And then its objects go with the batches that need them."""
    stream.produce(1, 2)
    stream.start(counts("kept"), counts("old"))
    with pytest.raises(PipelineChanged, match=r"knows an operator 'old'.*say so: without=\['operators/old'\]"):
        stream.start(counts("kept"))
    for number in range(3):
        stream.produce(number)
        stream.start(counts("kept"), without=["operators/old"], retain_batches=2)
    assert list(stream.marker().state) == ["kept"]
    assert list(stream.store().list(layout.state_prefix("old"))) == []
    assert stream.newest() == {0: 1, 1: 2, 2: 2}
    stream.produce(1)
    stream.start(counts("kept"))
    assert stream.newest()[1] == 3
    assert run("verify", stream.location).exit_code == 0


def test_without_a_batch_nothing_is_dropped(stream: LivingStream) -> None:
    """Who thinks again finds all that was remembered."""
    stream.produce(1)
    stream.start(counts("old"))
    stream.start(without=["operators/old"])
    assert list(stream.marker().state) == ["old"]
    with pytest.raises(PipelineChanged, match="knows an operator 'old'"):
        stream.start()
    stream.produce(1)
    stream.start(counts("old"))
    assert stream.newest() == {1: 2}


def test_a_name_that_comes_again_begins_with_nothing(stream: LivingStream) -> None:
    """As another operator, of another kind if need be; and so once more."""
    stream.produce(1)
    stream.start(counts("again"))
    stream.produce(1)
    stream.start(without=["operators/again"])
    stream.produce(1)
    stream.start("Sum" >> StatefulCombinePerKey(sum, name="again"))
    assert StateList.from_json(stream.marker().state["again"]).generation == 2
    assert stream.written()[-1] == (1, 1)
    stream.produce(1)
    stream.start("Sum" >> StatefulCombinePerKey(sum, name="again"))
    assert stream.written()[-1] == (1, 2)
    with pytest.raises(PipelineChanged, match="operator 'again' had kind="):
        stream.start(counts("again"))
    stream.produce(1)
    stream.start(without=["operators/again"])
    stream.produce(1)
    stream.start(counts("again"))
    assert (StateList.from_json(stream.marker().state["again"]).generation, stream.written()[-1]) == (3, (1, 1))
    assert run("verify", stream.location).exit_code == 0


def test_under_a_new_name_it_begins_with_nothing_at_once(stream: LivingStream) -> None:
    stream.produce(1)
    stream.start(counts("old"))
    stream.produce(1)
    stream.start(counts("new"), without=["operators/old"])
    assert (list(stream.marker().state), stream.written()[-1]) == (["new"], (1, 1))


def test_a_renamed_operator_goes_on_with_what_it_remembers(stream: LivingStream) -> None:
    """The argument may stay. Old code is refused, until it says the same the other way round."""
    stream.produce(1, 2)
    stream.start(counts("old"))
    for total in (2, 3):
        stream.produce(1)
        stream.start(counts("new", "old"), retain_batches=2)
        assert (list(stream.marker().state), stream.written()[-1]) == (["new"], (1, total))
    with pytest.raises(
        PipelineChanged, match=r"knows an operator 'new' .*\(it has: old\).*say renamed_from='new' of the step"
    ):
        stream.start(counts("old"))
    stream.produce(2)
    stream.start(counts("old", "new"))
    assert (list(stream.marker().state), stream.newest()) == (["old"], {1: 3, 2: 2})
    assert run("verify", stream.location).exit_code == 0


@pytest.mark.parametrize(
    ("operators", "complaint"),
    [
        ([("a", "b"), ("b", None)], "operator 'a' has renamed_from='b', and this pipeline has an operator 'b'"),
        ([("a", "old"), ("b", "old")], "operator 'b' has renamed_from='old', and so has operator 'a'"),
        ([("a", "dropped")], "renamed_from='dropped', and without names 'operators/dropped'"),
        ([("a", "not/a/name")], "renamed_from='not/a/name' cannot name"),
    ],
)
def test_what_cannot_be_renamed_is_said(stream: LivingStream, operators: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        stream.start(*(counts(*one) for one in operators), without=["operators/dropped"])


@pytest.mark.parametrize("dropped_by", ["the newer driver", "the older driver", "none, but it is renamed"])
def test_a_driver_that_was_replaced_decides_one_batch_more(stream: LivingStream, dropped_by: str) -> None:
    """With the state that the newer one drops or renames, or without the one that the newer one has: it goes on behind that."""
    stream.produce(1)
    stream.start(counts("counts"))
    before = stream.marker()
    drops, is_newer = dropped_by == "the newer driver", dropped_by != "the older driver"

    def older_driver_decides() -> None:
        checkpoint = stream.checkpoint()
        plan = checkpoint.read_plan(1)
        assert plan is not None
        marker = marker_of_resolution(plan, Attempt(1, 1, "old"), "skipped", 0)
        if not is_newer:
            checkpoint.create_dropped("counts", 1, 0)
        assert checkpoint.create_marker(replace(marker, state=before.state if is_newer else {})).mine

    stream.produce(1, 1)
    with watching(StoreCalls(KillPoint("put_if_absent", layout.offsets_key(1), 1), older_driver_decides)):
        if drops:
            stream.start(counts("new"), without=["operators/counts"], max_batch_offsets=1)
        else:
            stream.start(counts("new", "counts") if is_newer else counts("counts"), max_batch_offsets=1)
    generations = {name: StateList.from_json(one).generation for name, one in stream.marker().state.items()}
    assert generations == ({"new": 1} if is_newer else {"counts": 2})
    assert stream.written()[-1] == (1, 2 if is_newer and not drops else 1)


@pytest.mark.parametrize(
    ("without", "complaint"),
    [
        (["operators/counts"], "without names 'operators/counts', which this pipeline has"),
        (["counts"], r"without names 'counts'. Name operators as the checkpoint does: without=\['operators/counts'\]"),
        (["sinks/files"], "without names 'sinks/files': only operators with state can be dropped"),
        (["operators/"], "Name operators as the checkpoint does"),
        ("operators/counts", "must be a list of operators"),
    ],
)
def test_what_cannot_be_dropped_is_said(stream: LivingStream, without: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        stream.start(counts("counts"), without=without)


# -- carried along ---------------------------------------------------------------------------------------------------


def test_another_stream_goes_on_with_it_under_another_name(stream: LivingStream, tmp_path: Path) -> None:
    stream.produce(1, 2, 1)
    stream.start(counts("old"))
    stream.produce(1)
    new = LivingStream(tmp_path / "new")
    new.cluster = stream.cluster
    new.start(counts("new", "old"), continue_from=CheckpointAt(stream.location))
    assert (new.written(), list(new.marker().state)) == ([(1, 3)], ["new"])
    assert run("verify", new.location).exit_code == 0


@pytest.mark.parametrize("call", [None, "put_if_absent:state/:1", "put_if_absent:commits/:1"])
def test_another_stream_goes_on_with_what_is_remembered(stream: LivingStream, tmp_path: Path, call: str | None) -> None:
    """Into outputs of its own, whenever it is killed; the old one is left as it was."""
    stream.produce(1, 2, 1)
    stream.start(counts("counts"), counts("left-behind"))
    before = [entry.key for entry in stream.store().list()]
    stream.produce(1, 3)
    new = LivingStream(tmp_path / "new")
    new.cluster = stream.cluster
    place = CheckpointAt(stream.location)

    def go_on() -> None:
        new.start(counts("counts"), counts("added"), continue_from=place, without=["operators/left-behind"])

    if call is not None:
        with watching(StoreCalls(KillPoint.parse(call), kill)), ends_with("killed here"):
            go_on()
    go_on()
    assert sorted(new.written()) == [(1, 1), (1, 3), (3, 1), (3, 1)]
    assert [entry.key for entry in stream.store().list()] == before
    assert sorted(new.marker().state) == ["added", "counts"]
    verified = run("verify", new.location)
    assert verified.exit_code == 0, verified.stdout


def test_totals_in_a_table_go_on(stream: LivingStream, tmp_path: Path) -> None:
    """The first batch of the new stream writes nothing, and leaves no receipt."""
    database = tmp_path / "counts.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE counts (key INT PRIMARY KEY, value INT)")
    upsert = WriteToSql(f"sqlite:///{database}", "counts", mode="upsert", key_columns=["key"])

    def start(location: str, **given: Any) -> None:
        with stream.cluster.serving(), ExactlyOnceStream(location, **given) as pipeline:
            pairs = pipeline | ReadFromKafka("memory:9092", ["orders"]) | beam.Map(keyed)
            _ = pairs | counts("counts") | beam.MapTuple(row_of) | upsert

    stream.produce(1, 2)
    start(stream.location)
    stream.produce(1)
    new = str(tmp_path / "new")
    start(new, continue_from=CheckpointAt(stream.location))
    stream.produce(1)
    start(new)
    with sqlite3.connect(database) as connection:
        assert sorted(connection.execute("SELECT * FROM counts")) == [(1, 3), (2, 1)]
