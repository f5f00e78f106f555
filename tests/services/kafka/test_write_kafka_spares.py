"""Spare producers of ``WriteToKafka`` on an Apache Kafka broker: used by the next batch, and of no harm when they are fenced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from beam_exactly_once.errors import Fenced
from beam_exactly_once.kafka import KafkaSettings, kept_clients
from beam_exactly_once.kafka.transaction_producer import TransactionSettings
from beam_exactly_once.kafka.transactions import OutgoingRecords, Transaction
from services.streams.copies import Asleep, Copy, assert_exactly_once, at, delivered, numbers_of, records_of

pytestmark = pytest.mark.runs_on("DirectRunner")


@pytest.fixture(params=[False, True], ids=["staged", "direct"])
def one_shard(request: pytest.FixtureRequest, copy: Copy) -> Copy:
    return replace(copy, options={"shards": 1, "direct": request.param})


def is_spare(transaction: Transaction) -> bool:
    assert transaction._client is not None
    return transaction._client.is_spare


def somebody_else(copy: Copy, then: Callable[[Transaction], None] = lambda transaction: None) -> None:
    """Another producer takes the id of the first shard, as another driver does."""
    settings = TransactionSettings(KafkaSettings(copy.bootstrap_servers), transaction_timeout_s=59.0)
    with Transaction(settings, f"{copy.receipts_topic}.0", copy.topic) as transaction:
        assert not is_spare(transaction)
        then(transaction)


def test_each_batch_but_the_first_has_a_spare_and_none_is_left(one_shard: Copy) -> None:
    seen: list[bool] = []
    real = Transaction.begin

    def begin(transaction: Transaction) -> None:
        seen.append(is_spare(transaction))
        real(transaction)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transaction, "begin", begin)
        one_shard.run(12)
        one_shard.run(16)
    assert seen == [False, True, True, False]
    assert_exactly_once(one_shard, 16)
    assert not kept_clients._kept


@pytest.mark.parametrize(
    ("step", "before"),
    [
        ("init_transactions", False),
        ("the receipt was read", False),
        ("begin_transaction", False),
        ("produce", False),
        ("commit", True),
    ],
)
def test_a_spare_that_was_fenced_is_replaced(one_shard: Copy, step: str, before: bool) -> None:
    """What it has written is never seen; another producer reads the receipt again, and writes."""

    def fence(call: object) -> None:
        if isinstance(call, Transaction):
            assert is_spare(call)
            if call._is_open:
                delivered(call)
        somebody_else(one_shard)

    occurrence = {"init_transactions": 3, "produce": 3}.get(step, 2)
    with at(step, occurrence, fence, before=before):
        one_shard.run(12)
    assert_exactly_once(one_shard, 12)


def test_who_fenced_a_spare_may_have_written_its_batch(one_shard: Copy) -> None:
    """The receipt decides: what is there is not written again."""

    def write_it(spare: Transaction) -> None:
        assert is_spare(spare)
        real, produced = spare.produce, []

        def produce(topic: str, records: OutgoingRecords) -> None:
            produced.append((topic, records))
            real(topic, records)

        def commit() -> None:
            somebody_else(one_shard, write)
            type(spare).commit(spare)

        def write(other: Transaction) -> None:
            other.begin()
            for topic, records in produced:
                other.produce(topic, records)
            other.commit()

        spare.produce, spare.commit = produce, commit  # type: ignore[method-assign]

    with at("begin_transaction", 2, write_it):
        one_shard.run(12)
    assert_exactly_once(one_shard, 12)


def test_a_driver_that_was_replaced_wakes_with_a_spare_and_is_fenced(one_shard: Copy) -> None:
    def fall_asleep(transaction: Transaction) -> None:
        assert is_spare(transaction)
        delivered(transaction)
        sleeper.fall_asleep(transaction)

    sleeper = Asleep(lambda: one_shard.run(8))
    with at("commit", 2, fall_asleep, before=True):
        sleeper.start()
        one_shard.run(12)
        error = sleeper.wake()
    assert isinstance(error, Fenced), error
    assert_exactly_once(one_shard, 12)
    one_shard.run(16)
    assert_exactly_once(one_shard, 16)


def test_a_spare_is_of_no_use_to_who_wants_nothing_open(copy: Copy) -> None:
    """A start ends what is open, which a producer that was initialised before it could not."""
    copy.run(4, shards=1)
    settings = TransactionSettings(KafkaSettings(copy.bootstrap_servers))
    transactional_id = f"{copy.receipts_topic}.0"
    with kept_clients.keeping_clients():
        with Transaction(settings, transactional_id, copy.topic) as first:
            first.begin()
            first.commit()
        ((_, spare),) = kept_clients._kept.values()
        if not spare.is_prepared:
            spare.producer.init_transactions()  # which it does by itself; later it would fence who comes next

        def leave_open(other: Transaction) -> None:
            other.begin()
            other.produce(copy.topic, OutgoingRecords([b"999"]))
            delivered(other)
            other._is_open = False  # as a crash does: nothing aborts it

        somebody_else(copy, leave_open)
        with Transaction(settings, transactional_id, copy.topic, fresh=True) as fresh:
            assert not is_spare(fresh)
        assert numbers_of(records_of(copy.bootstrap_servers, copy.topic)) == [0, 1, 2, 3]
