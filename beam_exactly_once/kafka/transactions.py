"""Kafka transactions: one producer, one transaction, and nothing after it.

A producer lives for a single transaction. Its ``init_transactions`` raises the epoch of the ``transactional.id``, which ends what
an earlier producer left open and refuses whatever of it is still under way. The client keeps the epoch from one transaction to
the next, and repeats requests by itself: an ``EndTxn`` that was late could then end the transaction that follows (KIP-890, which
the client lacks). Where none follows, there is nothing to end.

To be opened and initialised takes a producer longer than a small transaction. So a transaction that committed leaves a *spare*
behind, where clients are kept (:mod:`.kept_clients`): the next producer of its id, which is initialised by itself meanwhile. It
fences like any other, and may be fenced like any other before it is used: :attr:`Transaction.was_fenced_as_spare`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Sequence
from itertools import repeat
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from confluent_kafka import KafkaError, KafkaException, Producer

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import (
    BeamExactlyOnceError,
    ConfigurationError,
    OutputNotWritable,
    SinkUnavailable,
    UnknownTopic,
)
from beam_exactly_once.kafka import kept_clients
from beam_exactly_once.kafka.client_errors import DENIED_CODES, UNKNOWN_TOPIC_CODES, ClientErrors
from beam_exactly_once.kafka.transaction_producer import CONSEQUENCES, TransactionProducer, TransactionSettings
from beam_exactly_once.patience import Patience

_ANY_PARTITION = -1
_NOW = 0
_CALL_S = 5.0
"""One call to the client; it is repeated, so that signals are served in between."""
_PAUSE_S = 0.1
_ABORT_TIMEOUT_S = 10.0
_FENCED_CODES = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.INVALID_TXN_STATE,
    }
)
_TRANSACTIONAL_ID_REFUSED = KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
_TOO_LARGE_CODES = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_BAD_RECORD_CODES = frozenset({KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP, KafkaError.INVALID_MSG})

_log = logging.getLogger(__name__)


class OutgoingRecords(NamedTuple):
    """Records to be produced, one list a column. None for a whole column: no record has any."""

    values: Sequence[bytes | None]
    keys: Sequence[bytes | None] | None = None
    timestamps_ms: Sequence[int] | None = None
    """0 is the time of producing."""
    partitions: Sequence[int] | None = None
    """Without them, a record goes by its key, and one without a key anywhere."""
    headers: Sequence[list[tuple[str, bytes | None]] | None] | None = None


class Transaction:
    """One transaction; a context manager that aborts it unless its commit was begun.

        with Transaction(settings, "id", "orders") as transaction:  # nobody's transaction under this id is open now
            transaction.begin()
            transaction.produce("orders", records)
            transaction.commit()

    Args:
        settings: of the cluster and its transactions.
        transactional_id: only one producer of it can commit: the last that entered.
        topic: where records go; it exists.
        max_batch_bytes: largest batch of records to send; a topic's ``max.message.bytes`` bounds it.
        fresh: do not begin with a spare: nobody's transaction may be open once this one is entered.

    Attributes:
        was_fenced_as_spare: it failed since its producer was a spare and another one took the id meanwhile, or the
            cluster forgot it. Unlike with a new producer, that may be long ago and nobody's fault: enter another one, ``fresh``.

    Raises:
        SinkUnavailable: no broker answers, or another producer took the id. Whether an interrupted commit happened is
            for who comes next to find out.
        KafkaRefused, OutputNotWritable: the cluster does not let us in, or refuses.
        ConfigurationError: the client refuses its configuration.
    """

    def __init__(
        self,
        settings: TransactionSettings,
        transactional_id: str,
        topic: str,
        *,
        max_batch_bytes: int | None = None,
        fresh: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = settings
        self._id = transactional_id
        self._topic = topic
        self._max_batch_bytes = max_batch_bytes
        self._fresh = fresh
        self._clock = clock
        self._began_s: float | None = None
        self._client: TransactionProducer | None = None
        self._is_open = False
        self._is_committed = False
        self.was_fenced_as_spare = False

    def __enter__(self) -> Transaction:
        spare: TransactionProducer | None = kept_clients.take(self._key, self._clock)
        if spare is not None and self._fresh:
            spare.close()
            spare = None
        self._client = spare or TransactionProducer(self._settings, self._id, self._max_batch_bytes)
        if spare is None:
            # Without a connection, init_transactions looks for one again after half a second.
            with contextlib.suppress(KafkaException):
                self._running.list_topics(self._topic, _CALL_S)
        if not self._client.is_prepared:
            self._call("prepare its transactions", self._running.init_transactions)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        if self._is_open:
            try:
                client.producer.abort_transaction(_ABORT_TIMEOUT_S)
            except KafkaException:
                _log.info(
                    "the transaction of %s could not be aborted; the broker does it within %g s, or at the next start",
                    self._id,
                    self._settings.transaction_timeout_s,
                )
        client.close()
        if self._is_committed and kept_clients.is_keeping():
            self._leave_spare()

    def begin(self) -> None:
        """Let what is produced from now on belong to the transaction."""
        self._began_s = self._clock.monotonic_s()
        self._call("begin", lambda _: self._running.begin_transaction())
        self._is_open = True

    def produce(self, topic: str, records: OutgoingRecords) -> None:
        """Hand over records of one topic. Order is kept within a partition. Delivery is certain only after :meth:`commit`."""
        produce = self._running.produce
        rows = zip(
            repeat(topic),
            records.values,
            repeat(None) if records.keys is None else records.keys,
            repeat(_ANY_PARTITION) if records.partitions is None else records.partitions,
            repeat(None),  # no callback a record,
            repeat(None),  # by either of its names
            repeat(_NOW) if records.timestamps_ms is None else records.timestamps_ms,
            repeat(None) if records.headers is None else records.headers,
            strict=False,
        )
        try:
            for row in rows:
                try:
                    produce(*row)
                except BufferError:
                    self._wait_for_room(row)
        except KafkaException as exception:
            error = exception.args[0]
        else:
            return
        self._raise(error, f"take a record for topic {topic}")

    def commit(self) -> None:
        """Make all that was produced visible, at once.

        A commit whose outcome is unknown is asked for again, and not aborted: the broker may have decided it.
        """
        self._deliver()
        self._is_open = False
        self._call("commit", self._commit_once)
        self._is_committed = True

    # -- the client --------------------------------------------------------------------------------------------

    @property
    def _running(self) -> Producer:
        assert self._client is not None, "used outside of its with block"
        return self._client.producer

    @property
    def _errors(self) -> ClientErrors:
        assert self._client is not None, "used outside of its with block"
        return self._client.errors

    @property
    def _failed_delivery(self) -> KafkaError | None:
        return None if self._client is None else self._client.deliveries.failed

    @property
    def _key(self) -> Hashable:
        return self._settings, self._id, self._max_batch_bytes

    def _leave_spare(self) -> None:
        try:
            spare = TransactionProducer(self._settings, self._id, self._max_batch_bytes)
        except BeamExactlyOnceError:  # a secret that is gone: the next transaction says it, this one is done
            return
        spare.become_spare()
        kept_clients.keep(self._key, spare, self._clock)

    def _wait_for_room(self, row: tuple[Any, ...]) -> None:
        """The client's queue is full. What cannot be sent for as long as the transaction may last fails and leaves it."""
        while True:
            self._serve(self._running.poll, 0.01)
            try:
                self._running.produce(*row)
                return
            except BufferError:
                continue

    def _deliver(self) -> None:
        """Wait for the broker to take all records, for as long as it takes any."""
        producer, timeout_s = self._running, self._settings.connection.timeout_s
        waiting, deadline_s = len(producer), self._clock.monotonic_s() + timeout_s
        while waiting and self._failed_delivery is None:
            self._serve(producer.flush, min(_CALL_S, timeout_s))
            left = len(producer)
            if left < waiting:
                waiting, deadline_s = left, self._clock.monotonic_s() + timeout_s
            elif self._clock.monotonic_s() > deadline_s:
                self._errors.raise_if_refused()
                raise SinkUnavailable(
                    f"{self._where} took no record of transaction {self._id} for {timeout_s:g} s, {left} wait; "
                    f"{self._errors.describe()}. They are written at the next start."
                )

    def _commit_once(self, timeout_s: float) -> None:
        try:
            self._running.commit_transaction(timeout_s)
        except KafkaException as exception:
            # Only then the broker was not asked to commit, or said no.
            self._is_open = exception.args[0].txn_requires_abort()
            self._serve(self._running.poll, 0)  # lets the client say which delivery failed
            raise

    def _serve(self, wait: Callable[[float], object], timeout_s: float) -> None:
        """Let the client call back. A fatal error comes out of that, too: as itself, as the cause of a SystemError that the next
        callback is blamed for, or as one without a cause. Then the next request says what it was."""
        try:
            wait(timeout_s)
        except (KafkaException, SystemError) as exception:
            fatal = exception if isinstance(exception, KafkaException) else exception.__cause__
            if isinstance(fatal, KafkaException) and self._client is not None:
                self._client.deliveries.remember(fatal.args[0], None)

    def _call(self, what: str, call: Callable[[float], None]) -> None:
        """Call until it is settled; a call that timed out goes on where it was."""
        patience = Patience(self._clock, timeout_s=self._settings.connection.timeout_s, first_pause_s=_PAUSE_S)
        while True:
            try:
                call(max(_PAUSE_S, min(_CALL_S, patience.left_s)))
                self._errors.forget()
                return
            except KafkaException as exception:  # cannot be pickled, so it must not leave this process
                error = exception.args[0]
            if not error.retriable() or patience.is_over:
                break
            patience.wait()
        self._raise(error, what)

    def _raise(self, error: KafkaError, what: str) -> NoReturn:
        delivery = self._failed_delivery
        cause = error if delivery is None or delivery.code() in CONSEQUENCES else delivery
        self._errors.raise_if_refused()
        text = self._errors.text_of(cause)
        raise self._error_of(cause.code(), what, text)

    def _error_of(self, code: int, what: str, text: str) -> BeamExactlyOnceError:
        where = self._where
        if code == _TRANSACTIONAL_ID_REFUSED:
            return OutputNotWritable(
                f"{where} does not let us use transactional.id {self._id} ({text}). Allow it, and start again: kafka-acls.sh "
                f"--add --allow-principal User:… --operation Write --operation Describe --transactional-id {self._id}"
            )
        if code in DENIED_CODES:
            return OutputNotWritable(
                f"{where} refused to {what} ({text}), for topic {self._topic}. Grant the permission, and start again."
            )
        if code in UNKNOWN_TOPIC_CODES:
            return UnknownTopic(
                f"{where} could not {what}: the topic or partition does not exist (any more): {text}. Create it, and start "
                "again: the batch waits for it."
            )
        if code in _TOO_LARGE_CODES:
            return OutputNotWritable(
                f"{where} could not {what}: a batch of records is larger than the topic takes ({text}). Raise max.message.bytes "
                "of the topic, and start again: the batch waits for it."
            )
        if code in _BAD_RECORD_CODES:
            return OutputNotWritable(
                f"{where} could not {what}: the topic takes no such record ({text}). Look at message.timestamp.after.max.ms and "
                "message.timestamp.before.max.ms of the topic, and at cleanup.policy=compact, which needs keys. Change the "
                "topic, and start again: the batch waits for it."
            )
        if code == KafkaError.INVALID_TRANSACTION_TIMEOUT:
            return ConfigurationError(
                f"{where} allows no transaction_timeout_s={self._settings.transaction_timeout_s:g}: its "
                "transaction.max.timeout.ms is lower. Lower transaction_timeout_s=."
            )
        if code in _FENCED_CODES or code in CONSEQUENCES:
            self.was_fenced_as_spare = self._client is not None and self._client.is_spare
            return SinkUnavailable(f"{where} refused to {what} ({text}): {self._why_fenced()}.")
        return SinkUnavailable(f"{where} could not {what} ({text}); {self._errors.describe()}.")

    @property
    def _where(self) -> str:
        return f"Kafka at {self._settings.connection.bootstrap_servers}"

    def _why_fenced(self) -> str:
        limit_s = self._settings.transaction_timeout_s
        open_s = 0.0 if self._began_s is None else self._clock.monotonic_s() - self._began_s
        if open_s >= limit_s:
            return (
                f"the transaction was open for {open_s:.0f} s, and the broker aborted it after transaction_timeout_s="
                f"{limit_s:g}. Start again; if it happens without an outage, raise it, or make batches smaller"
            )
        return f"another producer of transactional.id {self._id} took over. Start again"
