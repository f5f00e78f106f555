"""Records at a steady rate, each with a number of its own."""

from __future__ import annotations

import threading
import time

from confluent_kafka import KafkaError, Message, Producer

TICK_S = 0.02
FLUSH_TIMEOUT_S = 120.0


class Sender:
    """Sends the numbers 0, 1, 2 … to a topic, in a thread, until it is ended.

    Args:
        bootstrap_servers: of the broker.
        topic: which is there.
        records_per_s: how many a second. What a slow machine misses is made up for.
    """

    def __init__(self, bootstrap_servers: str, topic: str, records_per_s: int) -> None:
        self._producer = Producer(
            {"bootstrap.servers": bootstrap_servers, "enable.idempotence": True, "linger.ms": 5, "log_level": 0}
        )
        self._topic = topic
        self._records_per_s = records_per_s
        self._is_ending = threading.Event()
        self._refused: list[KafkaError] = []
        self.sent = 0
        self._thread = threading.Thread(target=self._send, name="sender", daemon=True)
        self._thread.start()

    def _send(self) -> None:
        began_s = time.monotonic()
        while not self._is_ending.wait(TICK_S):
            due = int((time.monotonic() - began_s) * self._records_per_s)
            while self.sent < due:
                try:
                    self._producer.produce(self._topic, b"%d" % self.sent, on_delivery=self._delivered)
                except BufferError:
                    self._producer.poll(0.1)
                    continue
                self.sent += 1
            self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused.append(error)

    def end(self) -> int:
        """Send no more; returns how many records the topic has."""
        self._is_ending.set()
        self._thread.join()
        left = self._producer.flush(FLUSH_TIMEOUT_S)
        assert not left, f"{left} records were not sent"
        assert not self._refused, self._refused[0]
        return self.sent
