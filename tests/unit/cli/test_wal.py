"""``beam-exactly-once wal``: what it shows of a log, what it deletes, and whom it lets go."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from beam_exactly_once.cli import wal_commands
from beam_exactly_once.object_store.local import LocalStore
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.new_records import NewRecord, NewRecords
from beam_exactly_once.wal.partition_writer import PartitionWriter
from beam_exactly_once.wal.readers import WalReader
from support.command_line import run, shown


@pytest.fixture
def log(tmp_path: Path) -> WalLocation:
    """A claim at offset 0, and three segments of two records."""
    location = WalLocation.create(LocalStore(tmp_path / "hooks"))
    writer = PartitionWriter(location, 0, owner="receiver-1", id_window=0)
    writer.claim()
    for first in range(0, 6, 2):
        writer.begin(NewRecords.of(NewRecord(b"%d" % number, 1000 * number) for number in (first, first + 1)))
        writer.put()
    return location


def bases(log: WalLocation) -> list[int]:
    return sorted(log.bases_below(0, 100))


def test_a_sweep_deletes_what_every_stream_has_finished_with(log: WalLocation) -> None:
    fast, slow = WalReader(log, "fast", "wal"), WalReader(log, "slow", "wal")
    for reader, offset in ((fast, 7), (slow, 4)):
        reader.hold()
        reader.finished(0, {0: offset})
    assert shown("wal", "sweep", log.store.uri) == (
        "Swept\n"
        "partition  begins at  segments deleted  id pages deleted\n"
        "────────────────────────────────────────────────────────\n"
        "        0          3                 1                 0"
    )
    assert bases(log) == [0, 3, 5], "the claim, and what begins at or above 3"

    again = orjson.loads(run("wal", "sweep", log.store.uri, "--json").stdout)
    nothing = {"partition": 0, "begins_at": 3, "segments_deleted": 0, "id_pages_deleted": 0}
    assert again == {"location": log.store.uri, "log_id": log.log_id, "partitions": [nothing]}


def test_a_stream_that_is_released_holds_nothing_and_never_starts_again(log: WalLocation) -> None:
    gone, alive = WalReader(log, "gone", "wal"), WalReader(log, "alive", "wal")
    gone.hold()
    alive.hold()
    alive.finished(3, {0: 7})
    run("wal", "sweep", log.store.uri)
    assert bases(log) == [0, 1, 3, 5], "held by the stream that is gone"

    declined = run("wal", "release", log.store.uri, "--stream", "gone", answer="n\n")
    assert declined.exit_code == 1
    released = run("wal", "release", log.store.uri, "--stream", "gone", answer="y\n")
    assert (released.exit_code, released.stdout.splitlines()[-1]) == (
        0,
        f"Nothing of {log.store.uri} is kept for stream gone any more.",
    )
    run("wal", "sweep", log.store.uri)
    assert bases(log) == [0, 5]


def test_a_stream_that_does_not_read_the_log_is_named_and_so_are_those_that_do(log: WalLocation) -> None:
    WalReader(log, "alive", "wal").hold()
    result = run("wal", "release", log.store.uri, "--stream", "alvie", "--yes")
    assert result.exit_code == 2
    assert result.stderr == (
        f"ConfigurationError: {log.store.uri} knows no stream alvie. The streams that read it: alive. Name one of them.\n"
    )


def test_a_location_without_a_log_is_said(tmp_path: Path) -> None:
    result = run("wal", "sweep", tmp_path)
    assert result.exit_code == 2
    assert "holds no write-ahead log" in result.stderr


def test_status_shows_partitions_writers_and_what_keeps_the_log(
    log: WalLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    WalReader(log, "a1", "wal").finished(7, {0: 3})
    WalReader(log, "b2", "left").hold()
    WalReader(log, "b2", "right").release()
    claim = log.header(0, 0)
    assert claim is not None
    later = datetime.fromtimestamp(claim.claimed_at_ms / 1000 + 600, timezone.utc)
    monkeypatch.setattr(wal_commands, "_CLOCK", SimpleNamespace(utc_now=lambda: later))
    lines = [re.sub(" +", " ", line) for line in shown("wal", "status", log.store.uri).splitlines()]
    assert lines[0] == f"Log {log.log_id} at {log.store.uri}"
    assert [line.strip() for line in lines if line.strip().startswith(("0 ", "a1", "b2"))] == [
        f"0 0 7 0 {int((later.timestamp() - 5) / 86400)} d ago 10 min ago receiver-1",
        "a1 wal batch 7 4",
        "b2 left holds all 7",
        "b2 right released",
    ]
    found = orjson.loads(run("wal", "status", log.store.uri, "--json").stdout)
    (partition,) = found["partitions"]
    assert (partition["begin"], partition["end"], partition["kept_from"], partition["kept_by"]) == (
        0,
        7,
        0,
        ["b2/left"],
    )
    assert [one["state"] for one in found["readers"]] == ["batch 7", "holds all", "released"]


def test_a_log_that_nobody_reads_says_why_it_is_kept(log: WalLocation) -> None:
    assert shown("wal", "status", log.store.uri).endswith("No stream reads it, so sweeps delete nothing.")


def test_verify_finds_what_is_missing_and_what_is_damaged(log: WalLocation, tmp_path: Path) -> None:
    clean = run("wal", "verify", log.store.uri)
    assert (clean.exit_code, "No fault in" in clean.stdout) == (0, True)

    log.store.delete([log.names.segment(0, 0), log.names.segment(0, 3)])
    newest = tmp_path / "hooks" / log.names.segment(0, 5)
    newest.write_bytes(newest.read_bytes()[:-1])
    result = run("wal", "verify", log.store.uri, "--json")
    assert result.exit_code == 5
    checks = orjson.loads(result.stdout)["checks"]
    assert [(one["name"], one["examined"], len(one["faults"])) for one in checks] == [
        ("readers", 0, 0),
        ("segments of partition 0", 2, 3),
        ("claims of partition 0", 0, 1),
    ]
    messages = {fault["where"]: fault["message"] for check in checks for fault in check["faults"]}
    assert "is truncated, or does not match its checksum" in messages[log.names.segment(0, 5)]
    assert messages[log.names.segment(0, 1)] == "stops at 3, and the next segment begins at 5: records are missing."
    assert messages[log.names.segments(0)] == "holds nothing of the offsets [0, 1)."
    assert messages[log.names.segment(0, 0)] == "is no claim, and a later segment names it as one."


def test_a_log_that_was_swept_has_no_fault(log: WalLocation) -> None:
    reader = WalReader(log, "alive", "wal")
    reader.finished(0, {0: 6})
    run("wal", "sweep", log.store.uri)
    result = orjson.loads(run("wal", "verify", log.store.uri, "--json").stdout)
    assert [(one["name"], one["examined"], one["faults"]) for one in result["checks"]] == [
        ("readers", 1, []),
        ("segments of partition 0", 1, []),
        ("claims of partition 0", 1, []),
    ]
