"""``WalWriter``: records of producers that cannot be asked again, durable before they are answered."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from beam_exactly_once.arguments import location_of, options_of, seconds, whole_number
from beam_exactly_once.clock import SYSTEM_CLOCK, Clock, now_ms
from beam_exactly_once.errors import (
    BeamExactlyOnceError,
    ConfigurationError,
    Fenced,
    Retryable,
    StoreUnavailable,
    UnfitRow,
)
from beam_exactly_once.logs.records import Headers
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.wal.ids import MAX_SENT_BYTES, NO_CONTENT, NO_ID, content_of, stored_id
from beam_exactly_once.wal.intake import MAX_PENDING_BYTES, Batch, Intake
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.new_records import NewRecord, NewRecords
from beam_exactly_once.wal.partition_writer import PartitionWriter
from beam_exactly_once.wal.writer_state import WindowAge, WriterState

MAX_RECORD_BYTES = 1 << 20
LOOK_INTERVAL_S = 60.0
"""So often a writer looks whether its log is still the one at its location."""
WISH_INTERVAL_S = 10.0
"""So often a writer at work looks whether a newer one wishes to claim."""
ROOM_S = 3.0
"""It lets so much time pass then, in which the newer one finds the end and claims there, by five requests."""
PAUSE_FIRST_S, PAUSE_MAX_S = 0.05, 5.0
"""Between two tries of a segment that the store gave no definite answer about."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a request: its records are durable. ``offset`` is the least of theirs."""

    partition: int
    offset: int | None
    records: int
    duplicates: int


class WalWriter:
    """Appends to one partition of a write-ahead log, and returns when the records are durable.

    Entering ``async with`` claims the partition. An older writer of it is fenced: it stops when it next writes, and so does this
    one when a newer one comes. Any number of tasks may append at the same time: what waits while a segment is under way becomes
    the next one, so a slow store makes large segments, not long queues.

    Guarantee: what :meth:`append` has returned for is in the log exactly once. A record with an id that it has not returned for
    is there at most once, however often it is appended again within the id window. A record without an id is there at most once
    for each time it was appended.

    Args:
        location: the log's; it is made if there is none. Nothing else may write, change or expire objects there.
        partition: which partition. One writer each; more partitions for more speed.
        linger_s: how long a segment waits for more records. Fewer segments cost less, and answers come later.
        id_window: among how many of the last offsets of the partition a record that comes again is recognised by its id. It can
            grow from one writer to the next, not shrink.
        max_pending_bytes: what may wait for the store. More is refused.
        ack_timeout_s: about so long records wait for the store before whoever appended them is told that it does not answer;
            they are written when it does. None: for ever.
        storage_options: of the store.
        clock: tells when records arrived.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    def __init__(
        self,
        location: str,
        *,
        partition: int = 0,
        linger_s: float = 0.0,
        id_window: int = 100_000,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        ack_timeout_s: float | None = None,
        storage_options: dict[str, Any] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        whole_number("partition", partition, least=0, most=10**8 - 1)
        whole_number("id_window", id_window, least=0)
        whole_number("max_pending_bytes", max_pending_bytes)
        seconds("linger_s", linger_s, zero=True)
        seconds("ack_timeout_s", ack_timeout_s, none="no end")
        self._store = open_object_store(
            location_of("location", location, "a log"), options_of("storage_options", storage_options)
        )
        self._partition = partition
        self._linger_s = linger_s
        self._id_window = id_window
        self._max_pending_bytes = max_pending_bytes
        self._ack_timeout_s = ack_timeout_s
        self._clock = clock
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="wal-writer")
        self._wake = asyncio.Event()
        self._full = asyncio.Event()
        self._is_closing = False
        self._error: BeamExactlyOnceError | None = None
        self._task: asyncio.Task[None] | None = None
        self._log: WalLocation
        self._writer: PartitionWriter
        self._intake: Intake
        self._looked_s = self._made_room_s = 0.0
        self._segments = 0
        self._put_s = 0.0
        self._began_s: float | None = None
        self._window_age = WindowAge(id_window)

    async def __aenter__(self) -> WalWriter:
        """Claim the partition.

        Raises:
            Fenced: others claim it at the same time, again and again.
            UnsuitableStore: the store cannot hold a log.
            ConfigurationError: an earlier writer had a longer id window, or the store refuses.
            CorruptObject: the log has lost something that it needs.
            StoreUnavailable: the store does not answer.
        """
        try:
            await self._in_thread(self._claim)
        except BaseException:
            self._pool.shutdown(wait=False)
            raise
        self._intake = Intake(self._writer.window, self._max_pending_bytes)
        self._task = asyncio.create_task(self._run())
        self._tick()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Take no more, and wait until what was taken is in the log. Cancelled, it leaves whether it is unknown."""
        self._is_closing = True
        self._wake.set()
        self._full.set()
        assert self._task is not None
        try:
            await self._task
        finally:
            self._task.cancel()
            self._pool.shutdown(wait=False)

    async def append(
        self,
        values: Sequence[bytes],
        *,
        ids: Sequence[bytes | None] | None = None,
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[Headers] | None = None,
    ) -> Appended:
        """Append records together, and return when all of them are durable: only then answer whoever sent them.

        New ones are neighbours in the log, in this order. One whose id is known is a duplicate and is not written again.

        Args:
            values: of the records; at most 1 MiB each.
            ids: of the records, up to 1024 bytes each; None for one without.
            keys: of the records; their ids, if not given.
            headers: of the records: pairs of a name and a value.

        Raises:
            IdReused: an id is known with another value. Nothing was taken.
            UnfitRow: a value, an id or the whole is too large. Nothing was taken.
            Fenced: another writer has claimed the partition. What was not there before is not in the log; append it there.
            StoreUnavailable: too much waits for the store already, and nothing was taken; or time is up, or this writer was
                closed meanwhile, and whether the records are in the log is unknown. Append them again, with the same ids.
            ConfigurationError: the writer is closed, or the lists differ in length.
        """
        settled: asyncio.Future[Appended | BeamExactlyOnceError] = asyncio.get_running_loop().create_future()
        self.submit(self._records(values, ids, keys, headers), lambda done: _set(settled, done))
        done = await settled
        if isinstance(done, BeamExactlyOnceError):
            raise type(done)(str(done))
        return done

    def submit(self, records: NewRecords, on_settled: Callable[[Appended | BeamExactlyOnceError], None]) -> None:
        """As :meth:`append`, for a front end that makes records of the log itself and waits without a task.

        Args:
            records: their ids are of this log, and their sizes are checked.
            on_settled: called once, at once or later: with what has become of them, or with an error that ``append`` raises
                where whether they are in the log is unknown.

        Raises:
            IdReused, UnfitRow, StoreUnavailable, Fenced, ConfigurationError: as ``append``, where nothing was taken.
        """
        if self._error is not None:
            raise type(self._error)(str(self._error))
        if self._is_closing or self._task is None:
            raise ConfigurationError("a writer of a log takes records inside its `async with` block only")
        request = self._intake.offer(records)

        def settle() -> None:
            done = Appended(self._partition, request.offset, request.records, request.duplicates)
            on_settled(request.error or done)

        if request.is_settled:
            settle()
            return
        request.on_settled = settle
        if not self._wake.is_set():
            self._wake.set()
        if self._intake.is_full:
            self._full.set()

    @property
    def log_id(self) -> str:
        """The log's, of which ids are made."""
        return self._log.log_id

    async def ended(self) -> BeamExactlyOnceError | None:
        """Wait until the writer is closed, or ends of itself, and say why."""
        assert self._task is not None
        await asyncio.wait([self._task])
        return self._error

    def state(self) -> WriterState:
        """Where it stands now."""
        now_s = self._clock.monotonic_s()
        writer, began_s = self._writer, self._began_s
        return WriterState(
            end=writer.end,
            ids=len(writer.window),
            window_s=self._window_age.age_s(writer.end - writer.window.size, now_s),
            segments=self._segments,
            pending_bytes=self._intake.pending_bytes,
            waits_s=0.0 if began_s is None else now_s - began_s,
            put_s=self._put_s,
            clock_behind_s=writer.clock_behind_s,
        )

    # -- the records ---------------------------------------------------------------------------------------------------

    def _records(
        self,
        values: Sequence[bytes],
        ids: Sequence[bytes | None] | None,
        keys: Sequence[bytes | None] | None,
        headers: Sequence[Headers] | None,
    ) -> NewRecords:
        ids = [None] * len(values) if ids is None else ids
        keys = ids if keys is None else keys
        headers = [()] * len(values) if headers is None else headers
        if not len(ids) == len(keys) == len(headers) == len(values):
            raise ConfigurationError(
                f"{len(values)} values, {len(ids)} ids, {len(keys)} keys and {len(headers)} lists of headers are not of the same "
                "records: give one of each a record."
            )
        arrived_ms = now_ms(self._clock)
        return NewRecords.of(
            self._record(value, sent, key, tuple(pairs), arrived_ms)
            for value, sent, key, pairs in zip(values, ids, keys, headers, strict=True)
        )

    def _record(
        self, value: bytes, sent: bytes | None, key: bytes | None, headers: Headers, arrived_ms: int
    ) -> NewRecord:
        if len(value) > MAX_RECORD_BYTES:
            raise UnfitRow(f"a record of {len(value)} bytes is too large: a log takes up to {MAX_RECORD_BYTES}.")
        if sent is None:
            return NewRecord(value, arrived_ms, NO_ID, NO_CONTENT, key, headers)
        if not 0 < len(sent) <= MAX_SENT_BYTES:
            raise UnfitRow(f"an id of {len(sent)} bytes is not possible: give 1 to {MAX_SENT_BYTES}.")
        return NewRecord(value, arrived_ms, stored_id(self._log.log_id, sent), content_of(value), key, headers)

    # -- the segments --------------------------------------------------------------------------------------------------

    def _claim(self) -> None:
        self._store.verify()
        self._store.verify_order()
        self._log = WalLocation.create(self._store, self._clock)
        owner = f"{socket.gethostname()} pid {os.getpid()}"
        self._writer = PartitionWriter(
            self._log, self._partition, owner=owner, id_window=self._id_window, clock=self._clock
        )
        self._writer.claim()
        self._looked_s = self._made_room_s = self._clock.monotonic_s()

    async def _run(self) -> None:
        """One segment after the other; never two under way."""
        while await self._has_batch():
            await self._make_room()
            batch = self._intake.take()
            self._began_s = self._clock.monotonic_s()
            try:
                self._writer.begin(batch.records)
                base = await self._until_definite(self._put)
            except Fenced as fenced:
                self._stop(batch, fenced)
                return
            except BaseException:
                self._stop(batch, StoreUnavailable(_UNKNOWN))
                raise
            self._note(base)
            self._intake.landed(batch, base)
            with suppress(Retryable, ConfigurationError):  # the next one begins where this one would have
                await self._in_thread(self._writer.put_page)

    async def _make_room(self) -> None:
        """Pause if a newer writer wishes to claim, whose claims came late beside this one's segments."""
        now_s = self._clock.monotonic_s()
        if self._is_closing or now_s - self._made_room_s < WISH_INTERVAL_S:
            return
        self._made_room_s = now_s
        with suppress(BeamExactlyOnceError):  # no answer is no wish: nothing rests on it
            if await self._in_thread(self._writer.is_asked_for_room):
                await asyncio.sleep(ROOM_S)

    def _note(self, base: int) -> None:
        """A segment is in the log from this offset on."""
        assert self._began_s is not None
        now_s = self._clock.monotonic_s()
        self._segments += 1
        self._put_s += now_s - self._began_s
        self._began_s = None
        self._window_age.note(base, now_s)

    async def _has_batch(self) -> bool:
        """Wait for records, and for more of them while there is room; False: the writer is closed, and nothing is left."""
        while not self._intake:
            if self._is_closing:
                return False
            self._wake.clear()
            await self._wake.wait()
        if self._linger_s and not self._is_closing and not self._intake.is_full:
            self._full.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._linger_s)
        return True

    async def _until_definite(self, act: Callable[[], Result]) -> Result:
        """The result, however long it takes. The segment under way stays the same: see :meth:`PartitionWriter.put`."""
        pause_s = PAUSE_FIRST_S
        while True:
            try:
                return await self._in_thread(act)
            except (Retryable, ConfigurationError):  # no answer, no room, no permission: for now
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)

    def _put(self) -> int:
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s >= LOOK_INTERVAL_S:
            if not self._log.is_current():
                raise Fenced(
                    f"{self._store.uri} was wiped, or holds another log than the one of this writer. It stops."
                )
            self._looked_s = now_s
        return self._writer.put()

    def _tick(self) -> None:
        """Answer for batches that have waited too long. They stay: whether they are in the log is unknown."""
        assert self._task is not None
        if self._ack_timeout_s is not None and not self._task.done():
            asyncio.get_running_loop().call_later(self._ack_timeout_s / _TICKS, self._tick)
            self._intake.give_up(_TICKS, StoreUnavailable(_NO_ANSWER))

    def _stop(self, batch: Batch, error: BeamExactlyOnceError) -> None:
        self._error = error
        self._intake.fail(batch, error)
        while self._intake:
            self._intake.fail(self._intake.take(), error)

    def _in_thread(self, act: Callable[[], Result]) -> Awaitable[Result]:
        return asyncio.get_running_loop().run_in_executor(self._pool, act)


def _set(settled: asyncio.Future[Result], done: Result) -> None:
    if not settled.done():  # whoever waited may have given up
        settled.set_result(done)


_TICKS = 8
"""So finely it is measured how long a batch has waited."""
_NO_ANSWER = (
    "the store of the log has given no definite answer in time: whether the records are in the log is unknown. Append them again "
    "with the same ids."
)
_UNKNOWN = (
    "the writer of the log ended before the store gave a definite answer: whether the records are in the log is unknown. "
    "Append them again with the same ids."
)
