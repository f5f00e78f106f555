"""How often a batch is run again whose runner was lost, and with which pauses.

That a runner was lost says nothing of the batch, so it is run again. But a step that kills its worker looks the same each time,
and a cluster that is away may stay away: then whoever looks after the driver must hear of it.
"""

from __future__ import annotations

import threading

from beam_exactly_once.clock import Clock
from beam_exactly_once.errors import Retryable
from beam_exactly_once.patience import Patience

MAX_ATTEMPTS = 7
"""Of one batch in one driver."""
GIVE_UP_S = 120.0
"""No attempt begins later than that behind the first one that was lost."""
FIRST_PAUSE_S = 0.5
"""What tells that a process is lost may come before its end."""
MAX_PAUSE_S = 8.0


class LostRunner:
    """Counts the attempts at one batch that were lost with their runner.

    Args:
        clock: tells time, and waits.
        stop: no attempt begins once it is set.
        max_attempts: at most so many, the first one among them.
        min_attempts: so many in any case, however long each of them takes.
    """

    def __init__(
        self, clock: Clock, stop: threading.Event, max_attempts: int = MAX_ATTEMPTS, *, min_attempts: int = 1
    ) -> None:
        self._clock = clock
        self._stop = stop
        self._max_attempts = max_attempts
        self._min_attempts = min_attempts
        self._patience: Patience | None = None
        self.attempts = 0
        """That were lost."""

    def wait_for_next(self, batch_id: int, error: Retryable) -> None:
        """Wait until the batch may be run again.

        Args:
            batch_id: of the batch.
            error: what its attempt was lost with.

        Raises:
            Retryable: it may not, in this driver: too many attempts, too late, or the stream is to stop.
        """
        self.attempts += 1
        if self._patience is None:
            self._patience = Patience(
                self._clock,
                timeout_s=GIVE_UP_S,
                max_tries=self._max_attempts,
                first_pause_s=FIRST_PAUSE_S,
                max_pause_s=MAX_PAUSE_S,
            )
        may_try = self.attempts < self._min_attempts or not self._patience.is_over
        if may_try and not self._stop.is_set():
            self._patience.wait(self._stop)
            if not self._stop.is_set():
                return
        if self.attempts == 1:
            raise error
        raise type(error)(f"batch {batch_id} lost its runner {self.attempts} times, at last: {error}") from error
