"""``status``: what a person and a script see of where a stream stands."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from beam_exactly_once.checkpoint.layout import commits_key
from beam_exactly_once.checkpoint.source_times import END_OF_TIME_MS, PartitionTimes, SourceTimes
from beam_exactly_once.cli import commands
from beam_exactly_once.cli.tables import show_operators
from beam_exactly_once.errors import KafkaUnavailable
from beam_exactly_once.kafka import KafkaSettings, Record, override_logs
from beam_exactly_once.logs import Log
from beam_exactly_once.state.upkeep.looking import OperatorSummary
from beam_exactly_once.testing import MemoryKafka
from support.checkpoints import NOW
from support.command_line import kafka_holding, run, shown
from support.hand_made_stream import P0, P1, HandMadeStream


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HandMadeStream:
    made = HandMadeStream(tmp_path)
    monkeypatch.setattr(commands, "_CLOCK", made.clock)
    return made


def test_status_for_people(stream: HandMadeStream) -> None:
    stream.run(0, 1)
    stream.clock.seconds += 60 * 45
    stream.claim()
    stream.plan(2)
    stream.clock.seconds += 90
    assert (
        shown("status", stream.location)
        == f"""\
Stream {stream.checkpoint.stream_id} at {stream.location}
created     2026-01-01 00:00:00 UTC (46 min ago)
batches     2 decided, batch 2 in flight
newest      batch 1 committed 46 min ago: 15 records read, 15 rows to files
writer      epoch 2, ann@host pid 7, since 2026-01-01 00:45:02 UTC (91 s ago)
sink files  files, {stream.output}

Where it stands
source  partition  next offset
──────────────────────────────
kafka   orders-0            20
kafka   orders-1            10

Newest batches
batch  state      offsets  records  rows to files  epoch  planned      took
───────────────────────────────────────────────────────────────────────────
2      planned         15                                 91 s ago
1      committed       15       15             15      1  46 min ago  1.0 s
0      committed       15       15             15      1  46 min ago  1.0 s"""
    )


def test_status_as_json(stream: HandMadeStream) -> None:
    stream.run(0, 1)
    stream.plan(2)
    with kafka_holding(p0=(0, 31), p1=(0, 10)).serving():
        result = run("status", stream.location, "--json", "--batches", 1, "--bootstrap-servers", "kafka:9092")
    newest = {
        "batch_id": 1,
        "state": "committed",
        "planned_at_ms": NOW + 1000,
        "planned_offsets": 15,
        "committed_at_ms": NOW + 2000,
        "writer_epoch": 1,
        "records_read": 15,
        "bytes_read": 1500,
        "rows_written": {"files": 15},
        "records_rejected": {},
        "offsets_lost": {"kafka": 0},
        "event_time": {},
    }
    assert orjson.loads(result.stdout) == {
        "location": str(stream.location),
        "stream_id": "0000000000000000",
        "created_at_ms": NOW,
        "writer": {"writer_epoch": 1, "owner": "ann@host pid 7", "claimed_at_ms": NOW},
        "batches": {
            "decided": 2,
            "planned": 3,
            "in_flight": [
                {
                    "batch_id": 2,
                    "state": "planned",
                    "planned_at_ms": NOW + 2000,
                    "planned_offsets": 15,
                    "committed_at_ms": None,
                    "writer_epoch": None,
                    "records_read": None,
                    "bytes_read": None,
                    "rows_written": {},
                    "records_rejected": {},
                    "offsets_lost": {},
                    "event_time": {},
                }
            ],
            "starts_since_planned": 0,
        },
        "newest": newest,
        "recent": [newest],
        "sources": {
            "kafka": [
                {
                    "topic": "orders",
                    "partition": 0,
                    "next_offset": 20,
                    "earliest": 0,
                    "latest": 31,
                    "lag_offsets": 11,
                    "offsets_lost": 0,
                },
                {
                    "topic": "orders",
                    "partition": 1,
                    "next_offset": 10,
                    "earliest": 0,
                    "latest": 10,
                    "lag_offsets": 0,
                    "offsets_lost": 0,
                },
            ]
        },
        "lag_offsets": {"kafka": {"orders": {"0": 11, "1": 0}}},
        "sinks": {"files": {"kind": "files", "location": str(stream.output)}},
        "operators": [],
    }
    assert result.exit_code == 0


def test_status_of_a_stream_that_has_not_decided_anything(stream: HandMadeStream) -> None:
    assert "none decided yet" in shown("status", stream.location)
    assert "kafka   orders-0             0" in shown("status", stream.location)
    stream.plan(0)
    assert "0 decided, batch 0 in flight" in shown("status", stream.location)
    found = orjson.loads(run("status", stream.location, "--json").stdout)
    assert (found["newest"], found["recent"], found["lag_offsets"]) == (None, [], None)


def test_status_shows_that_a_batch_is_tried_again_and_again(stream: HandMadeStream) -> None:
    stream.run(0)
    stream.plan(1)
    assert "batches     1 decided, batch 1 in flight\n" in shown("status", stream.location)
    stream.claim()
    assert "batch 1 in flight (started 1 more time since)\n" in shown("status", stream.location)
    stream.claim()
    assert "batch 1 in flight (started 2 more times since)\n" in shown("status", stream.location)
    batches = orjson.loads(run("status", stream.location, "--json").stdout)["batches"]
    assert batches["starts_since_planned"] == 2


def test_status_shows_what_kafka_has_lost(stream: HandMadeStream) -> None:
    stream.run(0)
    with kafka_holding(p0=(14, 20), p1=(0, 3)).serving():
        text = shown("status", stream.location, "--bootstrap-servers", "kafka:9092")
    assert "lag         6 offsets" in text
    assert "kafka   orders-0            10  14 to 20  6 (4 lost)" in text
    assert "kafka   orders-1             5    0 to 3  0 (2 lost)" in text


def test_status_shows_how_far_the_time_of_a_source_has_come(stream: HandMadeStream) -> None:
    marker = stream.marker(stream.plan(0, watermark_ms=NOW - 90_000, held_by=P1))
    partitions = {P0: PartitionTimes(NOW, NOW), P1: PartitionTimes(NOW - 60_000, NOW - 40_000)}
    source = replace(marker.sources["kafka"], event_time=SourceTimes(partitions, NOW - 90_000, 2))
    late = {"hours": 1, "minutes": 1_200}
    stream.publish(stream.writer.commit(replace(marker, sources={"kafka": source}, rows_late=late)))
    text = " ".join(shown("status", stream.location).split())
    assert "records rows to files late epoch" in text
    assert "committed 15 15 15 1,201 1" in text
    assert (
        "watermark 2025-12-31 23:58:30 UTC (91 s ago); held back by orders-1, of which nothing came since "
        "2025-12-31 23:59:20 UTC (41 s ago); 2 records from the future"
    ) in text
    found = orjson.loads(run("status", stream.location, "--json").stdout)
    assert found["newest"]["event_time"]["kafka"]["held_by"] == {"topic": "orders", "partition": 1}
    assert found["newest"]["rows_late"] == late


def test_status_says_that_time_has_ended(stream: HandMadeStream) -> None:
    marker = stream.marker(stream.plan(0, watermark_ms=END_OF_TIME_MS))
    source = replace(marker.sources["kafka"], event_time=SourceTimes({}, END_OF_TIME_MS, 0))
    stream.publish(stream.writer.commit(replace(marker, sources={"kafka": source})))
    assert "ended: the stream was drained, and what comes now is late" in shown("status", stream.location)


def test_what_waits_for_a_time_is_shown_with_it() -> None:
    minutes = OperatorSummary("minutes", "aggregate_by_window", "accumulator", 3, 90, 2, 2, 16, 1, NOW)
    sums = replace(minutes, name="sums", kind="stateful_combine_per_key", next_due_ms=None)
    drawn = io.StringIO()
    show_operators(7, [minutes, sums], Console(file=drawn, width=120))
    assert drawn.getvalue().splitlines()[-2:] == [
        "sums      stateful_combine_per_key  accumulator     3     90         2        1        2",
        "minutes is open, next until 2026-01-01 00:00:00 UTC",
    ]


def test_status_takes_the_broker_from_a_config_file(stream: HandMadeStream, tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_text("bootstrap.servers=kafka:9092\nsasl.password=${env:NOT_SET}\n")
    asked: list[KafkaSettings] = []

    def open_log(settings: KafkaSettings) -> Log:
        asked.append(settings)
        raise KafkaUnavailable("Kafka at kafka:9092 did not answer.")

    with override_logs(open_log):
        result = run("status", stream.location, "--client-config-file", file)
    assert asked[0].bootstrap_servers == "kafka:9092"
    assert result.exit_code == 75
    assert result.stderr == "KafkaUnavailable: Kafka at kafka:9092 did not answer.\n"
    assert "next offset" in result.stdout  # what the checkpoint says is shown nevertheless


def test_status_of_many_partitions_shows_those_that_need_a_look(stream: HandMadeStream) -> None:
    offsets = {str(partition): 0 for partition in range(200)}
    stream.change("sources/kafka/definition.json", first_offsets={"orders": offsets})
    kafka = MemoryKafka({"orders": 200})
    kafka.append([Record("orders", 150)] * 3)
    with kafka.serving():
        lines = shown("status", stream.location, "--bootstrap-servers", "kafka:9092").splitlines()
    assert lines[-1] == "and 150 partitions more; --json shows all"
    assert lines[lines.index("Where it stands") + 3].split() == ["kafka", "orders-150", "0", "0", "to", "3", "3"]


def test_status_shows_passed_batches(stream: HandMadeStream) -> None:
    stream.run(0)
    stream.plan(1)
    run("resolve", stream.location, "--batch", 1, "--skip", "--yes")
    assert "1      skipped         15        0              0    15      2  " in shown("status", stream.location)


def test_status_of_a_corrupt_checkpoint_says_what_is_wrong(stream: HandMadeStream) -> None:
    stream.run(0)
    stream.path(commits_key(0)).write_bytes(b"{")
    result = run("status", stream.location)
    assert result.exit_code == 5
    assert result.stderr.startswith(f"CorruptObject: {stream.location}/{commits_key(0)} is truncated")
