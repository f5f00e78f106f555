"""``beam-exactly-once wal``: what it shows of a log, what it deletes, and whom it lets go."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from beam_exactly_once.object_store.local import LocalStore
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.partition_writer import PartitionWriter
from beam_exactly_once.wal.readers import WalReader
from beam_exactly_once.wal.segments import NewRecord
from support.command_line import run, shown


@pytest.fixture
def log(tmp_path: Path) -> WalLocation:
    """A claim at offset 0, and three segments of two records."""
    location = WalLocation.create(LocalStore(tmp_path / "hooks"))
    writer = PartitionWriter(location, 0, owner="receiver-1", id_window=0)
    writer.claim()
    for first in range(0, 6, 2):
        writer.begin([NewRecord(b"%d" % number, 1000 * number) for number in (first, first + 1)])
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
