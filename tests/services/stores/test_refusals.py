"""What a place refuses after the commit: one clear error at each start; the batch waits, and is written once after the mend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once.errors import BeamExactlyOnceError, Retryable
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.streams.copies import Copy, numbers_of, records_of
from services.streams.topics import Topic
from support.sql_stream import SqlStream

pytestmark = pytest.mark.runs_on("DirectRunner")

NAMES = ["1", "2", "long one", "longer than that", "5"]


@pytest.fixture
def stream(sql_variable: str, tmp_path: Path) -> Iterator[SqlStream]:
    stream = SqlStream(sql_variable, str(tmp_path / "checkpoint"))
    yield stream
    stream.execute(f"DROP TABLE {stream.table}")
    stream.execute("DROP TABLE beam_exactly_once_receipts")


def spoiling(act: Callable[[], Any], decided: str = "commits/") -> Any:
    """Acts once batch 1 is committed, or planned."""
    return watching(StoreCalls(KillPoint("put_if_absent", decided, 2), act))


def refusal(run: Callable[[], None]) -> str:
    """The one error, which says that somebody must act."""
    with pytest.raises(BeamExactlyOnceError) as caught:
        run()
    assert not isinstance(caught.value, Retryable), caught.value
    return str(caught.value)


SPOILT = {
    "no table": {
        "spoil": {"": "ALTER TABLE {table} RENAME TO {table}_away"},
        "mend": {"": "ALTER TABLE {table}_away RENAME TO {table}"},
    },
    "no column": {
        "spoil": {"": "ALTER TABLE {table} RENAME COLUMN name TO title"},
        "mend": {"": "ALTER TABLE {table} RENAME COLUMN title TO name"},
    },
    "too narrow": {
        "spoil": {
            "POSTGRES_URL": "ALTER TABLE {table} ALTER COLUMN name TYPE VARCHAR(3)",
            "MARIADB_URL": "ALTER TABLE {table} MODIFY name VARCHAR(3)",
        },
        "mend": {
            "POSTGRES_URL": "ALTER TABLE {table} ALTER COLUMN name TYPE VARCHAR(20)",
            "MARIADB_URL": "ALTER TABLE {table} MODIFY name VARCHAR(20)",
        },
    },
    "another type": {
        "spoil": {
            "POSTGRES_URL": "ALTER TABLE {table} ALTER COLUMN name TYPE INTEGER USING name::integer",
            "MARIADB_URL": "ALTER TABLE {table} MODIFY name INTEGER",
        },
        "mend": {
            "POSTGRES_URL": "ALTER TABLE {table} ALTER COLUMN name TYPE VARCHAR(20)",
            "MARIADB_URL": "ALTER TABLE {table} MODIFY name VARCHAR(20)",
        },
    },
}


@pytest.mark.parametrize("decided", ["offsets/", "commits/"])
@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_table_that_changes(stream: SqlStream, sql_variable: str, spoilt: str, decided: str) -> None:
    """Its owner spoils it when a batch is planned, or committed, and mends it later."""

    def alter(way: str) -> None:
        statements = SPOILT[spoilt][way]
        stream.execute(statements.get(sql_variable, statements.get("", "")).format(table=stream.table))

    stream.create()
    stream.send_rows({"id": number, "name": name} for number, name in enumerate(NAMES))
    with spoiling(lambda: alter("spoil"), decided):
        first = refusal(stream.run)
    second = refusal(stream.run)
    print(first, second, sep="\n")
    assert stream.table in first
    assert stream.table in second
    alter("mend")
    stream.run()
    stream.run()
    assert stream.rows() == list(enumerate(NAMES))


def test_a_topic_that_is_deleted(copy: Copy, output: Topic) -> None:
    """What it held is gone, and nothing else: the batch comes into the one that is recreated."""
    # A topic is doubted for 5 s before it is said to be missing.
    copy = Copy(copy.bootstrap_servers, copy.topic, copy.checkpoint, {"timeout_s": 6.0})
    with spoiling(output.delete, "offsets/"), pytest.raises(BeamExactlyOnceError) as first:
        copy.run(12)  # a producer waits for it, and does not know why
    assert "They are written at the next start" in str(first.value)
    assert f"has no topic {copy.topic}" in refusal(lambda: copy.run(12))
    output.make_anew()
    copy.run(12)
    copy.run(12)
    assert numbers_of(records_of(copy.bootstrap_servers, copy.topic)) == list(range(4, 12))
