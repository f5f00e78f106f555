"""Requests and their answers, without a network: what was answered 200 is in the log, by value."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from beam_exactly_once.object_store import override_stores
from beam_exactly_once.object_store.definite import Unclear
from beam_exactly_once.object_store.memory import MemoryStore
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.receiver.access import Access
from beam_exactly_once.receiver.app import Incoming, ReceiverApp
from beam_exactly_once.receiver.forms import Form
from beam_exactly_once.receiver.keeper import Keeper
from beam_exactly_once.receiver.refusals import Refused
from beam_exactly_once.wal import writer
from beam_exactly_once.wal.log import WalLog
from support.faulty_store import ManualClock

WAL = TopicPartition("wal", 0)


class TroubledStore(MemoryStore):
    """Creates of segments do what the test says, before the store's own answer."""

    def __init__(self) -> None:
        super().__init__(f"memory://{secrets.token_hex(8)}", clock=ManualClock(), retry_timeout_s=0.1)
        self.trouble: Callable[[], None] = lambda: None

    def _create(self, key: str, body: bytes) -> bool:
        if key.startswith("log/"):
            self.trouble()
        return super()._create(key, body)

    def values(self) -> list[bytes | None]:
        log = WalLog(self, "wal")
        stop = log.bounds([WAL])[WAL].latest
        found: list[bytes | None] = []
        start = 0
        while start < stop:
            chunk = log.next_chunk(WAL, start, stop)
            found += [one.value for one in chunk.records()]
            start = chunk.stop
        return found


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(writer, "PAUSE_FIRST_S", 0.001)
    monkeypatch.setattr(writer, "PAUSE_MAX_S", 0.01)
    one = TroubledStore()
    with override_stores(lambda uri, options: one):
        yield one


@asynccontextmanager
async def receiver(store: TroubledStore, **settings: Any) -> AsyncIterator[Receiver]:
    limits = {"max_pending_bytes": 10_000, "ack_timeout_s": 30.0, **settings}
    keeper = Keeper(store.uri, linger_s=0.0, id_window=1000, takeover_after_s=0.0, **limits)
    app = ReceiverApp(keeper, Access(anyone=True), Form(), max_request_bytes=5000, max_held_bytes=10_000)
    await keeper.start()
    try:
        yield Receiver(app, keeper)
    finally:
        await keeper.close()


class Receiver:
    def __init__(self, app: ReceiverApp, keeper: Keeper) -> None:
        self.app = app
        self.keeper = keeper

    async def answer(
        self, *parts: bytes, path: str = "/v1/records", method: str = "POST", **headers: str
    ) -> tuple[int, bytes, Any]:
        """Of a request whose body comes in these parts."""
        incoming = Incoming()
        incoming.method, incoming.target = method.encode(), path.encode()
        incoming.headers = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            self.app.begin(incoming)
            for part in parts:
                self.app.add(incoming, part)
        except Refused as refused:
            answered.set_result(refused)
        else:
            self.app.take(incoming, SimpleNamespace(answer=lambda _, found: answered.set_result(found)))
        found = await answered
        status, (kind, body) = (found.status, found.answer()) if isinstance(found, Refused) else (200, found)
        headers_of = found.headers() if isinstance(found, Refused) else b""
        return status, headers_of, orjson.loads(body) if kind == b"application/json" else body

    async def until_taken(self, body: bytes, **headers: str) -> Any:
        """As senders do."""
        while True:
            status, _, answer = await self.answer(body, **headers)
            if status == 200:
                return answer
            await asyncio.sleep(0)


def test_what_is_answered_is_in_the_log(store: TroubledStore) -> None:
    async def story() -> None:
        async with receiver(store) as it:
            assert (await it.answer(b"a", idempotency_key="1"))[::2] == (
                200,
                {"partition": 0, "offset": 1, "records": 1, "duplicates": 0},
            )
            lines = {"content_type": "application/x-ndjson", "idempotency_key": "1"}
            assert (await it.answer(b"1\n", b"2\n", **lines))[2]["records"] == 2
            assert (await it.answer(b"1\n2\n", **lines))[2]["duplicates"] == 2
            assert (await it.answer(b"a", idempotency_key="1"))[2]["duplicates"] == 1

    asyncio.run(story())
    assert store.values() == [b"a", b"1", b"2"]


@pytest.mark.parametrize(
    ("status", "parts", "headers"),
    [
        (422, [b"other"], {"idempotency_key": "1"}),
        (413, [b"x" * 5001], {}),
        (413, [b""], {"content_length": "5001"}),
        (413, [b"x" * 3000, b"x" * 3000], {"transfer_encoding": "chunked"}),
        (415, [b"a"], {"content_encoding": "gzip"}),
        (415, [b"a"], {"content_encoding": "gzip, identity"}),
        (501, [b"a"], {"transfer_encoding": "gzip, chunked"}),
        (400, [b"a"], {"upgrade": "h2c"}),
        (400, [b""], {}),
        (405, [b""], {"method": "GET"}),
        (404, [b"a"], {"path": "/"}),
    ],
)
def test_a_request_that_is_not_taken_leaves_nothing(
    store: TroubledStore, status: int, parts: list[bytes], headers: dict[str, str]
) -> None:
    async def story() -> None:
        async with receiver(store) as it:
            await it.answer(b"first", idempotency_key="1")
            found, _, body = await it.answer(*parts, **headers)
            assert (found, body["retry"]) == (status, False)
            assert it.app.held_bytes == 0

    asyncio.run(story())
    assert store.values() == [b"first"]


def test_a_store_that_does_not_answer_is_an_answer_to_try_again(store: TroubledStore) -> None:
    def no_answer() -> None:
        raise Unclear("no answer")

    async def story() -> None:
        async with receiver(store, ack_timeout_s=0.05) as it:
            store.trouble = no_answer
            first = [it.answer(b"x" * 3000, idempotency_key=str(number)) for number in range(3)]
            waited = await asyncio.gather(*first)
            refused = await it.answer(b"x" * 3000)
            assert {(status, headers, body["retry"]) for status, headers, body in [*waited, refused]} == {
                (503, b"retry-after: 1\r\n", True)
            }
            assert (await it.answer(path="/readyz", method="GET"))[0] == 503
            store.trouble = lambda: None
            again = await it.until_taken(b"x" * 3000, idempotency_key="0")
            assert again["duplicates"] == 1

    asyncio.run(story())
    assert store.values() == [b"x" * 3000] * 3


def test_a_fenced_receiver_answers_nobody_and_ends(store: TroubledStore) -> None:
    async def story() -> None:
        async with receiver(store) as old:
            await old.answer(b"a")
            async with receiver(store) as new:
                assert (await new.answer(b"b"))[0] == 200
                assert (await old.answer(b"c"))[0] == 503
                assert "claimed" in str(await old.keeper.ended)

    asyncio.run(story())
    assert store.values() == [b"a", b"b"]


def test_one_that_stands_by_claims_when_nobody_is_at_work_and_again_when_it_was_fenced(store: TroubledStore) -> None:
    async def story() -> None:
        async with receiver(store, claim="at-first-request") as standby:
            assert (await standby.answer(path="/readyz", method="GET"))[::2][0] == 200
            assert [entry.key for entry in store.list("log/")] == []
            assert (await standby.answer(b"a"))[0] == 503
            await standby.until_taken(b"a")
            async with receiver(store) as new:
                assert (await new.answer(b"b"))[0] == 200
                while (await standby.answer(b"never"))[0] != 503 or standby.keeper.readiness()["state"] == "writing":
                    await asyncio.sleep(0)
                assert not standby.keeper.ended.done()

    asyncio.run(story())
    assert store.values() == [b"a", b"b"]


def test_one_that_stands_by_fences_nobody_who_is_at_work(store: TroubledStore) -> None:
    async def story() -> None:
        async with receiver(store) as working, receiver(store, claim="at-first-request") as standby:
            looked = standby.keeper._newest

            def moving() -> Any:
                found = looked()
                asyncio.run_coroutine_threadsafe(working.answer(b"a"), loop).result()
                return found

            loop = asyncio.get_running_loop()
            standby.keeper._newest = moving  # type: ignore[method-assign]
            assert (await standby.answer(b"b"))[0] == 503
            while standby.keeper._is_claiming:
                await asyncio.sleep(0.001)
            assert standby.keeper.readiness()["why"] == "another receiver is at work"
            assert (await working.answer(b"c"))[0] == 200

    asyncio.run(story())
    assert store.values() == [b"a", b"a", b"c"]


def test_metrics_count_what_was_answered(store: TroubledStore) -> None:
    async def story() -> bytes:
        async with receiver(store) as it:
            await it.answer(b"a", idempotency_key="1")
            await it.answer(b"a", idempotency_key="1")
            await it.answer(path="/nothing")
            text: bytes = (await it.answer(path="/metrics", method="GET"))[2]
            return text

    lines = asyncio.run(story()).decode().splitlines()
    assert {
        "beam_exactly_once_receiver_records_total 2",
        "beam_exactly_once_receiver_duplicates_total 1",
        "beam_exactly_once_receiver_end_offset 2",
    } <= set(lines)
