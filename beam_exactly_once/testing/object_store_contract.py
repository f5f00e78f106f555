"""The contract of object stores, as tests: for every backend here, and for one of your own.

Needs pytest. Put a subclass into a test module and say how your store is opened::

    class TestMyStore(ObjectStoreContract):
        @pytest.fixture
        def open_again(self):
            name = secrets.token_hex(8)
            return lambda: MyStore(name)
"""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_exactly_once.errors import StagedOutputMissing
from beam_exactly_once.object_store import (
    Created,
    Mine,
    ObjectEntry,
    ObjectStore,
    PutResult,
    StagedObject,
    StagingWriter,
    Taken,
)

RACERS = 16
IN_2023_MS = 1_700_000_000_000

StoreOpener = Callable[[], ObjectStore]


def staged(store: ObjectStore, final_key: str, body: bytes = b"content") -> StagedObject:
    """Stage ``body``, durable and invisible."""
    with store.stage(final_key) as writer:
        writer.write(body)
    return writer.staged


def _fail_after(writer: StagingWriter, body: bytes) -> None:
    with writer:
        writer.write(body)
        raise RuntimeError("row 7")


def _keys(store: ObjectStore, prefix: str = "", start_after: str = "", limit: int | None = None) -> list[str]:
    return [entry.key for entry in store.list(prefix, start_after, limit)]


def _race(act: Callable[[int], object]) -> list[object]:
    start = threading.Barrier(RACERS)

    def run(number: int) -> object:
        start.wait()
        return act(number)

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(run, range(RACERS)))


def _put_number(store: ObjectStore, key: str, number: int) -> PutResult:
    return store.put_if_absent(key, b"%d" % number)


class ObjectStoreContract:
    """What an object store owes a checkpoint and its outputs."""

    @pytest.fixture
    def open_again(self) -> StoreOpener:
        """Opens one empty root, again and again. Yours to say."""
        raise NotImplementedError("say by a fixture open_again how your store is opened")

    @pytest.fixture
    def store(self, open_again: StoreOpener) -> ObjectStore:
        """An empty root."""
        return open_again()

    @pytest.fixture
    def has_clock(self) -> bool:
        """Whether the store has a clock of its own, and tells by it when it wrote. Yours to say if it has."""
        return False

    # -- objects -------------------------------------------------------------------------------------------------

    def test_an_object_is_created_once(self, store: ObjectStore, open_again: StoreOpener) -> None:
        assert store.put_if_absent("commits/1.json", b"first") == Created()
        assert store.put_if_absent("commits/1.json", b"second") == Taken(b"first")
        assert store.put_if_absent("commits/1.json", b"first") == Mine()
        assert open_again().get("commits/1.json") == b"first"

    def test_an_absent_object_is_none(self, store: ObjectStore) -> None:
        store.put_if_absent("a/b", b"body")

        for absent in ("a", "a/c", "a/b/c", "x"):
            assert store.get(absent) is None
            assert store.get_range(absent, 0, 1) is None
            assert store.size_bytes(absent) is None
            assert store.written_at_ms(absent) is None

    def test_a_store_with_a_clock_says_when_it_wrote(self, store: ObjectStore, has_clock: bool) -> None:
        store.put_if_absent("a", b"body")

        written_at_ms = store.written_at_ms("a")
        assert (written_at_ms is not None) == has_clock
        assert (written_at_ms or 0) > IN_2023_MS or not has_clock
        assert store.written_at_ms("a") == written_at_ms

    @pytest.mark.parametrize("body", [b"", b"\0\xff" * 10, b"x" * 300_000])
    def test_bodies_come_back_as_they_are(self, store: ObjectStore, body: bytes) -> None:
        assert store.put_if_absent("body", body) == Created()

        assert store.get("body") == body
        assert store.size_bytes("body") == len(body)
        assert list(store.list()) == [ObjectEntry("body", len(body))]

    def test_a_part_of_an_object_ends_where_the_object_does(self, store: ObjectStore) -> None:
        store.put_if_absent("body", b"0123456789")
        store.put_if_absent("empty", b"")

        parts = {(0, 10): b"0123456789", (0, 1): b"0", (3, 4): b"3456", (9, 1): b"9", (8, 5): b"89"}
        parts |= {(10, 1): b"", (1 << 40, 7): b""}
        assert {part: store.get_range("body", *part) for part in parts} == parts
        assert store.get_range("empty", 0, 5) == b""

    @pytest.mark.parametrize(("start", "size_bytes"), [(-1, 5), (0, 0), (3, -1)])
    def test_what_is_no_part_of_an_object_is_refused(self, store: ObjectStore, start: int, size_bytes: int) -> None:
        store.put_if_absent("body", b"0123456789")

        with pytest.raises(ValueError, match="not a part of an object"):
            store.get_range("body", start, size_bytes)

    def test_a_deleted_object_can_be_created_again(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"first")
        store.put_if_absent("b/c", b"other")

        store.delete(["a", "b/c", "never", "b/was"])
        store.delete(["a"])
        store.delete([])

        assert store.get("a") is None
        assert _keys(store) == []
        assert store.put_if_absent("a", b"second") == Created()

    @pytest.mark.parametrize(
        "key", ["", "/a", "a/", "a//b", "../a", "a/../b", "..", "./a", "a/.", "a\nb", "a\0b", "a\\b"]
    )
    def test_keys_that_leave_the_root_are_refused(self, store: ObjectStore, key: str) -> None:
        for use in (store.get, store.size_bytes, store.stage, lambda key: store.get_range(key, 0, 1)):
            with pytest.raises(ValueError, match="is not a key"):
                use(key)
        with pytest.raises(ValueError, match="is not a key"):
            store.put_if_absent(key, b"")
        with pytest.raises(ValueError, match="is not a key"):
            store.delete([key])
        with pytest.raises(ValueError, match="is not a key"):
            StagedObject.from_json({"final_key": key, "size_bytes": 0, "token": {}})

    @pytest.mark.parametrize("prefix", ["../", "a/../", "/", "a//b"])
    def test_prefixes_that_leave_the_root_are_refused(self, store: ObjectStore, prefix: str) -> None:
        with pytest.raises(ValueError, match="is not a key"):
            _keys(store, prefix)
        with pytest.raises(ValueError, match="is not a key"):
            list(store.list_staged(prefix))

    def test_uncommon_letters_are_fine_in_keys(self, store: ObjectStore) -> None:
        named = ["a b/c+d=e&f?g#h%20i", "day=2026-01-01/päth-日本.json", "~tilde'()*!", ".hidden/.file"]
        for key in named:
            assert store.put_if_absent(key, key.encode()) == Created()

        assert _keys(store) == sorted(named)
        assert [store.get(key) for key in named] == [key.encode() for key in named]
        store.delete(named)
        assert _keys(store) == []

    # -- listings -------------------------------------------------------------------------------------------------

    def test_listings_are_ordered_by_key(self, store: ObjectStore) -> None:
        named = ["a-", "a-b/c", "a/b", "a0", "B", "a/b2", "b/00000000000000000010", "b/00000000000000000009", "ä"]
        for key in named:
            store.put_if_absent(key, b"1")

        assert _keys(store) == sorted(named)
        assert _keys(store, "a/") == ["a/b", "a/b2"]
        assert _keys(store, "a") == sorted(key for key in named if key.startswith("a"))
        assert _keys(store, "b/0000000000000000000") == ["b/00000000000000000009"]
        assert _keys(store, "no/such") == []
        assert _keys(store, "a/b/") == []

    def test_listings_begin_behind_a_key(self, store: ObjectStore) -> None:
        named = [f"commits/{number:020d}.json" for number in range(5)]
        for key in named:
            store.put_if_absent(key, b"1")
        store.put_if_absent("offsets/0", b"1")

        assert _keys(store, "commits/", named[2]) == named[3:]
        assert _keys(store, "commits/", "commits/00000000000000000002") == named[2:]  # no key itself
        assert _keys(store, "commits/", "a") == named
        assert _keys(store, "commits/", named[4]) == []
        assert _keys(store, "", named[4]) == ["offsets/0"]

    def test_a_listing_ends_at_its_limit(self, store: ObjectStore) -> None:
        named = ["a-", "a/b", "a/c/d", "a/c/e", "a0", "b/f", "b/g"]
        for key in reversed(named):
            store.put_if_absent(key, b"1")

        assert [_keys(store, limit=limit) for limit in range(1, 9)] == [named[:limit] for limit in range(1, 9)]
        assert _keys(store, "a/", limit=2) == ["a/b", "a/c/d"]
        assert _keys(store, "a/c/", "a/c/d", limit=1) == ["a/c/e"]
        assert _keys(store, "", "a/c/d", limit=1) == ["a/c/e"]  # a key itself
        assert _keys(store, "", "a/c/dd", limit=2) == ["a/c/e", "a0"]  # no key itself
        assert _keys(store, "", "a/c/", limit=1) == ["a/c/d"]
        assert _keys(store, "", "b/g", limit=1) == []
        store.delete(["a/b"])
        assert _keys(store, "a/", limit=1) == ["a/c/d"]
        with pytest.raises(ValueError, match="at least 1"):
            _keys(store, limit=0)

    # -- races -------------------------------------------------------------------------------------------------

    def test_sixteen_racing_creates_have_one_winner(self, store: ObjectStore) -> None:
        for round_ in range(3):
            results = _race(partial(_put_number, store, f"raced/{round_}"))

            winner = results.index(Created())
            body = b"%d" % winner
            assert [result for number, result in enumerate(results) if number != winner] == [Taken(body)] * (RACERS - 1)
            assert store.get(f"raced/{round_}") == body

    def test_sixteen_publishers_of_one_object_all_succeed(self, store: ObjectStore) -> None:
        one = staged(store, "out/part", b"content")

        results = _race(lambda _: store.publish(one))

        assert True in results
        assert store.get("out/part") == b"content"
        assert list(store.list_staged()) == []

    def test_verify_is_content_and_leaves_nothing(self, store: ObjectStore) -> None:
        store.verify()
        store.check_writable()
        store.verify_order()

        assert _keys(store) == []
        assert list(store.list_staged()) == []

    # -- staging -------------------------------------------------------------------------------------------------

    def test_staged_content_is_invisible_until_it_is_published(
        self, store: ObjectStore, open_again: StoreOpener
    ) -> None:
        one = staged(store, "out/deep/part.parquet", b"content")

        assert _keys(store) == []
        assert store.get("out/deep/part.parquet") is None
        assert [listed.final_key for listed in store.list_staged()] == ["out/deep/part.parquet"]

        assert open_again().publish(StagedObject.from_json(json.loads(json.dumps(one.to_json())))) is True

        assert list(store.list()) == [ObjectEntry("out/deep/part.parquet", len(b"content"))]
        assert store.get("out/deep/part.parquet") == b"content"
        assert list(store.list_staged()) == []

    def test_publishing_again_changes_nothing(self, store: ObjectStore) -> None:
        one = staged(store, "part", b"content")
        store.publish(one)

        store.publish(one)

        assert store.get("part") == b"content"
        assert _keys(store) == ["part"]

    def test_publishing_overwrites_nothing(self, store: ObjectStore) -> None:
        one = staged(store, "part", b"content")
        store.put_if_absent("part", b"somebody else's")

        assert store.publish(one) is False
        assert store.get("part") == b"somebody else's"

    def test_content_that_is_nowhere_is_named(self, store: ObjectStore) -> None:
        one = staged(store, "out/part", b"content")
        store.discard(one)

        with pytest.raises(StagedOutputMissing, match=r"out/part is neither"):
            store.publish(one)

    def test_discarding_is_idempotent_and_takes_nothing_published(self, store: ObjectStore) -> None:
        published, dropped = staged(store, "a", b"1"), staged(store, "b", b"2")
        store.publish(published)

        for _ in range(2):
            store.discard(published)
            store.discard(dropped)

        assert _keys(store) == ["a"]
        assert list(store.list_staged()) == []

    def test_a_sweep_discards_by_what_it_lists(self, store: ObjectStore, open_again: StoreOpener) -> None:
        for key in ("batch-1/a", "batch-1/b", "batch-2/a"):
            staged(store, key, b"content")
        sweeper = open_again()

        for listed in list(sweeper.list_staged("batch-1/")):
            sweeper.discard(listed)

        assert [listed.final_key for listed in store.list_staged()] == ["batch-2/a"]

    def test_two_attempts_stage_one_name_apart(self, store: ObjectStore) -> None:
        first, second = staged(store, "part", b"first"), staged(store, "part", b"second")

        assert len(list(store.list_staged("part"))) == 2
        store.publish(second)
        store.discard(first)

        assert store.get("part") == b"second"
        assert list(store.list_staged()) == []

    @pytest.mark.parametrize("sizes", [(), (0,), (1, 0, 2), (5 << 20, 5 << 20, 5 << 20, 1), (8 << 20,), (20 << 20,)])
    def test_staged_content_is_what_was_written(self, store: ObjectStore, sizes: tuple[int, ...]) -> None:
        pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
        with store.stage("part") as writer:
            for piece in pieces:
                assert writer.write(piece) == len(piece)
            assert writer.tell() == sum(sizes)

        assert writer.staged.size_bytes == sum(sizes)
        store.publish(writer.staged)
        assert store.get("part") == b"".join(pieces)

    def test_an_error_while_writing_drops_what_was_written(self, store: ObjectStore) -> None:
        writer = store.stage("part")
        with pytest.raises(RuntimeError, match="row 7"):
            _fail_after(writer, b"x" * (9 << 20))

        assert writer.closed
        assert list(store.list_staged()) == []
        assert _keys(store) == []
        with pytest.raises(ValueError, match="not closed cleanly"):
            _ = writer.staged

    def test_a_closed_writer_takes_no_more(self, store: ObjectStore) -> None:
        writer = store.stage("part")
        writer.write(b"content")
        writer.close()
        writer.close()
        writer.abort()

        with pytest.raises(ValueError, match="closed"):
            writer.write(b"more")
        store.publish(writer.staged)
        assert store.get("part") == b"content"

    def test_a_writer_takes_all_kinds_of_bytes(self, store: ObjectStore) -> None:
        with store.stage("part") as writer:
            writer.write(bytearray(b"ab"))
            writer.write(memoryview(b"cd"))
            writer.write(pa.py_buffer(b"ef"))
            writer.flush()

        store.publish(writer.staged)
        assert store.get("part") == b"abcdef"

    def test_parquet_is_written_through(self, store: ObjectStore) -> None:
        table = pa.table({"number": list(range(1000))})
        with store.stage("part.parquet") as writer, pq.ParquetWriter(writer, table.schema) as parquet:
            parquet.write_table(table)

        store.publish(writer.staged)
        body = store.get("part.parquet")
        assert body is not None
        assert pq.read_table(pa.BufferReader(body)) == table

    def test_a_store_may_be_pickled(self, store: ObjectStore) -> None:
        if store.uri.startswith("memory://"):
            return  # lives in one process by nature
        store.put_if_absent("a", b"body")

        assert pickle.loads(pickle.dumps(store)).get("a") == b"body"
