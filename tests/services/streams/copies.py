"""A stream from Kafka in memory to a topic on a real broker, in this process or in one that is killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

import apache_beam as beam
from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as ClientTopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

import support.beam.done_once  # noqa: F401
from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles, WriteToKafka
from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.errors import BeamExactlyOnceError
from beam_exactly_once.kafka.receipts_topic import ReceiptsTopic
from beam_exactly_once.kafka.transactions import Transaction
from beam_exactly_once.testing import MemoryKafka
from services.streams.topics import TIMEOUT_S, settle, wait_until
from support.stream_under_test import opened

LIFE_TIMEOUT_S = 240.0
READ_TIMEOUT_S = 120.0
KEYS = 5

# The fork server imports by its own path, which knows nothing of pytest's.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["services.streams.copies"])

STEPS: dict[str, tuple[type, str]] = {
    "init_transactions": (Transaction, "__enter__"),
    "the receipt was read": (ReceiptsTopic, "newest"),
    "begin_transaction": (Transaction, "begin"),
    "produce": (Transaction, "produce"),
    "commit": (Transaction, "commit"),
}
"""What a publish does, in this order; ``produce`` once a block of rows, and once for the receipt."""


@contextlib.contextmanager
def at(step: str, occurrence: int, act: Callable[[Any], None], *, before: bool = False) -> Iterator[None]:
    """Run ``act`` with the object of the call before or after the ``occurrence``-th call of a step, in this process."""
    owner, method = STEPS[step]
    real, calls = getattr(owner, method), [0]

    def watched(self: Any, *arguments: Any) -> Any:
        calls[0] += 1
        is_it = calls[0] == occurrence
        if is_it and before:
            act(self)
        result = real(self, *arguments)
        if is_it and not before:
            act(self)
        return result

    with mock.patch.object(owner, method, watched):
        yield


def delivered(transaction: Transaction) -> None:
    """Let all that was produced reach the log; the transaction stays open."""
    assert transaction._running.flush(READ_TIMEOUT_S) == 0
    assert transaction._failed_delivery is None


@dataclass(frozen=True)
class Copy:
    """Numbers ``0, 1, …``, four a batch, to a topic. A number's key is its remainder by :data:`KEYS`."""

    bootstrap_servers: str
    topic: str
    checkpoint: str
    options: dict[str, Any] = field(default_factory=dict)

    def run(self, count: int, **options: Any) -> None:
        """Run until the first ``count`` numbers are copied.

        ``options`` are of the sink, but ``through``, a step before it; ``second``, the topic of another one;
        ``compacted_to``, the offsets that the source still has; ``rejected``, where files of rejected rows go.
        """
        cluster = MemoryKafka({"numbers": 1})
        cluster.append(
            Record("numbers", key=b"%d" % (n % KEYS), value=b"%d" % n, timestamp_ms=1_000_000 + n) for n in range(count)
        )
        cluster.compact("numbers", 0, options.pop("compacted_to", range(count)))
        through = options.pop("through", None)
        second = options.pop("second", None)
        rejected = options.pop("rejected", None)
        if rejected is not None:
            options["on_error"] = "reject"
        settings = {"shards": 2, "order_by": ["offset"], **self.options, **options}
        with cluster.serving(), ExactlyOnceStream(self.checkpoint) as stream:
            rows = stream | ReadFromKafka("memory:9092", ["numbers"], max_batch_offsets=4)
            rows = rows if through is None else rows | beam.FlatMap(through)
            unfit = rows | WriteToKafka(self.bootstrap_servers, self.topic, **settings)
            if rejected is not None:
                _ = unfit | "Rejected" >> WriteToFiles(str(rejected), name="rejected")
            if second is not None:
                _ = rows | "Second" >> WriteToKafka(self.bootstrap_servers, second, name="second", **settings)

    def elsewhere(self) -> Copy:
        """The same output by another stream."""
        return replace(self, checkpoint=f"{self.checkpoint}-{secrets.token_hex(4)}")

    def opened(self) -> Checkpoint:
        """Its checkpoint."""
        return opened(self.checkpoint)

    @property
    def receipts_topic(self) -> str:
        return f"beam-exactly-once.{self.opened().stream_id}.kafka"


def records_of(bootstrap_servers: str, topic: str, isolation_level: str = "read_committed") -> list[Message]:
    """All records of a topic, as a plain consumer sees them, partition by partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "none",
            "enable.partition.eof": True,
            "isolation.level": isolation_level,
        }
    )
    found: list[Message] = []
    try:
        for partition in sorted(consumer.list_topics(topic, timeout=READ_TIMEOUT_S).topics[topic].partitions):
            consumer.assign([ClientTopicPartition(topic, partition, 0)])
            while True:
                message = consumer.poll(READ_TIMEOUT_S)
                assert message is not None, f"neither a record nor the end of {topic}-{partition}"
                if message.error() is None:
                    found.append(message)
                    continue
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                break
        return found
    finally:
        consumer.close()


def numbers_of(messages: list[Message]) -> list[int]:
    return sorted(int(message.value() or b"") for message in messages)


def assert_exactly_once(copy: Copy, count: int) -> None:
    """By value: every number once, those of a key in one partition and in order."""
    records = records_of(copy.bootstrap_servers, copy.topic)
    assert numbers_of(records) == list(range(count))
    of_key: dict[bytes, list[tuple[int, int]]] = {}
    for record in records:
        of_key.setdefault(record.key() or b"", []).append((record.partition() or 0, int(record.value() or b"")))
    for key, places in of_key.items():
        assert len({partition for partition, _ in places}) == 1, key
        assert [number for _, number in places] == list(range(int(key), count, KEYS)), key


def _live(copy: Copy, count: int, step: str, occurrence: int, before: bool, flush: bool) -> None:
    """One life in its own process, killed at a step."""

    def kill(transaction: Any) -> None:
        if flush:
            delivered(transaction)
        os.kill(os.getpid(), signal.SIGKILL)

    try:
        with at(step, occurrence, kill, before=before):
            copy.run(count)
    except BeamExactlyOnceError as error:
        os._exit(error.exit_code)
    os._exit(0)


def live(copy: Copy, count: int, step: str, occurrence: int, *, before: bool = False, flush: bool = False) -> int:
    """The exit code of a life that is killed at a step; negative for the signal."""
    with started(copy, count, step, occurrence, before=before, flush=flush) as process:
        process.join(LIFE_TIMEOUT_S)
        assert process.exitcode is not None, f"no end after {LIFE_TIMEOUT_S} s"
        return process.exitcode


@contextlib.contextmanager
def started(
    copy: Copy, count: int, step: str = "commit", occurrence: int = 0, *, before: bool = False, flush: bool = False
) -> Iterator[ForkServerProcess]:
    """A life in a process of its own, which ends with the block; killed at a step if an occurrence from 1 on is given."""
    process: ForkServerProcess = _CONTEXT.Process(target=_live, args=(copy, count, step, occurrence, before, flush))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


class Asleep:
    """A driver in a thread of its own that sleeps at a step until it is woken."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._asleep, self._woken = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(run,), daemon=True)

    def fall_asleep(self, _: object) -> None:
        if threading.current_thread() is self._thread:
            self._asleep.set()
            assert self._woken.wait(TIMEOUT_S)

    def start(self) -> None:
        self._thread.start()
        assert self._asleep.wait(TIMEOUT_S)

    def wake(self) -> BaseException | None:
        """How it ends."""
        self._woken.set()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        return self._error

    def _run(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:
            self._error = error


def fail(_: object) -> None:
    """What :func:`at` does where a driver dies by an error."""
    raise RuntimeError("killed here")


def alter_config(admin: AdminClient, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    settle(admin.incremental_alter_configs([resource]))

    def is_altered() -> bool:
        try:
            found = admin.describe_configs([resource])[resource].result(TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:  # a topic that is new to this broker
                return False
            raise
        return str(found[name].value) == value

    wait_until(is_altered)


def delete_topic(admin: AdminClient, topic: str) -> None:
    settle(admin.delete_topics([topic]))
    wait_until(lambda: topic not in admin.list_topics(timeout=TIMEOUT_S).topics)
