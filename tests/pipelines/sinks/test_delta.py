"""``WriteToDelta`` in a stream: every batch once, in order, in one commit, whatever happens between two steps."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import polars
import pyarrow as pa
import pytest

from beam_exactly_once import WriteToDelta
from beam_exactly_once.errors import (
    Fenced,
    SinkUnavailable,
    StepFailed,
)
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.delta_streams import DeltaStream, around_commit, files_in_log
from support.ending import Killed, ends_with, kill

pytestmark = pytest.mark.runs_on("DirectRunner")


@pytest.fixture
def stream(tmp_path: Path) -> DeltaStream:
    return DeltaStream(str(tmp_path))


# -- what a table shows ----------------------------------------------------------------------------------------------


def test_each_batch_is_one_commit(stream: DeltaStream) -> None:
    stream.produce(0, 1, 2, 3, 4)
    stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3, 4]
    assert [commit["operation"] for commit in stream.table.history()] == ["WRITE"] * 3 + ["CREATE TABLE"]
    stream.run()
    assert stream.table.version() == 3, "a start without new records commits nothing"


def test_versions_of_the_table_are_batches(stream: DeltaStream) -> None:
    """Also a batch without rows is one."""
    stream.produce(0, 1)
    stream.cluster.skip("orders", 0, 2)
    stream.produce(2, 3)
    stream.run()
    of_versions = []
    for version in range(stream.table.version() + 1):
        table = stream.table
        table.load_as_version(version)
        of_versions.append(sorted(table.to_pyarrow_table()["number"].to_pylist()))
    assert of_versions == [[], [0, 1], [0, 1], [0, 1, 2, 3]]


def test_folders_of_columns_as_others_read_them(stream: DeltaStream) -> None:
    texts = ["plain", "two words", "a/b", "50%", "ü=ö", None]
    schema = pa.schema([("number", pa.int64()), ("text", pa.string()), ("even", pa.bool_()), ("long", pa.string())])

    def row(number: int) -> dict[str, Any]:
        return {"number": number, "text": texts[number], "even": number % 2 == 0, "long": "x" * number}

    stream.produce(*range(len(texts)))
    stream.run(row, schema=schema, partition_by=["text", "even"])
    expected = [row(number) for number in range(len(texts))]
    assert stream.rows() == expected
    assert stream.table.metadata().partition_columns == ["text", "even"]
    by_polars = polars.scan_delta(stream.output).filter(polars.col("even")).collect().sort("number")
    assert by_polars.select("number", "text", "even", "long").to_dicts() == expected[::2]
    some = stream.table.to_pyarrow_table(filters=[("text", "=", "a/b")])
    assert some["number"].to_pylist() == [2]


@pytest.mark.parametrize("name", ["que?stion", "ha#sh", "two words"])
def test_log_and_files_are_in_one_place_whatever_its_name(stream: DeltaStream, name: str) -> None:
    stream.output += f"/{name}"
    stream.produce(0)
    stream.run()
    assert stream.read_numbers() == [0]
    assert len(list(Path(stream.output).glob("*.parquet"))) == 1


@pytest.mark.parametrize("as_arrow", [False, True])
def test_kafka_records_as_they_are(stream: DeltaStream, as_arrow: bool) -> None:
    stream.produce(7, 8)
    stream.run_with(lambda records: records | WriteToDelta(stream.output), as_arrow=as_arrow)
    rows = stream.table.to_pyarrow_table().sort_by("offset").to_pylist()
    assert [(row["topic"], row["offset"], row["value"], row["headers"]) for row in rows] == [
        ("orders", 0, b"7", []),
        ("orders", 1, b"8", []),
    ]


# -- killed between two steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "killed",
    [
        KillPoint("verify", "", 2),
        KillPoint("put_if_absent", "offsets/", 2),
        KillPoint("stage", "part-", 2),
        KillPoint("put_if_absent", "commits/", 2),
        KillPoint("publish", "part-", 2),
    ],
    ids=str,
)
def test_killed_after_a_call_to_a_store(stream: DeltaStream, killed: KillPoint) -> None:
    stream.produce(0, 1, 2, 3, 4)
    with watching(StoreCalls(killed, kill)), contextlib.suppress(StepFailed, Killed):
        stream.run()
    stream.run()
    stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3, 4]
    assert stream.staged() == []
    assert stream.data_files() == files_in_log(stream), "what a losing attempt wrote never gets near the table"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_the_commit_of_the_table(
    stream: DeltaStream, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    stream.produce(0, 1, 2, 3, 4)
    with monkeypatch.context() as patch:
        around_commit(patch, **{moment: kill}, commit=2)
        with ends_with("killed here"):
            stream.run()
    assert stream.read_numbers() == ([0, 1] if moment == "before" else [0, 1, 2, 3])
    stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3, 4]


def test_each_attempt_makes_other_rows(stream: DeltaStream) -> None:
    """What is in the table is what winning attempts made, whole."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    stream.produce(*range(12))
    for attempt in range(1, 8):
        calls = StoreCalls(KillPoint("any", "", chance.randint(25, 90)), kill)
        with watching(calls), contextlib.suppress(StepFailed, Killed):
            stream.run(lambda number, attempt=attempt: {"number": number + 100 * attempt})
    stream.run()
    found = stream.read_numbers()
    assert sorted(number % 100 for number in found) == list(range(12))
    of_batches = [{number // 100 for number in found if number % 100 // 2 == batch_id} for batch_id in range(6)]
    assert all(len(attempts) == 1 for attempts in of_batches), "one attempt made the whole batch"


# -- answers that are lost -------------------------------------------------------------------------------------------


def lose_answer() -> None:
    raise SinkUnavailable("the connection broke")


def test_the_answer_to_a_commit_is_lost(stream: DeltaStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receipt tells that it was made: the stream goes on."""
    stream.produce(0, 1, 2, 3)
    around_commit(monkeypatch, after=lose_answer)
    stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3]


def test_a_commit_is_not_made(stream: DeltaStream, monkeypatch: pytest.MonkeyPatch) -> None:
    stream.produce(0, 1, 2, 3)
    with monkeypatch.context() as patch:
        around_commit(patch, before=lose_answer)
        with pytest.raises(SinkUnavailable, match="the connection broke"):
            stream.run()
    assert stream.read_numbers() == []
    stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3]


# -- drivers that were replaced --------------------------------------------------------------------------------------


def test_a_driver_wakes_up_after_a_newer_one_went_on(stream: DeltaStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has looked at the receipt, and sleeps right before its commit, which then does not go through."""
    stream.produce(0, 1, 2, 3, 4)
    around_commit(monkeypatch, before=stream.run)
    with pytest.raises(Fenced):
        stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3, 4]
    assert stream.table.version() == 3


def test_it_wakes_up_when_its_files_are_compacted_and_gone(
    stream: DeltaStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.produce(0, 1, 2, 3, 4)

    def go_on_and_clean_up() -> None:
        stream.run()
        stream.table.optimize.compact()
        stream.table.vacuum(0, full=True, dry_run=False, enforce_retention_duration=False)
        stream.table.create_checkpoint()

    around_commit(monkeypatch, before=go_on_and_clean_up)
    with pytest.raises(Fenced):
        stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3, 4]
