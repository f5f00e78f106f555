"""``WalWriter``: what was answered is in the log once, whatever the store does. Read back by value."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from beam_exactly_once.errors import ConfigurationError, Fenced, IdReused, OutputNotWritable, StoreUnavailable, UnfitRow
from beam_exactly_once.logs import Record
from beam_exactly_once.object_store import override_stores
from beam_exactly_once.object_store.definite import Unclear
from beam_exactly_once.object_store.memory import MemoryStore
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.wal import writer as writer_module
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.log import WalLog
from beam_exactly_once.wal.partition_writer import PartitionWriter
from beam_exactly_once.wal.writer import Appended, WalWriter
from support.faulty_store import ManualClock

WAL = TopicPartition("wal", 0)


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **fixtures), 60))

    return run


class TroubledStore(MemoryStore):
    """Creates of segments do what the test says, before the store's own answer."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri, clock=ManualClock(), retry_timeout_s=0.1)
        self.trouble: Callable[[str, bytes], None] = lambda key, body: None

    def _create(self, key: str, body: bytes) -> bool:
        if key.startswith("log/"):
            self.trouble(key, body)
        return super()._create(key, body)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(writer_module, "PAUSE_FIRST_S", 0.001)
    one = TroubledStore(f"memory://{secrets.token_hex(8)}")
    with override_stores(lambda uri, options: one):
        yield one


def records(store: MemoryStore) -> list[Record]:
    log = WalLog(store, "wal")
    stop = log.bounds([WAL])[WAL].latest
    found: list[Record] = []
    start = 0
    while start < stop:
        chunk = log.next_chunk(WAL, start, stop)
        found += chunk.records()
        start = chunk.stop
    return found


def values(store: MemoryStore) -> list[bytes | None]:
    return [one.value for one in records(store)]


@in_a_loop
async def test_appended_records_are_in_the_log(store: TroubledStore) -> None:
    async with WalWriter(store.uri) as wal:
        first = await wal.append([b"a", b"b"], ids=[b"1", None], headers=[[("name", b"value")], []])
        second = await wal.append([b"c"])

    assert (first, second) == (Appended(0, 1, 2, 0), Appended(0, 3, 1, 0))
    assert [(one.offset, one.key, one.value, one.headers, one.timestamp_type) for one in records(store)] == [
        (1, b"1", b"a", (("name", b"value"),), 2),
        (2, None, b"b", (), 2),
        (3, None, b"c", (), 2),
    ]


@in_a_loop
async def test_a_record_that_comes_again_is_a_duplicate_also_for_the_next_writer(store: TroubledStore) -> None:
    async with WalWriter(store.uri) as wal:
        await wal.append([b"a", b"b"], ids=[b"1", b"2"])
        again = await wal.append([b"b", b"c"], ids=[b"2", b"3"])
    async with WalWriter(store.uri) as wal:
        once_more = await wal.append([b"c", b"c"], ids=[b"3", b"3"])

    assert again == Appended(0, 2, 2, 1)
    assert once_more == Appended(0, 3, 2, 2)
    assert values(store) == [b"a", b"b", b"c"]


@in_a_loop
async def test_an_id_with_another_value_is_refused_and_nothing_taken(store: TroubledStore) -> None:
    async with WalWriter(store.uri) as wal:
        await wal.append([b"first", b"second"], ids=[b"1", b"2"])
        for shifted, ids in [([b"new", b"first"], [b"1", b"2"]), ([b"x", b"y"], [b"3", b"3"])]:
            with pytest.raises(IdReused, match="known with another value"):
                await wal.append(shifted, ids=ids)

    assert values(store) == [b"first", b"second"]


@in_a_loop
async def test_what_waits_while_a_segment_is_under_way_becomes_one(store: TroubledStore) -> None:
    async with WalWriter(store.uri) as wal:
        await asyncio.gather(*(wal.append([b"%d" % number]) for number in range(100)))
    segments = [entry.key for entry in store.list("log/")]

    assert sorted(values(store)) == sorted(b"%d" % number for number in range(100))
    assert len(segments) <= 3  # the claim, and no more than one behind the first


@in_a_loop
async def test_a_linger_ends_when_a_segment_is_full(store: TroubledStore) -> None:
    async with WalWriter(store.uri, linger_s=3600) as wal:
        large = [wal.append([bytes([number]) * 1_000_000]) for number in range(9)]
        done, waiting = await asyncio.wait(map(asyncio.ensure_future, large), return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(waiting)) == (7, 2)
    await asyncio.wait(waiting)

    assert len(values(store)) == 9


@pytest.mark.parametrize("lands", [False, True], ids=["not carried out", "carried out"])
@in_a_loop
async def test_a_segment_without_an_answer_is_sent_again_as_it_is(store: TroubledStore, lands: bool) -> None:
    sent: list[bytes] = []

    def trouble(key: str, body: bytes) -> None:
        sent.append(body)
        if len(sent) < 12:
            if lands and len(sent) == 11:
                MemoryStore._create(store, key, body)
            raise Unclear("no answer")

    async with WalWriter(store.uri) as wal:
        store.trouble = trouble
        await asyncio.gather(wal.append([b"a"], ids=[b"1"]), wal.append([b"b"]), wal.append([b"a"], ids=[b"1"]))

    assert len(set(sent[:11])) == 1
    assert len(set(sent)) <= 2  # what came meanwhile is in the next one
    assert sorted(values(store)) == [b"a", b"b"]


@in_a_loop
async def test_a_store_that_refuses_for_a_while_is_tried_again(store: TroubledStore) -> None:
    refusals = iter(range(5))

    def trouble(key: str, body: bytes) -> None:
        if next(refusals, None) is not None:
            raise OutputNotWritable("no space left")

    async with WalWriter(store.uri) as wal:
        store.trouble = trouble
        await wal.append([b"a"])

    assert values(store) == [b"a"]


@in_a_loop
async def test_a_newer_writer_fences_the_older_one(store: TroubledStore) -> None:
    async with WalWriter(store.uri) as old:
        await old.append([b"a"], ids=[b"1"])
        async with WalWriter(store.uri) as new:
            for _ in range(2):
                with pytest.raises(Fenced, match=r"claimed by .* pid \d+ at offset 2"):
                    await old.append([b"b"], ids=[b"2"])
            await new.append([b"b"], ids=[b"2"])

    assert values(store) == [b"a", b"b"]


@in_a_loop
async def test_a_busy_writer_pauses_for_a_newer_one_that_wishes_to_claim(
    store: TroubledStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def the_newer_one_claims(pause_s: float) -> None:
        assert pause_s == writer_module.ROOM_S
        PartitionWriter(WalLocation.on(store), 0, owner="newer", id_window=100_000).claim()

    monkeypatch.setattr(writer_module, "WISH_INTERVAL_S", 0.0)
    async with WalWriter(store.uri) as old:
        await old.append([b"a"])
        WalLocation.on(store).put_wish(0, 1)
        monkeypatch.setattr(writer_module.asyncio, "sleep", the_newer_one_claims)
        with pytest.raises(Fenced, match="claimed by newer at offset 2"):
            await old.append([b"b"])

    assert values(store) == [b"a"]


@in_a_loop
async def test_too_much_is_refused_and_what_waits_is_not_lost(
    store: TroubledStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_away = True

    def trouble(key: str, body: bytes) -> None:
        if is_away:
            raise Unclear("away")

    async with WalWriter(store.uri) as wal:
        wal._intake._max_pending_bytes = 2000
        store.trouble = trouble
        waiting = asyncio.ensure_future(wal.append([b"x" * 1500]))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="Nothing of this request was taken"):
            await wal.append([b"y" * 1500])
        is_away = False
        await waiting
        await wal.append([b"z" * 1500])

    assert [(value or b"")[:1] for value in values(store)] == [b"x", b"z"]


@in_a_loop
async def test_a_close_that_is_given_up_says_that_the_outcome_is_unknown(store: TroubledStore) -> None:
    def trouble(key: str, body: bytes) -> None:
        raise Unclear("away")

    async def use() -> None:
        async with WalWriter(store.uri) as wal:
            store.trouble = trouble
            waiting.append(asyncio.ensure_future(wal.append([b"a"], ids=[b"1"])))
            await asyncio.sleep(0.01)

    waiting: list[asyncio.Future[Appended]] = []
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(use(), 0.2)

    with pytest.raises(StoreUnavailable, match="unknown"):
        await waiting[0]


@in_a_loop
async def test_a_writer_stops_when_its_log_was_made_anew(store: TroubledStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "LOOK_INTERVAL_S", 0.0)
    async with WalWriter(store.uri) as wal:
        store.delete([entry.key for entry in store.list()])
        WalLocation.create(store)
        with pytest.raises(Fenced, match="was wiped, or holds another log"):
            await wal.append([b"a"])


@in_a_loop
async def test_an_id_window_grows_and_does_not_shrink(store: TroubledStore) -> None:
    async with WalWriter(store.uri, id_window=10) as wal:
        await wal.append([b"a"], ids=[b"1"])
    with pytest.raises(ConfigurationError, match="has had an id window of 10 offsets"):
        await WalWriter(store.uri, id_window=9).__aenter__()
    async with WalWriter(store.uri, id_window=20) as wal:
        assert (await wal.append([b"a"], ids=[b"1"])).duplicates == 1


@in_a_loop
async def test_what_a_log_cannot_take_is_refused(store: TroubledStore) -> None:
    async with WalWriter(store.uri) as wal:
        with pytest.raises(UnfitRow, match="1048577 bytes is too large"):
            await wal.append([b"x" * ((1 << 20) + 1)])
        with pytest.raises(UnfitRow, match="an id of 1025 bytes"):
            await wal.append([b"x"], ids=[b"i" * 1025])
        with pytest.raises(UnfitRow, match="larger than a segment"):
            await wal.append([b"x" * 1_000_000] * 9)
        with pytest.raises(UnfitRow, match="larger than a segment"):
            await wal.append([b"x"] * 50_001)
        with pytest.raises(ConfigurationError, match="2 values, 1 ids"):
            await wal.append([b"x", b"y"], ids=[b"1"])
        assert await wal.append([]) == Appended(0, None, 0, 0)
    with pytest.raises(ConfigurationError, match="inside its `async with`"):
        await wal.append([b"x"])

    assert values(store) == []


@pytest.mark.parametrize(
    ("argument", "value"), [("partition", -1), ("linger_s", -0.1), ("id_window", -1), ("storage_options", 3)]
)
def test_wrong_arguments_are_named(argument: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{argument}="):
        WalWriter("memory://wal", **{argument: value})
