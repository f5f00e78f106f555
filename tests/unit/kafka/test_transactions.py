"""What a transaction asks of the client, and what it makes of its errors; the client is scripted."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from beam_exactly_once.errors import (
    BeamExactlyOnceError,
    ConfigurationError,
    OutputNotWritable,
    SinkUnavailable,
    UnknownTopic,
)
from beam_exactly_once.kafka import KafkaSettings, kept_clients, transaction_producer
from beam_exactly_once.kafka.transaction_producer import TransactionSettings
from beam_exactly_once.kafka.transactions import OutgoingRecords, Transaction
from beam_exactly_once.secrets import secret_from_env

RETRIABLE = KafkaError(KafkaError._TIMED_OUT, "later", False, True, False)
ABORTABLE = KafkaError(KafkaError._TIMED_OUT, "not delivered", False, False, True)


def fatal(code: int) -> KafkaError:
    return KafkaError(code, "no more", True, False, False)


class ScriptedProducer:
    """Answers each method with the errors given for it, one a call, then well."""

    def __init__(self, **errors: list[BaseException | KafkaError]) -> None:
        self.errors = errors
        self.calls: list[str] = []
        self.config: dict[str, Any] = {}
        self.undelivered: list[int] = []
        """What waits, at one look after the other."""

    def __call__(self, config: dict[str, Any]) -> ScriptedProducer:
        self.config = config
        return self

    def __len__(self) -> int:
        return self.undelivered.pop(0) if self.undelivered else 0

    def __getattr__(self, method: str) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            self.calls.append(method)
            script = self.errors.get(method)
            if script:
                error = script.pop(0)
                raise KafkaException(error) if isinstance(error, KafkaError) else error

        return call


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(producer: ScriptedProducer, timeout_s: float = 30.0) -> None:
        monkeypatch.setattr(transaction_producer, "Producer", producer)
        settings = TransactionSettings(KafkaSettings("broker:9092", timeout_s=timeout_s))
        with Transaction(settings, "id", "orders") as transaction:
            transaction.begin()
            transaction.produce("orders", OutgoingRecords([b"a", b"b"]))
            transaction.commit()

    return run


def test_a_commit_that_timed_out_is_asked_for_again_and_not_aborted(run: Callable[..., None]) -> None:
    producer = ScriptedProducer(commit_transaction=[RETRIABLE, RETRIABLE])
    run(producer)
    assert producer.calls.count("commit_transaction") == 3
    assert "abort_transaction" not in producer.calls


def test_a_commit_that_is_unknown_to_the_end_is_not_aborted(run: Callable[..., None]) -> None:
    producer = ScriptedProducer(commit_transaction=[RETRIABLE] * 1000)
    with pytest.raises(SinkUnavailable, match="could not commit"):
        run(producer, timeout_s=1e-9)
    assert "abort_transaction" not in producer.calls


def test_a_commit_that_is_interrupted_is_not_aborted(run: Callable[..., None]) -> None:
    producer = ScriptedProducer(commit_transaction=[KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        run(producer)
    assert "abort_transaction" not in producer.calls


@pytest.mark.parametrize("step", ["commit_transaction", "produce"])
def test_what_the_client_wants_aborted_is_aborted(run: Callable[..., None], step: str) -> None:
    producer = ScriptedProducer(**{step: [ABORTABLE]})
    with pytest.raises(SinkUnavailable):
        run(producer)
    assert producer.calls[-1] == "abort_transaction"


def test_a_full_queue_is_waited_for_and_the_record_is_sent_once(run: Callable[..., None]) -> None:
    producer = ScriptedProducer(produce=[BufferError(), BufferError(), BufferError()])
    run(producer)
    assert producer.calls.count("produce") == 2 + 3


def test_delivery_that_goes_on_is_waited_for_however_long(run: Callable[..., None]) -> None:
    producer = ScriptedProducer()
    producer.undelivered = list(range(500, 0, -1))
    run(producer, timeout_s=1e-9)
    assert producer.calls.count("commit_transaction") == 1


def test_delivery_that_stands_still_is_given_up_and_aborted(run: Callable[..., None]) -> None:
    producer = ScriptedProducer()
    producer.undelivered = [5] * 500
    with pytest.raises(SinkUnavailable, match="took no record"):
        run(producer, timeout_s=1e-9)
    assert "commit_transaction" not in producer.calls
    assert producer.calls[-1] == "abort_transaction"


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (KafkaError._FENCED, SinkUnavailable, "another producer of transactional.id id took over"),
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, OutputNotWritable, "kafka-acls.sh .*--transactional-id id"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, OutputNotWritable, "Grant the permission"),
        (KafkaError.INVALID_TRANSACTION_TIMEOUT, ConfigurationError, "Lower transaction_timeout_s"),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, UnknownTopic, "the batch waits for it"),
        (KafkaError.INVALID_TIMESTAMP, OutputNotWritable, "message.timestamp.after.max.ms"),
        (KafkaError.MSG_SIZE_TOO_LARGE, OutputNotWritable, "Raise max.message.bytes"),
        (KafkaError._TRANSPORT, SinkUnavailable, "could not prepare"),
    ],
)
def test_errors_say_who_must_act(
    run: Callable[..., None], code: int, error: type[BeamExactlyOnceError], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(ScriptedProducer(init_transactions=[fatal(code)]))


@pytest.mark.parametrize("key", ["transactional.id", "acks", "partitioner", "enable.idempotence", "compression.type"])
def test_properties_that_are_the_sinks_own_are_refused(key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{key} cannot be set for a sink"):
        TransactionSettings(KafkaSettings("broker:9092", {key: "1"}))


@pytest.mark.parametrize(
    "change", [{"transaction_timeout_s": 0}, {"transaction_timeout_s": 1000}, {"compression": "rar"}]
)
def test_impossible_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(change))):
        TransactionSettings(KafkaSettings("broker:9092"), **change)


def test_the_users_properties_reach_the_producer_and_secrets_nobody_else(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., None]
) -> None:
    monkeypatch.setenv("PASSWORD", "s3cret")
    config = {"sasl.password": secret_from_env("PASSWORD"), "linger.ms": 7}
    settings = TransactionSettings(KafkaSettings("broker:9092", config))
    producer = ScriptedProducer(init_transactions=[KafkaError(KafkaError._FAIL, "wrong s3cret", True, False, False)])
    monkeypatch.setattr(transaction_producer, "Producer", producer)
    with pytest.raises(SinkUnavailable) as caught, Transaction(settings, "id", "orders", max_batch_bytes=5000):
        pass
    assert producer.config["sasl.password"] == "s3cret"
    assert (producer.config["linger.ms"], producer.config["batch.size"]) == ("7", "5000")
    assert "s3cret" not in f"{caught.value} {settings!r} {pickle.dumps(settings)!r}"


def caused(error: KafkaError) -> SystemError:
    blamed = SystemError("a callback returned a result with an exception set")
    blamed.__cause__ = KafkaException(error)
    return blamed


@pytest.mark.parametrize(
    "raised",
    [fatal(KafkaError._FENCED), caused(fatal(KafkaError._FENCED)), SystemError("returned NULL without an exception")],
)
def test_a_fatal_error_is_heard_however_it_comes_out(
    run: Callable[..., None], raised: KafkaError | SystemError
) -> None:
    producer = ScriptedProducer(flush=[raised], commit_transaction=[fatal(KafkaError._FENCED)])
    producer.undelivered = [2, 0]
    with pytest.raises(SinkUnavailable, match=r"another producer of transactional\.id id took over"):
        run(producer)


class RefusingProducer(ScriptedProducer):
    """Says of records what became of them, not why."""

    def flush(self, _: float) -> None:
        self.config["on_delivery"](KafkaError(KafkaError._PURGE_QUEUE), None)


def test_the_cause_is_named_and_not_what_followed_from_it(run: Callable[..., None]) -> None:
    denied = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "no right to write", False, False, True)
    producer = RefusingProducer(commit_transaction=[denied])
    producer.undelivered = [2, 0]
    with pytest.raises(OutputNotWritable, match=r"no right to write\), for topic orders\. Grant the permission"):
        run(producer)


@pytest.mark.parametrize(
    ("errors", "spares"),
    [({}, 1), ({"commit_transaction": [fatal(KafkaError._FENCED)]}, 0), ({"produce": [ABORTABLE]}, 0)],
)
def test_a_spare_is_left_by_who_committed(
    run: Callable[..., None], errors: dict[str, list[BaseException | KafkaError]], spares: int
) -> None:
    producer = ScriptedProducer(**errors)
    with kept_clients.keeping_clients():
        with contextlib.suppress(SinkUnavailable):
            run(producer)
        assert len(kept_clients._kept) == spares


@pytest.mark.parametrize(("answers", "calls"), [([], 0), ([RETRIABLE], 1), ([RETRIABLE, RETRIABLE], 2)])
def test_a_spare_is_waited_for_by_who_needs_it(
    monkeypatch: pytest.MonkeyPatch, answers: list[BaseException | KafkaError], calls: int
) -> None:
    producer = ScriptedProducer()
    monkeypatch.setattr(transaction_producer, "Producer", producer)
    settings = TransactionSettings(KafkaSettings("broker:9092"))
    with kept_clients.keeping_clients():
        with Transaction(settings, "id", "orders") as first:
            first.begin()
            first.commit()
            producer.errors["init_transactions"] = answers
        producer.calls.clear()
        with Transaction(settings, "id", "orders"):
            assert producer.calls == ["init_transactions"] * calls
