"""Whether a driver may go by its clock: what a clock that runs ahead has fired and forgotten cannot be taken back."""

from __future__ import annotations

from beam_exactly_once.checkpoint import StreamWriter, layout
from beam_exactly_once.clock import Clock, now_ms
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.pipelines.known_operators import AHEAD_MS


def refuse_clock_ahead(writer: StreamWriter, clock: Clock) -> None:
    """Compare this machine's clock with that of the store, which has just written the claim of ``writer``. One HEAD.

    Stores without a clock of their own, such as the local disk, say nothing.

    Raises:
        ConfigurationError: it is more than five minutes ahead.
    """
    at_ms, store = now_ms(clock), writer.checkpoint.store
    written_at_ms = store.written_at_ms(layout.writer_key(writer.writer_epoch))
    ahead_ms = 0 if written_at_ms is None else at_ms - written_at_ms
    if ahead_ms > AHEAD_MS:
        raise ConfigurationError(
            f"the clock of this machine is {ahead_ms // 1000} s ahead of that of {store.uri}: by it, timeouts would fire and "
            "keys be forgotten too early, for good. Nothing was planned. Set the clock, and start again."
        )
