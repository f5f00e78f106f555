"""A program: Kafka does not answer, and Python collects garbage in the thread in which the client says so.

The client's answer to the second of two requests is held back until the asking thread has dropped the client after
the first one's failure, as an unlucky switch of threads does. Destroyed in its own thread, a client ends the process.
"""

from __future__ import annotations

import gc
import sys
import threading
from concurrent.futures import Future
from typing import Any
from unittest import mock

from beam_exactly_once import TopicPartition
from beam_exactly_once.clock import SystemClock
from beam_exactly_once.errors import KafkaUnavailable
from beam_exactly_once.kafka import KafkaSettings
from beam_exactly_once.kafka.log import ConfluentLog

PATIENCE_S = 100.0
ASKING = threading.get_ident()


class Pauses(SystemClock):
    """Says when the client was dropped: before it is asked again."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped = threading.Event()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.dropped.set()
        return super().wait(event, timeout_s)


def main() -> None:
    gc.disable()  # but where this program says so
    clock, fail, failures = Pauses(), Future.set_exception, [0]

    def failing(future: Future[Any], error: BaseException | None) -> None:
        if threading.get_ident() != ASKING:
            failures[0] += 1
            if failures[0] > 2:  # of the first request: as a whole, and its only partition
                assert clock.dropped.wait(PATIENCE_S)
                gc.collect()
        fail(future, error)

    with mock.patch.object(Future, "set_exception", failing):
        log = ConfluentLog(KafkaSettings("127.0.0.1:1", timeout_s=2), clock)
        try:
            log.bounds([TopicPartition("orders", 0)])
        except KafkaUnavailable:
            print(f"{failures[0]} failures, and alive")
            sys.exit(0 if failures[0] > 2 else "nothing was held back: the program tests nothing")


if __name__ == "__main__":
    main()
