"""A Delta table has a life of its own: other writers, older copies, vacuum, columns that come and go."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from beam_exactly_once import Record, WriteToDelta
from beam_exactly_once.errors import (
    ConfigurationError,
    SinkAhead,
    SinkBehind,
    StagedOutputMissing,
)
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.delta_streams import NUMBERS, DeltaStream, around_commit
from support.ending import ends_with, kill
from support.stream_under_test import number_of

pytestmark = pytest.mark.runs_on("DirectRunner")


@pytest.fixture
def stream(tmp_path: Path) -> DeltaStream:
    return DeltaStream(str(tmp_path))


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
    """Between the look at the receipt and the commit."""
    stream.produce(0, 1, 2, 3, 4)
    around_commit(monkeypatch, before=lambda: other(stream), commit=2)
    stream.run()
    assert [number for number in stream.read_numbers() if number < 1000] == [0, 1, 2, 3, 4]
    assert 1000 in stream.read_numbers()


def test_two_sinks_of_one_stream_in_one_table(stream: DeltaStream) -> None:
    def build(records: beam.PCollection[Record]) -> None:
        for name, plus in (("first", 0), ("second", 100)):
            _ = (
                records
                | f"Rows {name}" >> beam.Map(lambda one, plus=plus: {"number": number_of(one) + plus})
                | name >> WriteToDelta(stream.output, schema=NUMBERS, name=name)
            )

    stream.produce(0, 1, 2, 3)
    for _ in range(2):
        stream.run_with(build)
    assert stream.read_numbers() == [0, 1, 2, 3, 100, 101, 102, 103]
    assert stream.table.version() == 4


def test_two_streams_in_one_table_leave_each_others_staged_files(
    stream: DeltaStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.produce(0, 1, 2, 3)
    second = f"{stream.location}-second"
    with monkeypatch.context() as patch:
        around_commit(patch, before=kill)
        patch.setattr("beam_exactly_once.sinks.delta.publisher.DeltaPublisher._name_files", lambda *_: None)
        with ends_with("killed here"):
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
        patch.setattr("beam_exactly_once.sinks.delta.publisher.DeltaPublisher.check_start", lambda *_: None)
        with pytest.raises(SinkAhead, match="holds batch 0 of attempt"):
            stream.run(lambda number: {"number": number + 100})
    with pytest.raises(SinkAhead, match="holds batch 0 of attempt"):
        stream.run()
    assert stream.read_numbers() == [0, 1]


@pytest.mark.parametrize("lost", ["two batches", "the table"])
def test_a_table_that_lost_batches(stream: DeltaStream, lost: str) -> None:
    copy = Path(stream.output).with_name("copy")
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
    with watching(after_marker), ends_with("killed here"):
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
        with ends_with("killed here"):
            stream.run()
    vacuum(stream, retention_hours)
    if retention_hours is None:
        stream.run()
        assert stream.read_numbers() == [0, 1, 2, 3]
    else:
        with pytest.raises(StagedOutputMissing):
            stream.run()
        assert stream.read_numbers() == [0, 1]


def test_the_receipt_outlives_the_commits_of_the_log(stream: DeltaStream) -> None:
    """Checkpoints of the log carry it on."""
    DeltaTable.create(stream.output, NUMBERS, configuration={"delta.logRetentionDuration": "interval 0 seconds"})
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
        with ends_with("killed here"):
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
        (
            NUMBERS,
            {"delta.setTransactionRetentionDuration": "interval 30 days"},
            "setTransactionRetentionDuration='interval 30 days': it forgets the sink's receipts",
        ),
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


def test_a_batch_waits_until_a_replaced_table_is_restored(stream: DeltaStream) -> None:
    """Replaced between the batch's marker and its commit."""

    def replace() -> None:
        other = pa.table({"number": ["a text"]})
        write_deltalake(stream.output, other, mode="overwrite", schema_mode="overwrite")

    stream.produce(0, 1, 2, 3, 4)
    with watching(StoreCalls(KillPoint("put_if_absent", "commits/", 2), replace)):
        refused(stream)
    refused(stream)
    stream.table.restore(1)
    stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3, 4]


def test_rows_of_old_types_get_into_no_table_of_new_ones(stream: DeltaStream) -> None:
    """Whose user has given the sink the new types, too: the batch that is committed was written with the old ones."""

    def replace() -> None:
        other = pa.table({"number": ["a text"]})
        write_deltalake(stream.output, other, mode="overwrite", schema_mode="overwrite")

    stream.produce(0, 1, 2, 3, 4)
    with watching(StoreCalls(KillPoint("put_if_absent", "commits/", 2), replace)):
        refused(stream)
    for _ in range(2):
        with pytest.raises(
            ConfigurationError,
            match=r"has column 'number' of type string, and batch 1, .* written with int64.*Restore it",
        ):
            stream.run(lambda record: {"number": str(record.offset)}, schema=pa.schema([("number", pa.string())]))
    assert stream.read_numbers() == ["a text"]
    stream.table.restore(1)
    stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3, 4]


def refused(stream: DeltaStream) -> None:
    with pytest.raises(ConfigurationError, match="has column 'number' of type string, and the rows have int64"):
        stream.run()
