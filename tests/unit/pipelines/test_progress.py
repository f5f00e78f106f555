"""What a stream tells about its batches, and that no listener can harm it."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from beam_exactly_once import BatchProgress, JsonLinesListener, ProgressListener, TopicPartition
from beam_exactly_once.checkpoint.source_times import END_OF_TIME_MS, TimeReached
from beam_exactly_once.errors import OutputNotWritable
from beam_exactly_once.pipelines.progress import fan_out
from beam_exactly_once.pipelines.progress.bar import LiveBar, live_bar
from beam_exactly_once.pipelines.progress.log_lines import log_batch

BATCH = BatchProgress(
    stream_id="5f0c",
    batch_id=42,
    outcome="committed",
    writer_epoch=7,
    records_read=3000,
    bytes_read=450_000,
    rows_written={"lake": 2900, "rejected": 100},
    records_rejected={},
    offsets_lost={"kafka": 0},
    lag_offsets={"kafka": {"orders": {0: 1200, 1: 34}}},
    plan_s=0.25,
    run_s=1.0,
    commit_s=0.5,
    publish_s=0.25,
    finished_at_ms=1_714_564_800_000,
    rows_late={},
    event_time={
        "audit": TimeReached(None, None, None, 0),
        "kafka": TimeReached(1_714_564_700_000, TopicPartition("orders", 1), 1_714_564_790_000, 3),
    },
)

BATCH_JSON = {
    "stream_id": "5f0c",
    "batch_id": 42,
    "outcome": "committed",
    "writer_epoch": 7,
    "records_read": 3000,
    "bytes_read": 450_000,
    "records_rejected": {},
    "rows_written": {"lake": 2900, "rejected": 100},
    "offsets_lost": {"kafka": 0},
    "lag_offsets": {"kafka": {"orders": {"0": 1200, "1": 34}}},
    "plan_s": 0.25,
    "run_s": 1.0,
    "commit_s": 0.5,
    "publish_s": 0.25,
    "finished_at_ms": 1_714_564_800_000,
    "rows_late": {},
    "event_time": {
        "audit": {"watermark_ms": None, "held_by": None, "held_since_ms": None, "future_records": 0},
        "kafka": {
            "watermark_ms": 1_714_564_700_000,
            "held_by": {"topic": "orders", "partition": 1},
            "held_since_ms": 1_714_564_790_000,
            "future_records": 3,
        },
    },
    "attempts_lost": 0,
    "records_per_s": 1500.0,
}


def test_the_rate_is_over_all_phases() -> None:
    assert BATCH.total_s == 2.0
    assert BATCH.records_per_s == 1500.0


def test_a_batch_that_took_no_time_has_no_rate() -> None:
    assert replace(BATCH, plan_s=0.0, run_s=0.0, commit_s=0.0, publish_s=0.0).records_per_s == 0.0


def test_the_json_names_every_attribute() -> None:
    assert BATCH.to_json() == BATCH_JSON


# JSON lines


def lines(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_batch_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    listener = JsonLinesListener(str(path))
    assert path.read_text() == ""
    listener(BATCH)
    assert lines(path) == [BATCH_JSON]
    listener(replace(BATCH, batch_id=43))
    assert lines(path) == [BATCH_JSON, {**BATCH_JSON, "batch_id": 43}]


def test_a_restarted_stream_appends(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    JsonLinesListener(str(path))(BATCH)
    JsonLinesListener(str(path))(replace(BATCH, batch_id=43))
    assert lines(path) == [BATCH_JSON, {**BATCH_JSON, "batch_id": 43}]


def test_a_file_that_was_rotated_away_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    listener = JsonLinesListener(str(path))
    listener(BATCH)
    path.rename(tmp_path / "progress.jsonl.1")
    listener(replace(BATCH, batch_id=43))
    assert lines(path) == [{**BATCH_JSON, "batch_id": 43}]


def test_a_dash_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    listener = JsonLinesListener("-")
    listener(BATCH)
    listener(BATCH)
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == [BATCH_JSON, BATCH_JSON]
    assert captured.err == ""


def test_a_file_that_cannot_be_written_is_refused_before_the_stream_starts(tmp_path: Path) -> None:
    missing = tmp_path / "no such folder" / "progress.jsonl"
    with pytest.raises(OutputNotWritable) as raised:
        JsonLinesListener(str(missing))
    assert str(missing) in str(raised.value)
    assert os.strerror(2) in str(raised.value)
    with pytest.raises(OutputNotWritable):
        JsonLinesListener(str(tmp_path))


# Fan-out


class Broken:
    """Fails at every batch."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def __call__(self, progress: BatchProgress) -> None:
        self.told.append(progress.batch_id)
        raise OSError("no space left")

    def __repr__(self) -> str:
        return "<broken>"


def test_all_listeners_hear_of_every_batch_in_order() -> None:
    heard: list[tuple[str, int]] = []

    def listener(name: str) -> ProgressListener:
        return lambda progress: heard.append((name, progress.batch_id))

    tell = fan_out(iter([listener("first"), listener("second")]))
    tell(BATCH)
    tell(replace(BATCH, batch_id=43))
    assert heard == [("first", 42), ("second", 42), ("first", 43), ("second", 43)]


def test_a_listener_that_raises_is_logged_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    broken, heard = Broken(), list[int]()
    tell = fan_out([broken, lambda progress: heard.append(progress.batch_id)])
    with caplog.at_level(logging.WARNING):
        for batch_id in (42, 43, 44):
            tell(replace(BATCH, batch_id=batch_id))
    assert broken.told == [42, 43, 44]
    assert heard == [42, 43, 44]
    assert [record.getMessage() for record in caplog.records] == [
        "the progress listener <broken> failed at batch 42; the stream goes on, and its later failures are not logged"
    ]
    assert "no space left" in caplog.text


def test_each_failing_listener_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    tell = fan_out([Broken(), Broken()])
    with caplog.at_level(logging.WARNING):
        tell(BATCH)
        tell(BATCH)
    assert len(caplog.records) == 2


def test_a_user_who_stops_the_program_is_heard() -> None:
    def stop(progress: BatchProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fan_out([stop])(BATCH)


def test_no_listeners_are_fine() -> None:
    fan_out([])(BATCH)


# The live bar


def terminal(columns: int = 200) -> tuple[Console, io.StringIO]:
    drawn = io.StringIO()
    return Console(file=drawn, force_terminal=True, color_system=None, width=columns, _environ={}), drawn


def drawn_lines(drawn: io.StringIO) -> list[str]:
    """What was drawn, one frame a line, without the codes that move the cursor."""
    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]|\r", "\n", drawn.getvalue())
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_the_bar_waits_and_then_tells_of_each_batch_and_of_the_whole() -> None:
    console, drawn = terminal()
    with live_bar(console) as bar:
        assert drawn_lines(drawn) == ["waiting for the first batch"]
        bar(BATCH)
        bar(replace(BATCH, batch_id=43, rows_written={}, lag_offsets={}))
    assert drawn_lines(drawn)[1:3] == [
        "batch 42  3,000 rows  1,500 records/s  3,000 records so far  lag 1,234  "
        "plan 0.25 s run 1.00 s commit 0.50 s publish 0.25 s",
        "batch 43  0 rows  1,500 records/s  6,000 records so far  lag 0  "
        "plan 0.25 s run 1.00 s commit 0.50 s publish 0.25 s",
    ]


def test_the_bar_shows_what_should_worry() -> None:
    console, drawn = terminal()
    with live_bar(console) as bar:
        bar(replace(BATCH, outcome="skipped", offsets_lost={"kafka": 12_345}))
    assert "batch 42  skipped  3,000 rows" in drawn.getvalue()
    assert "LOST 12,345 offsets" in drawn.getvalue()


def test_the_bar_shows_how_far_the_slowest_source_has_come() -> None:
    console, drawn = terminal()
    kafka = BATCH.event_time["kafka"]
    slower = replace(kafka, watermark_ms=1_714_560_000_000)
    with live_bar(console) as bar:
        bar(replace(BATCH, rows_late={"minutes": 2, "hours": 1}, event_time={"audit": kafka, "kafka": slower}))
        bar(replace(BATCH, event_time={"kafka": replace(kafka, watermark_ms=END_OF_TIME_MS)}))
    first, second = drawn_lines(drawn)[1:3]
    assert "lag 1,234  3 late  time 2024-05-01 10:40:00 UTC  plan" in first
    assert "lag 1,234  time has ended  plan" in second


def test_the_log_shows_what_came_late_and_what_holds_time_back(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_batch(replace(BATCH, rows_late={"minutes": 2, "hours": 0}))
        log_batch(replace(BATCH, event_time={"kafka": TimeReached(END_OF_TIME_MS, None, None, 0)}))
    assert [record.getMessage().partition("in 2.0 s")[2] for record in caplog.records] == [
        "; 2 rows late for minutes; audit has no watermark yet; the watermark of kafka is 2024-05-01 11:58:20 UTC, held back by "
        "orders-1 since 2024-05-01 11:59:50 UTC, 3 records from the future",
        "; the time of kafka has ended",
    ]


def test_a_narrow_terminal_gets_one_shortened_line() -> None:
    console, drawn = terminal(columns=30)
    with live_bar(console) as bar:
        bar(BATCH)
    assert drawn_lines(drawn)[1] == "batch 42  3,000 rows  1,500 r…"


def test_a_closed_bar_gives_the_terminal_back() -> None:
    console, drawn = terminal()
    out, err = sys.stdout, sys.stderr
    bar = LiveBar(console)
    bar.close()
    bar.close()
    assert (sys.stdout, sys.stderr) == (out, err)
    assert drawn.getvalue().endswith("\x1b[?25h")  # the cursor is visible again


def test_a_stream_that_fails_gives_the_terminal_back() -> None:
    console, _ = terminal()
    err = sys.stderr
    with pytest.raises(RuntimeError, match="bundle failed"), live_bar(console):
        raise RuntimeError("bundle failed")
    assert sys.stderr is err


def test_what_others_print_to_standard_output_stays_whole(capsys: pytest.CaptureFixture[str]) -> None:
    console, _ = terminal(columns=30)
    with live_bar(console) as bar:
        tell = fan_out([bar, JsonLinesListener("-")])
        tell(BATCH)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [BATCH_JSON]


def test_lines_of_the_log_stand_above_the_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler holds the terminal from before; it has it again afterwards."""
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    elsewhere = logging.StreamHandler(io.StringIO())
    handlers = [logging.StreamHandler(terminal), elsewhere]
    for handler in handlers:
        logging.getLogger().addHandler(handler)
    try:
        with live_bar(Console(file=terminal, force_terminal=True, width=80)) as bar:
            bar(BATCH)
            logging.getLogger("orders").warning("slow batch")
            bar(BATCH)
    finally:
        for handler in handlers:
            logging.getLogger().removeHandler(handler)
    line, _, rest = terminal.getvalue().partition("slow batch\n")
    assert line.endswith("\x1b[2K")  # the live line was taken away before
    assert re.match(r"(\x1b\[\S+)*batch 42", rest)  # and stands below
    assert [handler.stream for handler in handlers] == [terminal, elsewhere.stream]
