"""Rows that a database refuses after the commit: the error says so, an operator lets them pass, and the rest is written once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once.errors import RowsRefused
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.command_line import run
from support.ending import ends_with, kill
from support.sql_stream import STEPS, SqlStream, at_step

pytestmark = pytest.mark.runs_on("DirectRunner")

CANARY = "4111-1111"
CHECKED = "id BIGINT PRIMARY KEY, name VARCHAR(20) CONSTRAINT no_cards CHECK (name NOT LIKE '4111%')"
ROWS: list[dict[str, Any]] = [{"id": 0}, {"id": 1}, {"id": 2, "name": CANARY}, {"id": 3, "name": "x"}, {"id": 4}]


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqlStream:
    monkeypatch.setenv("SQLITE_URL", f"sqlite:///{tmp_path / 'orders.db'}")
    stream = SqlStream("SQLITE_URL", str(tmp_path / "checkpoint"))
    stream.create(CHECKED)
    stream.send_rows(ROWS)
    return stream


def let_pass(stream: SqlStream, batch_id: int = 1) -> None:
    assert run("resolve", stream.location, "--batch", batch_id, "--reject", "--yes").exit_code == 0


def rejected(stream: SqlStream, batch_id: int = 1, shard: int = 0) -> list[tuple[int, Any]]:
    """Numbers and rows."""
    checkpoint = stream.checkpoint()
    return [(row["number"], row["row"]) for body in checkpoint.rejected("sql", batch_id, shard) for row in body["rows"]]


def test_the_error_names_sink_batch_constraint_and_the_way_out_and_no_value(stream: SqlStream) -> None:
    for _ in range(2):
        with pytest.raises(RowsRefused) as raised:
            stream.run()
        message = str(raised.value)
        assert "sink 'sql'" in message
        assert "batch 1" in message
        assert "CHECK constraint failed: no_cards" in message
        assert "Of the 2 rows" in message
        assert "1 are refused" in message
        assert f"`beam-exactly-once resolve {stream.location} --batch 1 --reject`" in message
        assert CANARY not in message
    assert stream.ids() == [0, 1]


def test_what_the_operator_let_pass_is_left_out_and_on_the_record(stream: SqlStream) -> None:
    with pytest.raises(RowsRefused):
        stream.run()
    let_pass(stream)
    stream.run()
    assert stream.ids() == [0, 1, 3, 4]
    assert rejected(stream) == [(0, {"id": 2, "name": CANARY})]
    verified = run("verify", stream.location)
    assert verified.exit_code == 0, verified.output
    assert "1 rows of batch 1 were refused by sink 'sql'" in " ".join(verified.output.split())
    assert "not of this library" not in verified.output
    stream.send_rows([{"id": 5, "name": CANARY}])
    with pytest.raises(RowsRefused):  # it holds for one batch alone
        stream.run()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("occurrence", [1, 2])
def test_killed_on_the_way_it_decides_once(stream: SqlStream, step: str, occurrence: int) -> None:
    with pytest.raises(RowsRefused):
        stream.run()
    let_pass(stream)
    with at_step(step, occurrence, kill), ends_with("killed here"):
        stream.run()
    stream.run()
    assert stream.ids() == [0, 1, 3, 4]
    assert rejected(stream) == [(0, {"id": 2, "name": CANARY})]


def test_what_was_rejected_stays_so_when_the_table_would_take_it(stream: SqlStream) -> None:
    """Decided, and then the driver died before it wrote: a row is in the table or in rejected/, never in both."""
    with pytest.raises(RowsRefused):
        stream.run()
    let_pass(stream)
    with (
        watching(StoreCalls(KillPoint("put_if_absent", "rejected/", 1), kill)),
        ends_with("killed here"),
    ):
        stream.run()
    assert stream.ids() == [0, 1]
    stream.execute("CREATE TABLE wide (id BIGINT PRIMARY KEY, name VARCHAR(20))")
    stream.execute(f"INSERT INTO wide SELECT * FROM {stream.table}")
    stream.execute(f"DROP TABLE {stream.table}")
    stream.execute(f"ALTER TABLE wide RENAME TO {stream.table}")
    stream.run()
    assert stream.ids() == [0, 1, 3, 4]
    assert [number for number, _ in rejected(stream)] == [0]


def test_every_row_of_a_batch_may_be_refused(stream: SqlStream) -> None:
    stream.cluster = type(stream.cluster)({"orders": 1})
    stream.send_rows([{"id": number, "name": f"{CANARY}{number}"} for number in range(2)])
    with pytest.raises(RowsRefused):
        stream.run()
    let_pass(stream, 0)
    stream.run()
    assert stream.ids() == []
    assert [number for number, _ in rejected(stream, 0)] == [0, 1]


@pytest.mark.parametrize("newest_by", ["version", None])
def test_of_upserts_the_newest_that_is_taken_is_written(stream: SqlStream, newest_by: str | None) -> None:
    """And a row that is equal to one before it is no row of its own."""
    stream.table = "versions"
    stream.create("id BIGINT PRIMARY KEY, version INTEGER CHECK (version <> 9)")
    stream.cluster = type(stream.cluster)({"orders": 1})
    stream.send_rows([{"id": 1, "version": 9}, {"id": 1 if newest_by else 2, "version": 3}])
    options: dict[str, Any] = {"mode": "upsert", "key_columns": ["id"], "newest_by": newest_by}
    with pytest.raises(RowsRefused):
        stream.run(**options)
    let_pass(stream, 0)
    stream.run(**options)
    assert stream.rows("id, version") == [(1 if newest_by else 2, 3)]


@pytest.mark.parametrize(
    ("batch_id", "why"), [(0, "not the newest committed batch"), (7, "not the newest committed batch")]
)
def test_only_the_batch_that_waits_can_be_let_pass(stream: SqlStream, batch_id: int, why: str) -> None:
    with pytest.raises(RowsRefused):
        stream.run()
    result = run("resolve", stream.location, "--batch", batch_id, "--reject", "--yes")
    assert result.exit_code == 2
    assert why in " ".join(result.output.split())


def test_a_published_batch_has_nothing_to_let_pass(stream: SqlStream) -> None:
    stream.cluster = type(stream.cluster)({"orders": 1})
    stream.send_rows([{"id": 1}])
    stream.run()
    result = run("resolve", stream.location, "--batch", 0, "--reject", "--yes")
    assert result.exit_code == 2
    assert "is published" in result.output


def test_who_does_not_confirm_changes_nothing(stream: SqlStream) -> None:
    with pytest.raises(RowsRefused):
        stream.run()
    before = {entry.key for entry in stream.store().list()}
    assert run("resolve", stream.location, "--batch", 1, "--reject", answer="n\n").exit_code == 1
    assert {entry.key for entry in stream.store().list()} == before


def test_one_thing_is_done_with_a_batch(stream: SqlStream) -> None:
    result = run("resolve", stream.location, "--batch", 1, "--reject", "--skip", "--yes")
    assert result.exit_code == 2
    assert "either --skip, --abandon or --reject" in " ".join(result.output.split())
