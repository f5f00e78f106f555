"""One Kafka cluster as this library sees it: partitions, bounds, and chunks of records."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Literal

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
)
from confluent_kafka import TopicPartition as ClientTopicPartition
from confluent_kafka.admin import AclOperation, AdminClient

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import KafkaRefused, KafkaUnavailable, UnknownTopic
from beam_exactly_once.kafka.asking import Asker, NoAnswer
from beam_exactly_once.kafka.client_errors import DENIED_CODES, GROUP_REFUSALS, UNKNOWN_TOPIC_CODES
from beam_exactly_once.kafka.fetching import RangeFetcher
from beam_exactly_once.kafka.inbox import Inbox
from beam_exactly_once.kafka.lanes import Lanes
from beam_exactly_once.kafka.native import open_reader
from beam_exactly_once.kafka.owned_admin import OwnedAdmin
from beam_exactly_once.kafka.settings import KafkaSettings
from beam_exactly_once.logs import Chunk, Log
from beam_exactly_once.logs.opening import open_log
from beam_exactly_once.offsets import LogBounds, OffsetRange, TopicPartition
from beam_exactly_once.topics import TopicDescription

_NO_TOPIC_ID = "A" * 22  # sixteen zeros: the broker is older than topic ids
_MAX_AGE_S = 600.0
"""A client that is older is not kept: it goes on with the password that it began with."""
_NO_OFFSET = -1  # what Kafka answers where no record is at or after a time


class ConfluentLog(Asker):
    """A :class:`~beam_exactly_once.logs.ManyRangesLog` on confluent-kafka.

    It opens what is used of three clients: a consumer for range after range, one for the ranges that it is told to expect, and an
    admin client.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(settings, clock)
        self._reader: tuple[Consumer, Inbox] | None = None
        self._fetcher: RangeFetcher | None = None
        self._lanes = Lanes(lambda: self._open(Consumer), clock, settings.headers)
        self._opened_s = clock.monotonic_s()

    def topics(self) -> list[str]:
        """See :meth:`Log.topics`."""
        return sorted(self._list_topics().topics)

    def describe(self, topics: Sequence[str], *, patient: bool = True) -> dict[str, TopicDescription]:
        """See :meth:`Log.describe`."""
        names = sorted(set(topics))
        if not names:
            return {}

        def ask(admin: OwnedAdmin, timeout_s: float) -> dict[str, TopicDescription]:
            asked = TopicCollection(names)
            futures = admin.ask(
                lambda client: client.describe_topics(
                    asked, include_authorized_operations=True, request_timeout=timeout_s
                )
            )
            return {name: answer(futures[name], name) for name in names}

        def answer(future: Future[Any], name: str) -> TopicDescription:
            try:
                described = future.result()
            except KafkaException as exception:
                error = exception.args[0]
            else:
                allowed = described.authorized_operations  # empty: the broker does not tell
                if allowed and AclOperation.READ not in allowed:
                    raise self._errors.denied("read", f"topic {name}")
                return _description(described)
            if error.code() in UNKNOWN_TOPIC_CODES and not patient:
                raise UnknownTopic(self._unknown_topic_message(name))
            raise NoAnswer(error, f"topic {name}")

        return self._ask_admin(ask)

    def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, LogBounds]:
        """See :meth:`Log.bounds`."""
        earliest, latest = self._list_offsets(partitions, [OFFSET_BEGINNING, OFFSET_END])
        # The two answers are of two moments; a log that retention emptied between them must not look backwards.
        return {place: LogBounds(earliest[place], max(earliest[place], latest[place])) for place in partitions}

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See :meth:`Log.ends`."""
        (ends,) = self._list_offsets(partitions, [OFFSET_END], isolation_level="read_uncommitted")
        return ends

    def offsets_for_time(self, partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        """See :meth:`Log.offsets_for_time`."""
        # First the ends, then the search: a record that arrives between the two is not skipped.
        (latest,) = self._list_offsets(partitions, [OFFSET_END])
        (found,) = self._list_offsets(partitions, [timestamp_ms])
        return {place: found[place] if found[place] >= 0 else latest[place] for place in partitions}

    def committed_offsets(self, group_id: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """See :meth:`GroupsLog.committed_offsets`."""
        asked = [ClientTopicPartition(one.topic, one.partition) for one in partitions]
        if not asked:
            return {}
        found = self._ask_group("see", AdminClient.list_consumer_group_offsets, group_id, asked)
        return {TopicPartition(one.topic, one.partition): one.offset for one in found if one.offset >= 0}

    def commit_offsets(self, group_id: str, offsets: Mapping[TopicPartition, int]) -> None:
        """See :meth:`GroupsLog.commit_offsets`."""
        told = [ClientTopicPartition(one.topic, one.partition, offset) for one, offset in offsets.items()]
        if told:
            self._ask_group("commit for", AdminClient.alter_consumer_group_offsets, group_id, told)

    def next_chunk(self, topic_partition: TopicPartition, position: int, stop: int, max_records: int = 1000) -> Chunk:
        """See :meth:`Log.next_chunk`."""
        chunk = self._lanes.next_chunk(topic_partition, position, stop, max_records)
        if chunk is not None:
            return chunk
        if self._fetcher is None:
            patient = self._settings.patient
            self._fetcher = RangeFetcher(
                *self._open_reader(),
                self._errors,
                self._clock,
                self._settings,
                None if patient is None else lambda: open_reader(self._open, patient),
            )
        try:
            return self._fetcher.next_chunk(topic_partition, position, stop, max_records)
        except KafkaException as exception:  # cannot be pickled, so it must not leave this process
            text = self._errors.text_of(exception.args[0])
        raise KafkaUnavailable(f"the Kafka client cannot read partition {topic_partition}: {text}")

    def expect(self, ranges: Sequence[OffsetRange], topic_ids: Mapping[str, str | None]) -> None:
        """See :meth:`ManyRangesLog.expect`."""
        self._lanes.open(ranges, topic_ids)

    def rest(self) -> bool:
        """See :meth:`ManyRangesLog.rest`."""
        self._close_fetcher()
        # A client that is always in use would keep its first password for ever.
        return self._lanes.rest() and self._clock.monotonic_s() - self._opened_s < _MAX_AGE_S

    def close(self) -> None:
        """See :meth:`Log.close`."""
        super().close()
        self._lanes.close()
        self._close_fetcher()

    def _close_fetcher(self) -> None:
        fetcher, reader, self._fetcher, self._reader = self._fetcher, self._reader, None, None
        if fetcher is not None:
            fetcher.close()
        if reader is not None:
            reader[0].close()

    def _open_reader(self) -> tuple[Consumer, Inbox]:
        if self._reader is None:
            self._reader = open_reader(self._open, self._settings)
        return self._reader

    def _list_topics(self) -> Any:
        """Metadata of all topics."""
        consumer, _ = self._open_reader()

        def ask(timeout_s: float) -> Any:
            try:
                return consumer.list_topics(timeout=timeout_s)
            except KafkaException as exception:
                if self._fetcher is None:  # lets the client say why; with a partition assigned it would take a record
                    consumer.poll(0)
                raise NoAnswer(exception.args[0], "topics") from None

        return self._ask(ask)

    def _list_offsets(
        self,
        partitions: Sequence[TopicPartition],
        wanted: Sequence[int],
        isolation_level: str | None = None,
    ) -> list[dict[TopicPartition, int]]:
        """One answer for each that is wanted, a time in milliseconds or an end, of all partitions; requests run side by side."""
        if not partitions:
            return [{} for _ in wanted]
        isolation = IsolationLevel[(isolation_level or self._settings.isolation_level).upper()]

        def ask(admin: OwnedAdmin, timeout_s: float) -> list[dict[TopicPartition, int]]:
            asked = admin.ask(
                lambda client: [_asked_offsets(client, partitions, one, isolation, timeout_s) for one in wanted]
            )
            return [answer(future) for future in asked]

        def answer(future: Future[Mapping[ClientTopicPartition, Any]]) -> dict[TopicPartition, int]:
            try:
                found = {(one.topic, one.partition): result for one, result in future.result().items()}
            except KafkaException as exception:  # of the request as a whole
                found = {(place.topic, place.partition): exception.args[0] for place in partitions}
            return {place: offset_of(found[place.topic, place.partition], place) for place in partitions}

        def offset_of(result: Any, place: TopicPartition) -> int:
            if isinstance(result, KafkaError):
                error = result
            elif result.offset >= _NO_OFFSET:
                return int(result.offset)
            else:
                error = KafkaError(KafkaError.OFFSET_NOT_AVAILABLE)  # while a leader changes it is made up
            if (
                error.code() == KafkaError._NOENT
                and place.partition not in self.describe([place.topic])[place.topic].partitions
            ):
                raise self._unknown(f"partition {place}")
            raise NoAnswer(error, f"partition {place}")

        return self._ask_admin(ask)

    def _ask_group(
        self,
        wish: Literal["see", "commit for"],
        request: Callable[..., Mapping[str, Future[Any]]],
        group_id: str,
        places: list[ClientTopicPartition],
    ) -> list[ClientTopicPartition]:
        """What a request for one group answers, by partition."""

        def ask(admin: OwnedAdmin, timeout_s: float) -> list[ClientTopicPartition]:
            of_group = ConsumerGroupTopicPartitions(group_id, places)
            answers = admin.ask(lambda client: request(client, [of_group], request_timeout=timeout_s))
            try:
                found: list[ClientTopicPartition] = answers[group_id].result().topic_partitions
            except KafkaException as exception:
                error = exception.args[0]
            else:
                error = next((one.error for one in found if one.error is not None), None)
                if error is None:
                    return found
            if error.code() in GROUP_REFUSALS:
                raise self._errors.group_refused(wish, group_id, error)
            raise NoAnswer(error, f"consumer group {group_id}")

        return self._ask_admin(ask)

    def _unknown(self, subject: str) -> UnknownTopic:
        return UnknownTopic(
            f"Kafka at {self._settings.bootstrap_servers} has no {subject} (any more); if the topic was deleted or recreated, "
            "start with a new checkpoint_location"
        )

    def _refused(self, subject: str, error: KafkaError) -> KafkaRefused | None:
        return self._errors.denied("see", subject, error) if error.code() in DENIED_CODES else None

    def _unavailable(self, subject: str, error: KafkaError) -> KafkaUnavailable:
        return KafkaUnavailable(
            f"Kafka at {self._settings.bootstrap_servers} did not answer within {self._settings.timeout_s:g} s "
            f"({self._errors.text_of(error)}); {self._errors.describe()}. Check the address and the network"
        )

    def _unknown_topic_message(self, topic: str) -> str:
        known = sorted(name for name in self._list_topics().topics if not name.startswith("__"))
        near = difflib.get_close_matches(topic, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "create it, or correct its name"
        return f"Kafka at {self._settings.bootstrap_servers} has no topic {topic}, or does not let us see it; {hint}"


def _asked_offsets(
    client: AdminClient,
    partitions: Sequence[TopicPartition],
    wanted: int,
    isolation: IsolationLevel,
    timeout_s: float,
) -> Future[Mapping[ClientTopicPartition, Any]]:
    """What ``AdminClient.list_offsets`` asks, with one future for all partitions: one for each costs as much as the request."""
    future: Future[Mapping[ClientTopicPartition, Any]] = Future()
    future.set_running_or_notify_cancel()
    places = [ClientTopicPartition(place.topic, place.partition, wanted) for place in dict.fromkeys(partitions)]
    request = super(AdminClient, client).list_offsets
    request(places, future, isolation_level_value=isolation.value, request_timeout=timeout_s)
    return future


def _description(found: Any) -> TopicDescription:
    # The client writes the 16 bytes in plain base64, Kafka's own tools in the alphabet for names.
    topic_id = str(found.topic_id).replace("+", "-").replace("/", "_")
    partitions = tuple(sorted(partition.id for partition in found.partitions))
    return TopicDescription(None if topic_id == _NO_TOPIC_ID else topic_id, partitions)


def open_kafka_log(settings: KafkaSettings) -> Log:
    """A log for this cluster; see :func:`~beam_exactly_once.logs.opening.open_log`."""
    return open_log(settings)
