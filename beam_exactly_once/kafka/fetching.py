"""Reads exact ranges of offsets with one assigned consumer.

How the end of a range is found (a range may end in offsets that hold no record, and the client tells that in three
ways): a record at or above the end arrives, or the end-of-partition event does, or the consumer's position passes
the end. The position moves over transaction markers and aborted records, not over holes that compaction left; the
event's offset moves over both.

Whatever was learned about offsets at or above the end stays with the fetcher for the next call, so a range that
begins where the last one ended needs no new assignment, loses no record, and waits for no event that was taken already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as ClientTopicPartition

from beam_exactly_once.clock import Clock
from beam_exactly_once.errors import DataLoss, KafkaUnavailable, ReadStalled, UnknownTopic
from beam_exactly_once.kafka.client_errors import DENIED_CODES, REFUSAL_WAIT_S, UNKNOWN_TOPIC_CODES, ClientErrors
from beam_exactly_once.kafka.inbox import Event, Inbox
from beam_exactly_once.kafka.settings import KafkaSettings
from beam_exactly_once.logs.records import Chunk, check_range
from beam_exactly_once.offsets import TopicPartition

_WAIT_S = 0.1  # signals are only seen between two calls
_MAX_ASK_TIMEOUT_S = 5.0
_PATIENT_AFTER_S = 1.0
"""When a consumer whose fetches wait longer takes over: brokers that must ask others need more time for an answer."""


class RangeFetcher:
    """One consumer, assigned to one partition at a time.

    Where it gets nothing short of a range's end, as of a segment in remote storage, a consumer whose fetches wait longer reads
    on. It does so up to the next assignment: waiting long costs whoever goes from partition to partition.

    Args:
        consumer: An open consumer with ``enable.partition.eof`` and ``auto.offset.reset=error``; who gives it closes it.
        inbox: What it delivers.
        errors: What the consumer's ``error_cb`` feeds.
        clock: Bounds waits.
        settings: How long to wait for the next record or end.
        open_patient: Opens a consumer whose fetches wait longer; None: how long they wait is the user's choice.
    """

    def __init__(
        self,
        consumer: Consumer,
        inbox: Inbox,
        errors: ClientErrors,
        clock: Clock,
        settings: KafkaSettings,
        open_patient: Callable[[], tuple[Consumer, Inbox]] | None = None,
    ) -> None:
        self._quick = self._consumer, self._inbox = consumer, inbox
        self._open_patient = open_patient
        self._errors = errors
        self._clock = clock
        self._no_progress_timeout_s = settings.no_progress_timeout_s
        self._refusal_wait_s = min(REFUSAL_WAIT_S, settings.no_progress_timeout_s)
        self._ask_timeout_s = min(_MAX_ASK_TIMEOUT_S, settings.no_progress_timeout_s)
        self._topics: set[str] = set()
        self._topic_partition = TopicPartition("-", 0)
        self._position: int | None = None  # after the last chunk; None: the consumer stands nowhere
        self._seen = 0  # every offset below was handed out or does not exist; at or above _position
        self._old_position = -1  # what the consumer gave as its position when it was assigned
        self._trusted = 0  # the log is known to reach up to it
        self._fault: str | None = None  # what cannot be true of the records that came last
        self._looked_for_topic = False

    def close(self) -> None:
        """Close what it opened, and give back what was delivered."""
        self._position = None
        self._inbox.close()
        (patient, _), (self._consumer, self._inbox) = (self._consumer, self._inbox), self._quick
        if patient is not self._consumer:
            patient.close()
            self._inbox.close()

    def next_chunk(self, topic_partition: TopicPartition, position: int, stop: int, max_records: int) -> Chunk:
        """See :meth:`beam_exactly_once.kafka.Log.next_chunk`."""
        check_range(position, stop, max_records)
        stands_there = self._position == position and self._topic_partition == topic_partition
        self._position = None  # should this call fail, what it took and did not hand out must be read again
        if not stands_there:
            self._consumer.unassign()  # first: what is fetched ahead goes when a partition that is not assigned is closed
            self.close()
            self._topic_partition = topic_partition
            self._assign(position)
        self._read(position, stop, max_records)
        end = min(self._seen, stop)
        chunk = self._inbox.chunk(topic_partition, position, end)
        self._position = end
        return chunk

    def _assign(self, position: int) -> None:
        place = ClientTopicPartition(self._topic_partition.topic, self._topic_partition.partition, position)
        self._seen = position
        self._introduce(place.topic)
        self._inbox.open(self._topic_partition)
        self._consumer.assign([place])
        # assign() returns before the position of an earlier assignment is gone.
        self._old_position = int(self._consumer.position([place])[0].offset)

    def _introduce(self, topic: str) -> None:
        """Tell the client of a topic's leaders; by itself it looks for those of a second topic once a second.

        Not of the first: it looks for those at once, and a client that is asked before it has connected may sleep 50 ms.
        """
        if topic in self._topics or self._inbox is not self._quick[1]:
            return
        if self._topics:
            try:
                self._consumer.list_topics(topic, timeout=self._ask_timeout_s)
            except KafkaException as exception:
                self._errors.remember(exception.args[0])  # the read itself will find out how bad it is
                return
        self._topics.add(topic)

    def _read(self, position: int, stop: int, max_records: int) -> None:
        """Take records until there are enough, or none is ready, or the range ends; moves ``_seen``."""
        self._fault = None
        self._trusted = 0
        self._looked_for_topic = False
        began_s = self._clock.monotonic_s()
        self._inbox.begin()
        while self._seen < stop and self._inbox.wants_more(max_records):
            if not self._take(stop, max_records, 0):
                if self._seen > position:
                    break  # better a small chunk at once than a full one later
                if not self._take(stop, max_records, _WAIT_S):
                    self._seen = max(self._seen, self._client_position())
            if self._seen == position:
                self._find_out_why(self._clock.monotonic_s() - began_s, stop)
        self._errors.forget()

    def _take(self, stop: int, max_records: int, wait_s: float) -> bool:
        """Whether anything was there: records below ``stop`` are taken, an event is acted on."""
        before = self._seen
        self._seen, cause = self._inbox.take(before, stop, self._trusted, max_records, wait_s)
        if isinstance(cause, Event):
            self._handle_event(cause)
        elif cause is not None:
            self._look_at(cause.offset)
        return cause is not None or self._seen != before

    def _find_out_why(self, waited_s: float, stop: int) -> None:
        """Nothing has come for so long."""
        if waited_s > _PATIENT_AFTER_S and self._open_patient is not None and self._inbox is self._quick[1]:
            self._consumer.unassign()
            self._inbox.close()
            self._consumer, self._inbox = self._open_patient()
            self._assign(self._seen)
        if waited_s > self._refusal_wait_s:
            self._errors.raise_if_refused()
            if not self._looked_for_topic:
                self._raise_if_hidden()
                self._looked_for_topic = True
            if waited_s > self._no_progress_timeout_s:
                self._give_up(stop)

    def _client_position(self) -> int:
        """The consumer's position, negative before it has one."""
        place = ClientTopicPartition(self._topic_partition.topic, self._topic_partition.partition)
        position = int(self._consumer.position([place])[0].offset)
        return position if position != self._old_position else -1

    def _look_at(self, offset: int) -> None:
        """Find out whether the next record's offset can be true; the client does not check a batch's checksum.

        A corrupt batch may claim any offset. Those that go back, or lie beyond the log's end, are seen here. To go back
        is never right, and asking again would make the client pass over the record in silence. A log's end, however,
        may look older than it is while its leader changes.
        """
        if offset < self._seen:
            self._raise_corrupt(f"Kafka delivered offset {offset} after {self._seen - 1}")
        place = ClientTopicPartition(self._topic_partition.topic, self._topic_partition.partition)
        self._trusted = (self._consumer.get_watermark_offsets(place, cached=True) or (-1, -1))[1]
        if offset < self._trusted:
            return
        bounds = self._bounds()
        self._trusted = offset + 1 if bounds is None else bounds[1]
        if offset >= self._trusted:
            self._fault = f"Kafka delivered offset {offset} of a log that ends at {self._trusted}"
            self._assign(self._seen)

    def _handle_event(self, event: Event) -> None:
        error = event.error
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            self._seen = max(self._seen, event.offset)
        elif code == KafkaError._AUTO_OFFSET_RESET:
            self._errors.remember(error)
            self._after_offset_out_of_range()
        elif code in DENIED_CODES:
            raise self._errors.denied("read", f"partition {self._topic_partition}", error)
        elif error.fatal():
            raise KafkaUnavailable(
                f"the Kafka client cannot go on with partition {self._topic_partition}: {self._errors.text_of(error)}"
            )
        elif code != KafkaError.MSG_SIZE_TOO_LARGE:
            # The exception is spurious: each answer without a record (compacted, aborted) doubles the client's fetch
            # size until it complains, while it moves on. All others are passing, or end at the deadline.
            self._errors.remember(error)

    def _after_offset_out_of_range(self) -> None:
        """Ask the log's bounds before calling it a loss: the client also says so while a leader changes."""
        bounds = self._bounds()
        if bounds is not None and not bounds[0] <= self._seen <= bounds[1]:
            self._raise_data_loss(bounds, self._seen)
        self._assign(self._seen)

    def _bounds(self) -> tuple[int, int] | None:
        """The log's earliest and latest offset, or None when nobody answers."""
        place = ClientTopicPartition(self._topic_partition.topic, self._topic_partition.partition)
        try:
            bounds = self._consumer.get_watermark_offsets(place, timeout=self._ask_timeout_s)
        except KafkaException as exception:
            error = exception.args[0]
            self._errors.remember(error)
            if error.code() in UNKNOWN_TOPIC_CODES:
                self._raise_if_hidden()
                raise UnknownTopic(
                    f"Kafka has no partition {self._topic_partition} (any more); if the topic was deleted or "
                    "recreated, start with a new checkpoint_location"
                ) from None
            return None
        return bounds

    def _raise_if_hidden(self) -> None:
        """To a reader a topic that it may not see any more looks like one that is gone, or only stands still."""
        topic = self._topic_partition.topic
        try:
            error = self._consumer.list_topics(topic, timeout=self._ask_timeout_s).topics[topic].error
        except KafkaException as exception:
            self._errors.remember(exception.args[0])
            return
        if error is not None and error.code() in DENIED_CODES:
            raise self._errors.denied("see", f"topic {topic}", error)

    def _give_up(self, stop: int) -> NoReturn:
        bounds = self._bounds()
        if bounds is not None and not bounds[0] <= self._seen <= bounds[1]:
            self._raise_data_loss(bounds, self._seen)
        if bounds is not None and bounds[1] < stop:
            self._raise_data_loss(bounds, stop - 1)
        if self._fault is not None:
            self._raise_corrupt(self._fault)
        or_wait = "" if self._open_patient else ", or raise fetch.wait.max.ms if they need longer for an answer"
        raise ReadStalled(
            f"partition {self._topic_partition} delivered neither a record nor its end for "
            f"{self._no_progress_timeout_s:g} s at offset {self._seen}, before {stop}: {self._errors.describe()}. "
            f"Start again when the brokers are well{or_wait}"
        )

    def _raise_corrupt(self, fault: str) -> NoReturn:
        raise DataLoss(
            f"partition {self._topic_partition} is corrupt at offset {self._seen}: {fault}. Nothing of this batch is "
            "committed; repair the partition before the stream starts again"
        )

    def _raise_data_loss(self, bounds: tuple[int, int], wanted: int) -> NoReturn:
        earliest, latest = bounds
        if wanted < earliest:
            cause = "retention deleted it before it was read"
        else:
            cause = "the log was cut back or the topic was recreated"
        raise DataLoss(
            f"partition {self._topic_partition} no longer holds offset {wanted}: its log is [{earliest}, {latest}), "
            f"{cause}. Restore the topic, or say in the stream's settings that lost offsets may be skipped"
        )
