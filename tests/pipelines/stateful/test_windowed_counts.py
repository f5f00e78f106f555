"""The ready-made pipeline that counts by windows of event time."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest

from beam_exactly_once import Record
from beam_exactly_once.errors import EXIT_CONFIGURATION, EXIT_DONE
from beam_exactly_once.pipelines.windowed_counts import main
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.ending import kill

pytestmark = pytest.mark.runs_on("DirectRunner")

EVENT_TIME = '{"by": "at_ms", "out_of_order_s": 0}'
BY_PAGE = ("--count-event-time-by=at_ms", "--count-key-columns=page", "--count-window=fixed=60")


@pytest.fixture
def cluster() -> MemoryKafka:
    return MemoryKafka({"clicks": 1})


def click(cluster: MemoryKafka, *clicks: tuple[str, int]) -> None:
    values = (orjson.dumps({"page": page, "at_ms": 1000 * at_s}) for page, at_s in clicks)
    cluster.append(Record("clicks", value=value) for value in values)


def flags(tmp_path: Path, *more: str) -> list[str]:
    read = ("--bootstrap-servers=memory:9092", "--topics=clicks", f"--event-time={EVENT_TIME}")
    return [*read, f"--checkpoint-location={tmp_path}/checkpoint", *more]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for file in sorted(folder.glob("*.json")) for line in file.read_bytes().splitlines()]


def counted(found: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((row["page"], row["window_start"][11:19], row["window_end"][11:19], row["count"]) for row in found)


def test_each_minute_is_written_once_and_late_clicks_beside(cluster: MemoryKafka, tmp_path: Path) -> None:
    """Also where the start that closes it is killed."""
    files = (f"--output-location={tmp_path}/out", "--output-format=json")
    late = (f"--late-location={tmp_path}/late", "--late-format=json")
    run = flags(tmp_path, *BY_PAGE, *files, *late)
    with cluster.serving():
        click(cluster, ("a", 1), ("b", 59), ("a", 30))
        assert main(run) == EXIT_DONE
        click(cluster, ("a", 61), ("b", 10), ("a", 125))
        with watching(StoreCalls(KillPoint.parse("put_if_absent:commits/:2"), kill)):
            assert main(run) != EXIT_DONE
        assert main(run) == EXIT_DONE
        click(cluster, ("b", 20))
        assert main(run) == EXIT_DONE
    assert counted(rows(tmp_path / "out")) == [
        ("a", "00:00:00", "00:01:00", 2),
        ("a", "00:01:00", "00:02:00", 1),
        ("b", "00:00:00", "00:01:00", 2),
    ]
    assert rows(tmp_path / "late") == [{"page": "b", "at_ms": 20_000}]


def test_a_table_has_what_was_counted_so_far(cluster: MemoryKafka, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "clicks.db") as database:
        columns = "page TEXT, window_start TIMESTAMP, window_end TIMESTAMP, count BIGINT"
        database.execute(f"CREATE TABLE clicks ({columns}, PRIMARY KEY (page, window_start))")
    sliding = '--count-window={"sliding": {"size_s": 120, "period_s": 60}}'
    to_table = (f"--output-url=sqlite:///{tmp_path}/clicks.db", "--output-table=clicks")
    run = flags(tmp_path, *BY_PAGE[:2], sliding, *to_table)
    with cluster.serving():
        for clicks in ([("a", 121)], [("a", 170), ("b", 130)]):
            click(cluster, *clicks)
            assert main(run) == EXIT_DONE
    with sqlite3.connect(tmp_path / "clicks.db") as database:
        found = database.execute("SELECT page, window_start, count FROM clicks ORDER BY 1, 2").fetchall()
    assert [(page, start[11:19], count) for page, start, count in found] == [
        ("a", "00:01:00", 2),
        ("a", "00:02:00", 2),
        ("b", "00:01:00", 1),
        ("b", "00:02:00", 1),
    ]


def test_each_window_is_appended_to_a_delta_table_once(cluster: MemoryKafka, tmp_path: Path) -> None:
    """Also where the start that drains the stream is killed behind its commit."""
    pytest.importorskip("deltalake")
    to_table = (f"--output-location={tmp_path}/table", "--output-format=delta", "--output-partition-by=page")
    run = flags(tmp_path, *BY_PAGE, *to_table)
    drain = [*run, '--trigger={"available_now": {"drain": true}}']
    with cluster.serving():
        click(cluster, ("a", 1), ("b", 59), ("a", 61))
        assert main(run) == EXIT_DONE
        with watching(StoreCalls(KillPoint.parse("put_if_absent:commits/:1"), kill)):
            assert main(drain) != EXIT_DONE
        assert main(drain) == EXIT_DONE
    assert delta_rows(tmp_path / "table") == [("a", 0, 60, 1), ("a", 60, 120, 1), ("b", 0, 60, 1)]


def delta_rows(table: Path) -> list[tuple[Any, ...]]:
    from deltalake import DeltaTable

    found = DeltaTable(str(table)).to_pyarrow_table().to_pylist()
    bounds = ("window_start", "window_end")
    return sorted((row["page"], *(int(row[one].timestamp()) for one in bounds), row["count"]) for row in found)


def test_a_record_without_a_key_column_is_named(
    cluster: MemoryKafka, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.append([Record("clicks", value=b'{"at_ms": 5}')])
    with cluster.serving():
        assert main(flags(tmp_path, *BY_PAGE, f"--output-location={tmp_path}/out")) != EXIT_DONE
    assert "no field 'page', which --count-key-columns names" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (BY_PAGE, "say where the counts go: either --output-location, or --output-url and --output-table."),
        ((*BY_PAGE, "--output-location=x", "--output-url=sqlite:///x.db"), "Both are given."),
        ((*BY_PAGE, "--output-url=sqlite:///x.db"), "--output-table must be given"),
        ((*BY_PAGE, "--output-location=x", "--output-table=x"), "--output-table does not go with --output-location"),
        (
            (*BY_PAGE, "--output-location=x", "--output-format=delta", "--output-csv-delimiter=;"),
            "--output-csv-delimiter does not go with --output-format delta",
        ),
        ((*BY_PAGE, "--output-location=x", "--late-format=json"), "--late-location must be given"),
        ((*BY_PAGE[:2], "--count-window=60", "--output-location=x"), "--count-window"),
        (("--count-window=fixed=60", "--output-location=x"), "--count-event-time-by"),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], complaint: str
) -> None:
    assert code_of(flags(tmp_path, *more)) == EXIT_CONFIGURATION
    assert complaint in capsys.readouterr().err


def code_of(arguments: list[str]) -> int | str | None:
    """Also where the parser of flags ends the process."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code


def test_the_time_of_records_must_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [one for one in flags(tmp_path, *BY_PAGE, "--output-location=x") if not one.startswith("--event-time")]
    assert main(given) == EXIT_CONFIGURATION
    assert "--event-time must be given" in capsys.readouterr().err
