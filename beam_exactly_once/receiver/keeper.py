"""Who keeps the writer of the log: from the start on, or from the first request on that another receiver does not answer.

A receiver that claims at its start fences the one before it, and ends when it is fenced itself. One that stands by claims only
for a request that passed all checks, and only if the log has not moved for a while: a port scan, a wrong token or a request that
went astray does not fence a receiver that is at work. When it is fenced it stands by again. What it looks at decides when to
claim, and nothing else: two that claim at once are told apart by the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock, now_ms
from beam_exactly_once.errors import BeamExactlyOnceError, ConfigurationError, Fenced, StoreUnavailable, UnknownTopic
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.receiver.forms import Records
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.writer import Appended, WalWriter
from beam_exactly_once.wal.writer_state import WriterState

ClaimAt: TypeAlias = Literal["at-start", "at-first-request"]
FENCED_PAUSE_S = 30.0
"""So long the log must stand still before a receiver that was fenced claims it again."""
CLOSE_TIMEOUT_S = 5.0
"""For what is under way when the last request was answered: it can only be what nobody waits for."""
MAX_CLOCK_BEHIND_S = 300.0
_LOGGER = logging.getLogger(__name__)


class Keeper:
    """Keeps the writer of one partition.

    Args:
        location: the log's.
        partition: which one.
        linger_s: how long a segment waits for more records.
        id_window: among how many of the last offsets an id is recognised.
        max_pending_bytes: what may wait for the store.
        ack_timeout_s: how long a request waits for the store.
        claim: when to claim the partition.
        takeover_after_s: so long the log must stand still before one that stands by claims it.
        storage_options: of the store.
        clock: tells when records arrived.
    """

    def __init__(
        self,
        location: str,
        *,
        partition: int = 0,
        linger_s: float,
        id_window: int,
        max_pending_bytes: int,
        ack_timeout_s: float,
        claim: ClaimAt = "at-start",
        takeover_after_s: float,
        storage_options: dict[str, Any] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.ended: asyncio.Future[BeamExactlyOnceError] = asyncio.get_running_loop().create_future()
        """Set when the receiver has to end, to why."""
        self._new_writer: Callable[[], WalWriter] = lambda: WalWriter(
            location,
            partition=partition,
            linger_s=linger_s,
            id_window=id_window,
            max_pending_bytes=max_pending_bytes,
            ack_timeout_s=ack_timeout_s,
            storage_options=storage_options,
            clock=clock,
        )
        self._new_writer()  # what is wrong with the arguments shows now, also of one that stands by
        self._clock = clock
        self._store = open_object_store(location, storage_options)
        self._partition = partition
        self._max_pending_bytes = max_pending_bytes
        self._ack_timeout_s = ack_timeout_s
        self._stands_by = claim == "at-first-request"
        self._takeover_after_s = takeover_after_s
        self._writer: WalWriter | None = None
        self._why_not = "no request has come yet"
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_claiming = False
        self._is_closing = False

    async def start(self) -> None:
        """Claim the partition, unless this is to be done later. Raises what entering a ``WalWriter`` does."""
        if not self._stands_by:
            await self._claim()

    def append(self, records: Records, on_settled: Callable[[Appended | BeamExactlyOnceError], None]) -> None:
        """Say when the records are durable, or why they are not. Raises what ``WalWriter.submit`` does."""
        if self._writer is None:
            self._claim_if_due()
            raise StoreUnavailable(
                "this receiver does not write now, and looks whether another one does. Nothing was taken: send the request again."
            )
        self._writer.submit(records.of_log(self._writer.log_id, now_ms(self._clock)), on_settled)

    async def close(self) -> None:
        """Wait until what was taken is in the log, as long as somebody may still hear of it."""
        self._is_closing = True
        writer, self._writer = self._writer, None
        for task in self._tasks:
            task.cancel()
        if writer is not None:
            try:
                await asyncio.wait_for(writer.__aexit__(None, None, None), CLOSE_TIMEOUT_S)
            except asyncio.TimeoutError:
                _LOGGER.warning("the store has not answered: whether the last segment is in the log is unknown")

    # -- what is known -------------------------------------------------------------------------------------------------

    def readiness(self) -> dict[str, Any]:
        """Whether records can be taken now, as ``ready``, and why not. One that stands by is ready: it claims when it must."""
        if self._writer is None:
            return {"ready": self._stands_by and not self._is_closing, "state": "standing by", "why": self._why_not}
        state = self._writer.state()
        notes = list(self._faults(state))
        if state.clock_behind_s > MAX_CLOCK_BEHIND_S:
            notes.append(f"at its claim the clock was {state.clock_behind_s:.0f} s behind the records of the log")
        if state.window_s is not None and state.window_s < 3 * self._ack_timeout_s:
            notes.append(f"the id window is {state.window_s:.0f} s long: what comes again later is there twice")
        return {"ready": not self._is_closing and not any(self._faults(state)), "state": "writing", "notes": notes}

    def gauges(self) -> dict[str, float]:
        """For ``/metrics``."""
        if self._writer is None:
            return {"writing": 0}
        state = self._writer.state()
        return {
            "writing": 1,
            "end_offset": state.end,
            "segments_total": state.segments,
            "segment_seconds_total": state.put_s,
            "pending_bytes": state.pending_bytes,
            "store_wait_seconds": state.waits_s,
            "id_window_records": state.ids,
            **({} if state.window_s is None else {"id_window_seconds": state.window_s}),
        }

    def _faults(self, state: WriterState) -> list[str]:
        late = f"the store has not answered for {state.waits_s:.0f} s"
        return [late] if state.waits_s > self._ack_timeout_s else []

    # -- claiming ------------------------------------------------------------------------------------------------------

    def _claim_if_due(self) -> None:
        if self._stands_by and not self._is_claiming and not self._is_closing:
            self._is_claiming = True
            self._begin(self._take_over())

    async def _claim(self) -> None:
        writer = self._new_writer()
        await writer.__aenter__()
        if self._is_closing:
            await writer.__aexit__(None, None, None)
            return
        self._writer = writer
        self._begin(self._watch(writer))

    async def _watch(self, writer: WalWriter) -> None:
        """What to do when the writer ends of itself."""
        error = await writer.ended()
        if self._is_closing:
            return
        self._writer = None
        if self._stands_by and isinstance(error, Fenced):
            self._why_not = "another receiver has claimed the partition"
            self._takeover_after_s = max(self._takeover_after_s, FENCED_PAUSE_S)
            _LOGGER.warning("fenced: %s It stands by.", error)
        elif not self.ended.done():
            self.ended.set_result(error or StoreUnavailable("the writer of the log has ended."))

    async def _take_over(self) -> None:
        """Claim the partition if the log stands still."""
        loop = asyncio.get_running_loop()
        try:
            before = await loop.run_in_executor(None, self._newest)
            await asyncio.sleep(self._takeover_after_s)
            if before == await loop.run_in_executor(None, self._newest):
                await self._claim()
            else:
                self._why_not = "another receiver is at work"
        except BeamExactlyOnceError as error:
            self._why_not = f"{type(error).__name__}: {error}"
            _LOGGER.warning("could not claim the partition: %s", self._why_not)
            if isinstance(error, ConfigurationError) and not self.ended.done():
                self.ended.set_result(error)
        finally:
            self._is_claiming = False

    def _newest(self) -> tuple[str, int | None] | None:
        try:
            log = WalLocation.on(self._store)
        except UnknownTopic:
            return None
        return log.log_id, log.newest_base(self._partition)

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
