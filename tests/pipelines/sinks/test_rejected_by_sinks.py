"""Rows that a table cannot take: in a sink of their own, with the reason, in the batch that they came with."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import (
    ExactlyOnceStream,
    ReadFromKafka,
    Record,
    WriteToDelta,
    WriteToFiles,
    WriteToKafka,
    WriteToSql,
)
from beam_exactly_once.errors import EXIT_CONFIGURATION, EXIT_DONE, ConfigurationError, UnfitRow
from beam_exactly_once.pipelines import kafka_to_delta, kafka_to_sql
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.delta_streams import DeltaStream, around_commit
from support.ending import ends_with, kill
from support.rejected_rows import markers, rejected_in
from support.sql_stream import SqlStream, at_step
from support.stream_under_test import number_of

pytestmark = pytest.mark.runs_on("DirectRunner")

UNFIT_ROW = "beam_exactly_once.errors.UnfitRow"


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqlStream:
    monkeypatch.setenv("SQLITE_URL", f"sqlite:///{tmp_path / 'orders.db'}")
    return SqlStream("SQLITE_URL", str(tmp_path / "checkpoint"))


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Where rejected rows go."""
    return tmp_path / "bad"


# -- a table of a database --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unfit", "reason", "shown"),
    [
        ({"id": "x"}, "column 'id' is BIGINT(), the value is of type str (", "{'id': 'x'}"),
        ({"id": 2**63}, "column 'id'", "{'id': 9223372036854775808}"),
        ({"id": None}, "no value for column 'id'", "{'id': None}"),
        ({"name": "x"}, "no value for column 'id'", "{'name': 'x'}"),
        ({"id": 1, "nmae": "x"}, "has 'nmae', which is not a column", "{'id': 1, 'nmae': 'x'}"),
        (7, "row of type int", "7"),
    ],
)
def test_a_row_that_does_not_fit_a_table(stream: SqlStream, bad: Path, unfit: Any, reason: str, shown: str) -> None:
    stream.create()
    stream.send_rows({"id": number} for number in range(6))
    stream.run(through=beam.Map(lambda row: unfit if row["id"] in (1, 4, 5) else row), rejected=bad)
    assert stream.ids() == [0, 2, 3]
    assert rejected_in(bad, "step", "error", "row") == [
        [("sql", UNFIT_ROW, shown)],
        [],
        [("sql", UNFIT_ROW, shown)] * 2,
    ]
    assert all(reason in found for batch in rejected_in(bad, "reason") for (found,) in batch)
    decided = markers(stream.location)
    assert [marker.records_rejected for marker in decided] == [{"sql": 1}, {}, {"sql": 2}]
    assert [(marker.rows_written.get("sql", 0), marker.rows_written.get("rejected", 0)) for marker in decided] == [
        (1, 1),
        (2, 0),
        (0, 2),
    ]


def spoilt(row: dict[str, Any]) -> dict[str, Any]:
    """Two of three fit; what they say differs from attempt to attempt."""
    number = row["id"]
    return {"id": f"not {number}" if number % 3 == 1 else number, "name": f"{random.random()}"}


@pytest.mark.parametrize(
    "at",
    [
        KillPoint("put_if_absent", "staging/rows/", 1),
        KillPoint("put_if_absent", "commits/", 1),
        KillPoint("put_if_absent", "commits/", 2),
        "lock",
        "rows",
        "commit",
    ],
    ids=str,
)
def test_killed_in_between_neither_rows_nor_rejected_ones_are_lost_or_doubled(
    stream: SqlStream, bad: Path, at: KillPoint | str
) -> None:
    stream.create("id BIGINT NOT NULL, name VARCHAR(40)")
    stream.send_rows({"id": number} for number in range(6))
    killing = watching(StoreCalls(at, kill)) if isinstance(at, KillPoint) else at_step(at, 2, kill)
    with killing, ends_with("killed here"):
        stream.run(through=beam.Map(spoilt), rejected=bad)
    stream.run(through=beam.Map(spoilt), rejected=bad)
    assert stream.ids() == [0, 2, 3, 5]
    ids = [[row.partition(", ")[0] for (row,) in batch] for batch in rejected_in(bad, "row")]
    assert ids == [["{'id': 'not 1'"], [], ["{'id': 'not 4'"]]


def arrow_of(number: int) -> pa.RecordBatch:
    """A thousand rows; of those of an odd number, the 17th and 900th have no id."""
    ids = [number * 1000 + place for place in range(1000)]
    if number % 2:
        ids[17] = ids[900] = None  # type: ignore[call-overload]
    names = [f"row {place}" for place in range(1000)]
    return pa.record_batch({"id": pa.array(ids, pa.int64()), "name": names})


def test_of_arrow_batches_only_the_rows_that_do_not_fit(stream: SqlStream, bad: Path) -> None:
    stream.create()
    stream.send_rows({"id": number} for number in range(4))
    stream.run(through=beam.Map(lambda row: arrow_of(row["id"])), rejected=bad)
    odd = {1017, 1900, 3017, 3900}
    assert stream.ids() == [number for number in range(4000) if number not in odd]
    assert rejected_in(bad, "row") == [[("{'id': None, 'name': 'row 17'}",), ("{'id': None, 'name': 'row 900'}",)]] * 2


def test_an_arrow_value_that_python_does_not_know(stream: SqlStream, bad: Path) -> None:
    stream.create("id BIGINT, day DATE")
    stream.send_rows([{"id": 1}])
    days = pa.array([20_000, 10**7, 20_001], pa.date32())
    batch = pa.record_batch({"id": [1, 2, 3], "day": days})
    stream.run(through=beam.Map(lambda row: batch), rejected=bad)
    assert stream.rows("id, day") == [(1, "2024-10-04"), (3, "2024-10-05")]
    (((reason, shown),),) = rejected_in(bad, "reason", "row")
    assert "column 'day' is of type date32[day]" in reason
    assert "29349" in shown


@pytest.mark.parametrize(
    "batch",
    [
        pa.record_batch({"id": [1], "nmae": ["x"]}),
        pa.record_batch({"name": ["x"]}),
        pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["id", "id"]),
    ],
    ids=lambda batch: "-".join(batch.schema.names),
)
def test_an_arrow_batch_of_which_no_row_could_fit_fails(stream: SqlStream, bad: Path, batch: pa.RecordBatch) -> None:
    stream.create()
    stream.send_rows([{"id": 1}])
    with pytest.raises(ConfigurationError) as caught:
        stream.run(through=beam.Map(lambda row: batch), rejected=bad)
    assert not isinstance(caught.value, UnfitRow)
    assert stream.ids() == []


def test_a_table_that_was_changed_meanwhile_is_looked_at_again(stream: SqlStream, bad: Path) -> None:
    """Within one bundle: what fitted before waits in another form than what comes after."""
    stream.create()
    stream.send_rows([{"id": 0}, {"id": 1}])

    def through(row: dict[str, Any]) -> pa.RecordBatch:
        if row["id"] == 0:
            return pa.record_batch({"id": [0]})
        stream.execute(f"ALTER TABLE {stream.table} ADD COLUMN colour TEXT DEFAULT 'none'")
        return pa.record_batch({"id": [1], "colour": ["red"]})

    stream.run(through=beam.Map(through), rejected=bad)
    assert stream.rows("id, colour") == [(0, "none"), (1, "red")]
    assert rejected_in(bad, "row") == [[]]


def test_kafka_records_that_do_not_fit_are_rejected_whole(stream: SqlStream, bad: Path) -> None:
    stream.create('topic TEXT, "offset" INTEGER, value VARCHAR(20) NOT NULL')
    headers = (("trace", b"\xfe"),)
    stream.cluster.append(
        [
            Record("orders", value=b"one", key=b"k"),
            Record("orders", value=b"\xff", key=b"k", headers=headers, timestamp_ms=5),
            Record("orders", value=None),
        ]
    )
    write = WriteToSql(stream.url, stream.table, columns=["topic", "offset", "value"], on_error="reject")
    rejected = "Rejected" >> WriteToFiles(str(bad), name="rejected")
    stream.run_with(lambda records: records | write | rejected, max_batch_offsets=None)
    assert stream.execute(f"SELECT * FROM {stream.table}") == [("orders", 0, "one")]
    found = rejected_in(bad, "topic", "offset", "timestamp_ms", "key", "value", "headers", "row")
    assert [row[:5] for row in found[0]] == [("orders", 1, 5, b"k", b"\xff"), ("orders", 2, 0, None, None)]
    assert found[0][0][5:] == ([{"key": "trace", "value": b"\xfe"}], None)


def test_equal_keys_are_the_fault_of_no_row(stream: SqlStream, bad: Path) -> None:
    stream.create("id BIGINT PRIMARY KEY, name TEXT")
    stream.send_rows([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}])
    with pytest.raises(ConfigurationError, match="several rows with one key"):
        stream.run(mode="upsert", key_columns=["id"], rejected=bad)


# -- a Delta table ----------------------------------------------------------------------------------------------------


def delta_row(number: int) -> dict[str, Any]:
    return {"number": number, "place": "" if number % 4 == 1 else "here", "amount": "much" if number == 4 else number}


@pytest.mark.parametrize("killed", ["", "before", "after"])
def test_rows_that_do_not_fit_a_delta_table(
    tmp_path: Path, bad: Path, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong type, and a text that names no folder."""
    schema = pa.schema([("number", pa.int64()), ("place", pa.string()), ("amount", pa.int32())])
    numbers = DeltaStream(str(tmp_path))
    numbers.produce(*range(6))

    def run() -> None:
        sink = WriteToDelta(numbers.output, schema=schema, partition_by=["place"], on_error="reject")
        rejected = "Rejected" >> WriteToFiles(str(bad), name="rejected")
        numbers.run_with(lambda records: records | beam.Map(lambda one: delta_row(number_of(one))) | sink | rejected)

    if killed:
        with monkeypatch.context() as patch:
            around_commit(patch, commit=2, **{killed: kill})
            with ends_with("killed here"):
                run()
    run()
    assert numbers.read_numbers() == [0, 2, 3]
    shown = [[row for (row,) in batch] for batch in rejected_in(bad, "row")]
    assert shown == [
        ["{'amount': 1, 'number': 1, 'place': ''}"],
        [],
        ["{'amount': 'much', 'number': 4, 'place': 'here'}", "{'amount': 5, 'number': 5, 'place': ''}"],
    ]
    decided = markers(numbers.location)
    assert [(marker.records_rejected.get("delta", 0), marker.rows_written.get("delta", 0)) for marker in decided] == [
        (1, 1),
        (0, 2),
        (2, 0),
    ]


# -- arguments --------------------------------------------------------------------------------------------------------


def sinks(tmp_path: Path, on_error: Any) -> list[Any]:
    return [
        lambda: WriteToSql(f"sqlite:///{tmp_path}/x.db", "x", on_error=on_error),
        lambda: WriteToDelta(str(tmp_path / "table"), on_error=on_error),
        lambda: WriteToKafka("localhost:9092", "x", on_error=on_error),
    ]


def test_an_unknown_word_is_refused_where_it_is_given(tmp_path: Path) -> None:
    for make in sinks(tmp_path, "skip"):
        with pytest.raises(ConfigurationError, match="on_error='skip' is not known; use 'fail' or 'reject'"):
            make()


def test_a_direct_sink_rejects_nothing(tmp_path: Path) -> None:
    """What it writes is final before another sink could have what it rejects."""
    with pytest.raises(ConfigurationError, match='on_error="reject" needs another sink'):
        WriteToSql(f"sqlite:///{tmp_path}/x.db", "x", direct=True, on_error="reject")
    with pytest.raises(ConfigurationError, match="direct=True is the only one"):
        WriteToKafka("localhost:9092", "x", direct=True, on_error="reject")


def test_rejected_rows_that_nothing_consumes_are_refused(tmp_path: Path) -> None:
    cluster = MemoryKafka({"orders": 1})
    for name, make in zip(("sql", "delta", "kafka"), sinks(tmp_path, "reject"), strict=True):
        with (
            cluster.serving(),
            pytest.raises(ConfigurationError, match=f"step '{name}' rejects records, and nothing"),
            ExactlyOnceStream(str(tmp_path / "checkpoint")) as stream,
        ):
            _ = stream | ReadFromKafka("memory:9092", ["orders"]) | make()


# -- ready-made pipelines ---------------------------------------------------------------------------------------------


def test_kafka_to_sql(stream: SqlStream, bad: Path) -> None:
    """What cannot be decoded and what does not fit go to one place."""
    stream.create()
    stream.cluster.append(
        Record("orders", value=value) for value in (b'{"id": 1}', b"{", b"[1]", b'{"id": "x"}', b'{"id": 2}')
    )
    flags = ["--bootstrap-servers=memory:9092", "--topics=orders", f"--checkpoint-location={stream.location}"]
    flags += ["--output-url=${env:SQLITE_URL}", f"--output-table={stream.table}"]
    with stream.cluster.serving():
        assert kafka_to_sql.main(flags) == EXIT_CONFIGURATION
        assert stream.ids() == []
        assert kafka_to_sql.main([*flags, f"--rejected-location={bad}"]) == EXIT_DONE
    assert stream.ids() == [1, 2]
    assert rejected_in(bad, "step", "offset", "value", "row") == [
        [("decode_records", 1, b"{", None), ("decode_records", 2, b"[1]", None), ("sql", None, None, "{'id': 'x'}")]
    ]


def test_kafka_to_sql_of_records(stream: SqlStream, bad: Path) -> None:
    stream.create("value TEXT")
    stream.cluster.append(Record("orders", value=value) for value in (b"a", b"\xff", b"b"))
    flags = ["--bootstrap-servers=memory:9092", "--topics=orders", f"--checkpoint-location={stream.location}"]
    flags += [
        "--output-url=${env:SQLITE_URL}",
        f"--output-table={stream.table}",
        "--decoder=none",
        "--output-columns=value",
    ]
    with stream.cluster.serving():
        assert kafka_to_sql.main(flags) == EXIT_CONFIGURATION
        assert kafka_to_sql.main([*flags, f"--rejected-location={bad}"]) == EXIT_DONE
    assert stream.execute(f"SELECT value FROM {stream.table} ORDER BY value") == [("a",), ("b",)]
    assert rejected_in(bad, "step", "offset", "value") == [[("sql", 1, b"\xff")]]


def test_kafka_to_delta_takes_every_record(tmp_path: Path, bad: Path) -> None:
    """Its columns are those of records: nothing is rejected, and the output is there all the same."""
    cluster = MemoryKafka({"orders": 1})
    cluster.append(Record("orders", value=value) for value in (b"\xff", None))
    flags = ["--bootstrap-servers=memory:9092", "--topics=orders", f"--checkpoint-location={tmp_path}/checkpoint"]
    with cluster.serving():
        assert (
            kafka_to_delta.main([*flags, f"--output-location={tmp_path}/table", f"--rejected-location={bad}"])
            == EXIT_DONE
        )
    assert rejected_in(bad, "row") == [[]]
    assert markers(f"{tmp_path}/checkpoint")[0].rows_written["delta"] == 2
