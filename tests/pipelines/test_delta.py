"""``WriteToDelta`` in a stream: every batch once, in order, in one commit, whatever happens between two steps."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import polars
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from beam_exactly_once.errors import (
    ConfigurationError,
    Fenced,
    SinkAhead,
    SinkBehind,
    SinkUnavailable,
    StagedOutputMissing,
)
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.pipelines import ExactlyOnceStream
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from beam_exactly_once.transforms import ReadFromKafka, WriteToDelta
from beam_exactly_once.transforms.delta_table import TableVersion
from support.delta_streams import NUMBERS, DeltaStream

pytestmark = pytest.mark.runs_on("DirectRunner")


@pytest.fixture
def stream(tmp_path: Path) -> DeltaStream:
    return DeltaStream(str(tmp_path))


class Killed(RuntimeError):
    """The process ended here, as far as the stream is concerned."""


def kill(*_: object) -> None:
    raise Killed("killed here")


def around_commit(
    monkeypatch: pytest.MonkeyPatch,
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
    commit: int = 1,
) -> None:
    """Run something around the ``commit``-th commit of a batch to a table, counted from 1."""
    append = TableVersion.append
    seen = []

    def watched(self: TableVersion, *arguments: Any) -> None:
        seen.append(1)
        is_this = len(seen) == commit
        if is_this:
            before()
        append(self, *arguments)
        if is_this:
            after()

    monkeypatch.setattr(TableVersion, "append", watched)


def files_in_log(stream: DeltaStream) -> set[str]:
    return {Path(uri).name for uri in stream.table.file_uris()}


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


@pytest.mark.parametrize("output", ["records", "arrow"])
def test_kafka_records_as_they_are(stream: DeltaStream, output: Any) -> None:
    stream.produce(7, 8)
    with stream.cluster.serving(), ExactlyOnceStream(stream.location) as pipeline:
        _ = pipeline | ReadFromKafka("memory:9092", ["orders"], output=output) | WriteToDelta(stream.output)
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
    with watching(StoreCalls(killed, kill)), contextlib.suppress(Killed):
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
        with pytest.raises(Killed):
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
        with watching(calls), contextlib.suppress(Killed):
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
    """The mark tells that it was made: the stream goes on."""
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
    """It has looked at the mark, and sleeps right before its commit, which then does not go through."""
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


# -- other writers of the table --------------------------------------------------------------------------------------


def append_by_another(stream: DeltaStream) -> None:
    write_deltalake(stream.output, pa.table({"number": [1000]}), mode="append")


def compact(stream: DeltaStream) -> None:
    append_by_another(stream)
    append_by_another(stream)
    stream.table.optimize.compact()


def add_a_column(stream: DeltaStream) -> None:
    write_deltalake(stream.output, pa.table({"number": [1000], "more": ["x"]}), mode="append", schema_mode="merge")


@pytest.mark.parametrize("other", [append_by_another, compact, add_a_column])
def test_another_commit_comes_first(
    stream: DeltaStream, monkeypatch: pytest.MonkeyPatch, other: Callable[[DeltaStream], None]
) -> None:
    """Between the look at the mark and the commit."""
    stream.produce(0, 1, 2, 3, 4)
    around_commit(monkeypatch, before=lambda: other(stream), commit=2)
    stream.run()
    assert [number for number in stream.read_numbers() if number < 1000] == [0, 1, 2, 3, 4]
    assert 1000 in stream.read_numbers()


def test_two_sinks_of_one_stream_in_one_table(stream: DeltaStream) -> None:
    stream.produce(0, 1, 2, 3)
    for _ in range(2):
        with stream.cluster.serving(), ExactlyOnceStream(stream.location) as pipeline:
            numbers = stream.numbers(pipeline)
            for name, plus in (("first", 0), ("second", 100)):
                _ = (
                    numbers
                    | f"Rows {name}" >> beam.Map(lambda number, plus=plus: {"number": number + plus})
                    | name >> WriteToDelta(stream.output, schema=NUMBERS, name=name)
                )
    assert stream.read_numbers() == [0, 1, 2, 3, 100, 101, 102, 103]
    assert stream.table.version() == 4


def test_two_streams_in_one_table_leave_each_others_staged_files(
    stream: DeltaStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.produce(0, 1, 2, 3)
    second = f"{stream.root}/second"
    with monkeypatch.context() as patch:
        around_commit(patch, before=kill)
        patch.setattr("beam_exactly_once.transforms.write_delta._DeltaPublisher._name_files", lambda *_: None)
        with pytest.raises(Killed):
            stream.run(location=second)
    assert len(stream.staged()) == 1
    stream.run()
    stream.run()
    assert len(stream.staged()) == 1
    stream.run(location=second)
    assert stream.read_numbers() == [0, 0, 1, 1, 2, 2, 3, 3]


# -- copies of yesterday ---------------------------------------------------------------------------------------------


def test_a_checkpoint_of_five_batches_ago(stream: DeltaStream) -> None:
    stream.produce(*range(16))
    stream.run()
    last = stream.roll_back_checkpoint(5)
    with pytest.raises(SinkAhead, match=f"holds batch {last} "):
        stream.run()
    assert stream.read_numbers() == list(range(16))


def test_a_batch_of_another_history_with_the_same_number(stream: DeltaStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number alone would say that it is there: the attempt says that it is not."""
    stream.produce(0, 1)
    stream.run()
    stream.roll_back_checkpoint(1)
    with monkeypatch.context() as patch:
        patch.setattr("beam_exactly_once.transforms.write_delta._DeltaPublisher.check_start", lambda *_: None)
        with pytest.raises(SinkAhead, match="holds batch 0 of attempt"):
            stream.run(lambda number: {"number": number + 100})
    with pytest.raises(SinkAhead, match="holds batch 0 of attempt"):
        stream.run()
    assert stream.read_numbers() == [0, 1]


@pytest.mark.parametrize("lost", ["two batches", "the table"])
def test_a_table_that_lost_batches(stream: DeltaStream, lost: str) -> None:
    copy = Path(stream.root) / "copy"
    stream.produce(*range(4))
    stream.run()
    shutil.copytree(stream.output, copy)
    stream.produce(*range(4, 8))
    stream.run()
    shutil.rmtree(stream.output)
    if lost == "two batches":
        copy.rename(stream.output)
    with pytest.raises(SinkBehind):
        stream.run()
    assert stream.read_numbers() == ([0, 1, 2, 3] if lost == "two batches" else [])


def test_a_wiped_checkpoint_skips_nothing(stream: DeltaStream) -> None:
    stream.produce(0, 1, 2)
    stream.run()
    store = open_object_store(stream.location)
    store.delete([entry.key for entry in store.list()])
    stream.run()
    assert stream.read_numbers() == [0, 0, 1, 1, 2, 2]


def test_an_owner_who_restores_or_deletes_rows_is_let_be(stream: DeltaStream) -> None:
    stream.produce(0, 1, 2, 3)
    stream.run()
    stream.table.restore(1)
    assert stream.read_numbers() == [0, 1]
    stream.table.delete("number = 0")
    stream.produce(4)
    stream.run()
    assert stream.read_numbers() == [1, 4]


# -- what a table does with its files and its log --------------------------------------------------------------------


def vacuum(stream: DeltaStream, retention_hours: int | None) -> None:
    stream.table.vacuum(retention_hours, full=True, dry_run=False, enforce_retention_duration=retention_hours is None)


def test_vacuum_between_stage_and_publish(stream: DeltaStream) -> None:
    """It does not see what is staged, even when it keeps nothing."""
    stream.produce(0, 1, 2, 3)
    after_marker = StoreCalls(KillPoint("put_if_absent", "commits/", 2), kill)
    with watching(after_marker), pytest.raises(Killed):
        stream.run()
    vacuum(stream, 0)
    stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3]


@pytest.mark.parametrize("retention_hours", [None, 0])
def test_vacuum_between_the_names_and_the_commit(
    stream: DeltaStream, monkeypatch: pytest.MonkeyPatch, retention_hours: int | None
) -> None:
    """Young files stay. A VACUUM that takes them all the same is noticed, and the table never names a file that is gone."""
    stream.produce(0, 1, 2, 3)
    with monkeypatch.context() as patch:
        around_commit(patch, before=kill, commit=2)
        with pytest.raises(Killed):
            stream.run()
    vacuum(stream, retention_hours)
    if retention_hours is None:
        stream.run()
        assert stream.read_numbers() == [0, 1, 2, 3]
    else:
        with pytest.raises(StagedOutputMissing):
            stream.run()
        assert stream.read_numbers() == [0, 1]


def test_the_mark_outlives_the_commits_of_the_log(stream: DeltaStream) -> None:
    """Checkpoints of the log carry it on, also where the table forgets the transactions of applications."""
    DeltaTable.create(
        stream.output,
        NUMBERS,
        configuration={
            "delta.logRetentionDuration": "interval 0 seconds",
            "delta.setTransactionRetentionDuration": "interval 0 seconds",
        },
    )
    stream.produce(0, 1, 2, 3)
    stream.run()
    stream.table.create_checkpoint()
    stream.table.cleanup_metadata()
    # The log keeps the commit that its checkpoint is of; that one goes, too.
    version = stream.table.version()
    commits = sorted((Path(stream.output) / "_delta_log").glob("*.json"))
    assert [path.name for path in commits] == [f"{version:020d}.json"]
    append_by_another(stream)
    stream.table.create_checkpoint()
    commits[0].unlink()
    stream.produce(4)
    stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3, 4, 1000]
    stream.roll_back_checkpoint(1)
    with pytest.raises(SinkAhead, match="holds batch 2 "):
        stream.run()


# -- columns ---------------------------------------------------------------------------------------------------------

WIDER = pa.schema([*NUMBERS, ("text", pa.string())])


def wider_row(number: int) -> dict[str, Any]:
    return {"number": number, "text": str(number)}


def test_columns_are_added_where_asked_for(stream: DeltaStream) -> None:
    stream.produce(0, 1)
    stream.run()
    stream.produce(2)
    with pytest.raises(ConfigurationError, match=r"has no columns text string\. .*add_columns=True"):
        stream.run(wider_row, schema=WIDER)
    stream.run(wider_row, schema=WIDER, add_columns=True)
    assert stream.rows() == [
        {"number": 0, "text": None},
        {"number": 1, "text": None},
        {"number": 2, "text": "2"},
    ]
    stream.produce(3)
    stream.run()
    assert stream.rows()[3] == {"number": 3, "text": None}, "rows with fewer columns still fit"


def test_a_batch_that_was_staged_before_the_columns_came(stream: DeltaStream, monkeypatch: pytest.MonkeyPatch) -> None:
    stream.produce(0, 1, 2)
    with monkeypatch.context() as patch:
        around_commit(patch, before=kill)
        with pytest.raises(Killed):
            stream.run()
    stream.run(wider_row, schema=WIDER, add_columns=True)
    assert stream.rows() == [
        {"number": 0, "text": None},
        {"number": 1, "text": None},
        {"number": 2, "text": "2"},
    ]


@pytest.mark.parametrize(
    ("table", "properties", "problem"),
    [
        (pa.schema([("number", pa.string())]), {}, "has column 'number' of type string, and the rows have int64"),
        (pa.schema([("Number", pa.int64())]), {}, "has column 'Number', and the rows have 'number'"),
        (pa.schema([*NUMBERS, pa.field("must", pa.int64(), nullable=False)]), {}, "has column 'must', not nullable"),
        (pa.schema([pa.field("number", pa.int64(), nullable=False)]), {}, "'number' not nullable"),
        (NUMBERS, {"delta.columnMapping.mode": "name"}, "delta.columnMapping.mode"),
    ],
)
def test_rows_that_are_no_rows_of_the_table(
    stream: DeltaStream, table: pa.Schema, properties: dict[str, str], problem: str
) -> None:
    DeltaTable.create(stream.output, table, configuration=properties)
    stream.produce(1)
    with pytest.raises(ConfigurationError, match=problem):
        stream.run()
    assert stream.table.version() == 0


def test_a_table_with_constraints(stream: DeltaStream) -> None:
    table = DeltaTable.create(stream.output, NUMBERS)
    table.alter.add_constraint({"positive": "number > 0"})
    stream.produce(-1)
    with pytest.raises(ConfigurationError, match=r"delta\.constraints\.positive"):
        stream.run()


def test_other_partitioning(stream: DeltaStream) -> None:
    stream.produce(1)
    stream.run(wider_row, schema=WIDER, partition_by=["text"])
    with pytest.raises(ConfigurationError, match=r"is partitioned by \['text'\], and the sink has partition_by=\[\]"):
        stream.run(wider_row, schema=WIDER)


def test_a_table_that_is_replaced_while_the_stream_runs(stream: DeltaStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner gave it other columns: no file gets in that its readers could not read."""

    def replace() -> None:
        other = pa.table({"number": ["a text"]})
        write_deltalake(stream.output, other, mode="overwrite", schema_mode="overwrite")

    around_commit(monkeypatch, after=replace)
    stream.produce(0, 1, 2, 3)
    with pytest.raises(ConfigurationError, match="has column 'number' of type string, and the rows have int64"):
        stream.run()
    assert stream.read_numbers() == ["a text"]
