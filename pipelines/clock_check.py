"""Whether a driver may go by its clock: what a clock that runs ahead has fired and forgotten cannot be taken back."""

from __future__ import annotations

from beam_exactly_once.checkpoint import layout
from beam_exactly_once.clock import Clock, now_ms
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.object_store import VERIFY_PREFIX, ObjectStore
from beam_exactly_once.pipelines.known_operators import AHEAD_MS
from beam_exactly_once.randomness import new_token


def refuse_clock_ahead(store: ObjectStore, clock: Clock) -> None:
    """Compare this machine's clock with that of the checkpoint's store; at a start, before it stops a driver that works.

    Stores without a clock of their own, such as the local disk, say nothing. Costs a PUT, two HEADs and a DELETE on others.

    Raises:
        ConfigurationError: it is more than five minutes ahead.
    """
    if store.written_at_ms(layout.METADATA) is None:
        return
    at_ms = now_ms(clock)
    probe = f"{VERIFY_PREFIX}{new_token(16)}"
    store.put_if_absent(probe, b"")
    written_at_ms = store.written_at_ms(probe)
    store.delete([probe])
    ahead_ms = 0 if written_at_ms is None else at_ms - written_at_ms
    if ahead_ms > AHEAD_MS:
        raise ConfigurationError(
            f"the clock of this machine is {ahead_ms // 1000} s ahead of that of {store.uri}: by it, timeouts would fire and "
            "keys be forgotten too early, for good. No batch was planned by it. Set the clock, and start again."
        )


class BatchClock:
    """Gives the time of each batch of a stream with state.

    A clock that is set while a stream runs is found by the steady one: when it has moved five minutes more than that, it is
    compared with the store's. That of a machine that slept is as far ahead, and right. So batches cost no request for it.

    Args:
        store: of the checkpoint.
        clock: of this machine, which was just compared.
    """

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._compared_ms = self._beyond_steady_ms()

    def now_ms(self) -> int:
        """The time of a batch.

        Raises:
            ConfigurationError: it is more than five minutes ahead of the store's.
        """
        beyond_ms = self._beyond_steady_ms()
        if beyond_ms - self._compared_ms > AHEAD_MS:
            refuse_clock_ahead(self._store, self._clock)
            self._compared_ms = beyond_ms
        return now_ms(self._clock)

    def _beyond_steady_ms(self) -> int:
        return now_ms(self._clock) - int(self._clock.monotonic_s() * 1000)
