"""A checkpoint location: every record is read back as written, or an error names the object and the way out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from threading import Barrier, Thread
from typing import Any

import orjson
import pytest

from beam_exactly_once.checkpoint import Checkpoint, layout, location
from beam_exactly_once.checkpoint.envelope import Envelope, seal
from beam_exactly_once.checkpoint.location import Decided
from beam_exactly_once.checkpoint.records import WriterClaim
from beam_exactly_once.errors import (
    CheckpointHole,
    ConfigurationError,
    CorruptObject,
    ForeignObject,
    NewerFormat,
    OlderFormat,
)
from support.checkpoints import NOW, change_field, fresh_checkpoint, fresh_store, marker, overwrite, plan

CLAIM = WriterClaim(1, "ann@host pid 7", NOW)
PLAN_KEY, MARKER_KEY, CLAIM_KEY = layout.offsets_key(3), layout.commits_key(3), layout.writer_key(1)
SOURCE_KEY = layout.definition_key(layout.SOURCES, "kafka")


@pytest.fixture
def checkpoint() -> Checkpoint:
    """One of each record."""
    opened = fresh_checkpoint()
    opened.create_writer(CLAIM)
    opened.create_plan(plan(3))
    opened.create_marker(marker(3))
    opened.create_definition(layout.SOURCES, "kafka", {"kind": "kafka"})
    return opened


READS: dict[str, Callable[[Checkpoint], Any]] = {
    PLAN_KEY: lambda checkpoint: checkpoint.read_plan(3),
    MARKER_KEY: lambda checkpoint: checkpoint.read_marker(3),
    CLAIM_KEY: lambda checkpoint: checkpoint.read_writer(1),
    SOURCE_KEY: lambda checkpoint: checkpoint.definitions(layout.SOURCES),
    layout.METADATA: lambda checkpoint: Checkpoint.open(checkpoint.store),
}

# -- opening ---------------------------------------------------------------------------------------------------------


def test_an_empty_location_becomes_a_stream() -> None:
    store = fresh_store()
    assert Checkpoint.open_existing(store) is None
    made = Checkpoint.open(store)
    assert Checkpoint.open(store).stream_id == made.stream_id
    assert [entry.key for entry in store.list()] == [layout.METADATA]


def test_two_streams_have_two_ids() -> None:
    assert fresh_checkpoint().stream_id != fresh_checkpoint().stream_id


def test_sixteen_open_an_empty_location_at_once_and_are_one_stream() -> None:
    store, start, found = fresh_store(), Barrier(16), []

    def open_it() -> None:
        start.wait()
        found.append(Checkpoint.open(store).stream_id)

    threads = [Thread(target=open_it) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1


def test_metadata_is_missing_while_others_are_there(checkpoint: Checkpoint) -> None:
    checkpoint.store.delete([layout.METADATA])
    for opening in (Checkpoint.open, Checkpoint.open_existing):
        with pytest.raises(CheckpointHole, match=r"metadata\.json is missing, but commits/0+3\.json is there"):
            opening(checkpoint.store)


# -- reading what was written ------------------------------------------------------------------------------------------


def test_every_record_comes_back(checkpoint: Checkpoint) -> None:
    assert checkpoint.read_plan(3) == plan(3)
    assert checkpoint.read_marker(3) == checkpoint.newest_marker() == marker(3)
    assert checkpoint.read_writer(1) == CLAIM
    assert checkpoint.definitions(layout.SOURCES) == {"kafka": {"kind": "kafka"}}
    assert checkpoint.definitions(layout.SINKS) == {}


def test_what_is_not_there_is_none() -> None:
    checkpoint = fresh_checkpoint()
    assert (checkpoint.read_plan(0), checkpoint.read_marker(0), checkpoint.newest_marker()) == (None, None, None)
    assert (checkpoint.read_writer(1), checkpoint.newest_writer_epoch()) == (None, 0)


def test_the_first_create_holds(checkpoint: Checkpoint) -> None:
    """Whoever comes later gets what is there, and is told that it is not his."""
    assert checkpoint.create_plan(plan(3, writer_epoch=2)) == Decided(plan(3), mine=False)
    assert checkpoint.create_marker(marker(3, nonce="b")) == Decided(marker(3), mine=False)
    assert checkpoint.create_writer(WriterClaim(1, "bob", NOW)) == Decided(CLAIM, mine=False)
    assert checkpoint.create_definition(layout.SOURCES, "kafka", {"kind": "other"}) == {"kind": "kafka"}
    assert checkpoint.create_plan(plan(4)) == Decided(plan(4), mine=True)


def test_the_same_record_of_another_writer_is_not_mine(checkpoint: Checkpoint) -> None:
    """Word for word the same, but another write: its nonce differs."""
    assert not checkpoint.create_marker(marker(3)).mine


def test_ids_are_in_order_of_number(checkpoint: Checkpoint) -> None:
    for batch_id in (10, 9, 100):
        checkpoint.create_plan(plan(batch_id))
        checkpoint.create_marker(marker(batch_id))
    assert list(checkpoint.plan_ids()) == list(checkpoint.marker_ids()) == [3, 9, 10, 100]
    assert list(checkpoint.plan_ids(above=9)) == list(checkpoint.marker_ids(above=9)) == [10, 100]
    assert list(checkpoint.marker_ids(above=100)) == []
    assert checkpoint.newest_marker() == marker(100)


def test_batch_zero_is_a_batch() -> None:
    checkpoint = fresh_checkpoint()
    checkpoint.create_plan(plan(0))
    checkpoint.create_plan(plan(1))
    assert list(checkpoint.plan_ids()) == [0, 1]
    assert list(checkpoint.plan_ids(above=0)) == [1]


# -- what is damaged is named ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", READS)
@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: data[: len(data) // 2], CorruptObject),
        (lambda data: b"", CorruptObject),
        (lambda data: data.replace(b"3", b"4").replace(b"0", b"9"), CorruptObject),
        (change_field(min_reader_version=4), NewerFormat),
        (change_field(format_version=1, min_reader_version=1), OlderFormat),
    ],
    ids=["truncated", "empty", "changed", "newer", "older"],
)
def test_a_damaged_object(
    checkpoint: Checkpoint, key: str, change: Callable[[bytes], bytes], error: type[Exception]
) -> None:
    overwrite(checkpoint.store, key, change)
    with pytest.raises(error, match=f"{checkpoint.store.uri}/{key}"):
        READS[key](checkpoint)


@pytest.mark.parametrize("key", [key for key in READS if key != layout.METADATA])
def test_an_object_of_another_stream(checkpoint: Checkpoint, key: str) -> None:
    """As a driver leaves it that goes on when its location was wiped and used again."""
    stored = orjson.loads(checkpoint.store.get(key) or b"")
    foreign = seal(Envelope(stored["kind"], "another stream", stored["nonce"], stored["body"]))
    overwrite(checkpoint.store, key, lambda _: foreign)
    with pytest.raises(ForeignObject, match=f"{key} belongs to stream another stream"):
        READS[key](checkpoint)


@pytest.mark.parametrize(
    ("written", "copied_to", "read"),
    [
        (PLAN_KEY, layout.offsets_key(4), lambda checkpoint: checkpoint.read_plan(4)),
        (MARKER_KEY, layout.commits_key(4), lambda checkpoint: checkpoint.newest_marker()),
        (MARKER_KEY, layout.commits_key(4), lambda checkpoint: checkpoint.create_marker(marker(4))),
    ],
)
def test_an_object_copied_to_a_wrong_name(
    checkpoint: Checkpoint, written: str, copied_to: str, read: Callable[[Checkpoint], Any]
) -> None:
    checkpoint.store.put_if_absent(copied_to, checkpoint.store.get(written) or b"")
    with pytest.raises(CorruptObject, match=f"{copied_to} holds batch 3: it was copied to a wrong name"):
        read(checkpoint)


def test_a_marker_at_the_name_of_a_plan(checkpoint: Checkpoint) -> None:
    checkpoint.store.put_if_absent(layout.offsets_key(4), checkpoint.store.get(MARKER_KEY) or b"")
    with pytest.raises(CorruptObject, match="is of kind 'commit', not 'offsets'"):
        checkpoint.read_plan(4)


@pytest.mark.parametrize("name", ["notes.txt", "3.json", "00000000000000000003.json.bak", "x/y"])
def test_a_foreign_name_among_the_numbered(checkpoint: Checkpoint, name: str) -> None:
    checkpoint.store.put_if_absent(layout.COMMITS + name, b"hello")
    with pytest.raises(CorruptObject, match="is not an object of a checkpoint"):
        checkpoint.newest_marker()


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "ä", "x" * 101, "../x"])
def test_names_that_are_no_part_of_a_key(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a source, sink or step"):
        fresh_checkpoint().create_definition(layout.SINKS, name, {})


def test_unknown_fields_survive(checkpoint: Checkpoint) -> None:
    """A newer version may add to a definition; this one compares what it knows and keeps the rest."""
    checkpoint.create_definition(layout.SINKS, "files", {"kind": "files", "from_the_future": [1]})
    assert checkpoint.definitions(layout.SINKS) == {"files": {"kind": "files", "from_the_future": [1]}}


# -- long lists of committables ----------------------------------------------------------------------------------------


def large_marker(nonce: str = "a") -> Any:
    named = marker(3, nonce=nonce)
    many = tuple({**named.committables["files"][0], "final_key": f"part-{number:0200d}"} for number in range(6000))
    return type(named)(3, "committed", named.attempt, named.sources, {"files": many, "other": ()}, NOW)


@pytest.fixture
def spilled() -> tuple[Checkpoint, str]:
    """A checkpoint whose marker names its committables elsewhere, and where."""
    numbers = count()
    checkpoint = Checkpoint.open(fresh_store(), nonces=lambda: f"{next(numbers):016x}")
    assert checkpoint.create_marker(large_marker()).mine
    (key,) = (entry.key for entry in checkpoint.store.list(layout.SPILLED))
    return checkpoint, key


def test_a_long_list_is_stored_beside_the_marker(spilled: tuple[Checkpoint, str]) -> None:
    checkpoint, key = spilled
    assert key.startswith(f"{layout.SPILLED}{3:020d}-")
    assert (checkpoint.store.size_bytes(MARKER_KEY) or 0) < 2000
    assert checkpoint.read_marker(3) == large_marker()
    stored = orjson.loads(checkpoint.store.get(MARKER_KEY) or b"")["body"]["spilled"]
    assert (stored["key"], stored["count"]) == (key, 6000)


def test_the_loser_of_a_create_reads_the_winners_long_list(spilled: tuple[Checkpoint, str]) -> None:
    checkpoint, _ = spilled
    assert checkpoint.create_marker(large_marker("b")) == Decided(large_marker(), mine=False)
    assert checkpoint.create_marker(marker(3, nonce="c")) == Decided(large_marker(), mine=False)


def test_a_long_list_that_is_lost(spilled: tuple[Checkpoint, str]) -> None:
    checkpoint, key = spilled
    checkpoint.store.delete([key])
    with pytest.raises(
        CheckpointHole, match=f"{key}, which names the 6000 outputs of batch 3, and the state behind it, is missing"
    ):
        checkpoint.read_marker(3)


def test_a_long_list_that_is_damaged(spilled: tuple[Checkpoint, str]) -> None:
    checkpoint, key = spilled
    overwrite(checkpoint.store, key, lambda data: data[:-100])
    with pytest.raises(CorruptObject, match=f"{key} is truncated"):
        checkpoint.read_marker(3)


def test_a_long_list_that_is_another_one(spilled: tuple[Checkpoint, str]) -> None:
    """Whole and of this stream, but not what the marker names."""
    checkpoint, key = spilled
    other = seal(Envelope("committables", checkpoint.stream_id, "n", {"committables": {"files": []}}))
    overwrite(checkpoint.store, key, lambda _: other)
    with pytest.raises(CorruptObject, match=f"{key} is not what the marker names"):
        checkpoint.read_marker(3)


def test_a_list_just_short_enough_stays_in_the_marker(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = marker(3).to_json()
    length = len(orjson.dumps({part: stored[part] for part in ("committables", "state")}))
    for max_bytes, spilled_objects in ((length, 0), (length - 1, 1)):
        monkeypatch.setattr(location, "MAX_MARKER_BYTES", max_bytes)
        checkpoint = fresh_checkpoint()
        checkpoint.create_marker(marker(3))
        assert len(list(checkpoint.store.list(layout.SPILLED))) == spilled_objects
        assert checkpoint.read_marker(3) == marker(3)
