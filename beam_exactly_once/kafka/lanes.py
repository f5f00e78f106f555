"""Reads small ranges of many partitions side by side: one consumer, one assignment, a lane for each range.

A lane hands out only what is plain: records that rise, and the end that Kafka tells. Whatever else comes, an error or an offset
that cannot be true, and where nothing comes for a while, the lane is given up, and a
:class:`~beam_exactly_once.kafka.fetching.RangeFetcher` reads on where it stood, with a consumer of its own: it knows what an
error means, how long to wait and what to say.

What was fetched never outlives :meth:`Lanes.rest`. So a kept consumer brings its connections and what it knows of brokers to
the next bundle, and not one record: those may be of a log that is no longer there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import accumulate, groupby

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as ClientTopicPartition

from beam_exactly_once.clock import Clock
from beam_exactly_once.kafka.inbox import MAX_CHUNK_BYTES, TakenRecords, offset_of
from beam_exactly_once.logs.records import Chunk, rises_strictly
from beam_exactly_once.offsets import OffsetRange, TopicPartition

_MAX_PUMPED_MESSAGES = 1000
_WAIT_S = 0.1  # signals are only seen between two calls
_PATIENCE_S = 1.0
"""How long nothing may come for any lane, until ranges are read one by one."""
_MAX_HELD_BYTES = 16 * 1024 * 1024
"""What lanes may hold that were not asked yet; the client itself holds as much."""
_MESSAGE_BYTES = 500
"""What a message takes besides its value, about."""
_ASK_TIMEOUT_S = 5.0


class Lanes:
    """One consumer for ranges of many partitions; for one thread at a time.

    Args:
        open_consumer: opens one with ``enable.partition.eof`` and ``auto.offset.reset=error``.
        clock: bounds waits.
        wants_headers: whether chunks have headers.
    """

    def __init__(self, open_consumer: Callable[[], Consumer], clock: Clock, wants_headers: bool) -> None:
        self._open_consumer = open_consumer
        self._clock = clock
        self._wants_headers = wants_headers
        self._consumer: Consumer | None = None
        self._topic_ids: dict[str, str | None] = {}
        """Of all topics that the consumer has read."""
        self._lanes: dict[TopicPartition, _Lane] = {}
        """In the order in which they will be asked."""
        self._held_bytes = 0
        """Of all lanes. Kept, as what is missing is: to look through thousands of lanes for each answer costs more than it."""
        self._missing_offsets = 0
        self._waited_s = 0.0
        self._is_well = True

    def open(self, ranges: Sequence[OffsetRange], topic_ids: Mapping[str, str | None]) -> None:
        """Let each range have a lane, in place of all lanes that there are; of two ranges of one partition the first.

        Args:
            ranges: in the order in which they will be asked for.
            topic_ids: those that were planned, of each topic in ``ranges``.
        """
        self._drop_all()
        if any(self._topic_ids.get(topic, id_) != id_ for topic, id_ in topic_ids.items()):
            self.close()  # what it knows of a topic may be of the one before
        self._waited_s = 0.0
        lanes: dict[TopicPartition, _Lane] = {}
        for one in ranges:
            lanes.setdefault(one.topic_partition, _Lane(one))
        try:
            consumer = self._introduced(topic_ids)
            consumer.assign([_client_place(one.place, one.position) for one in lanes.values()])
        except KafkaException:
            self.close()
        else:
            self._lanes = lanes
            self._missing_offsets = sum(lane.missing_offsets for lane in lanes.values())

    def next_chunk(self, place: TopicPartition, position: int, stop: int, max_records: int) -> Chunk | None:
        """See :meth:`~beam_exactly_once.logs.Log.next_chunk`. None: no lane stands there, or not any more."""
        lane = self._lanes.get(place)
        if lane is None or lane.position != position or stop > lane.stop:
            return None
        try:
            while not lane.has_any:
                if not self._pump(lane):
                    return None
        except KafkaException:
            self.close()
            return None
        held_bytes = lane.held_bytes
        chunk = lane.chunk(stop, max_records, self._wants_headers)
        self._held_bytes -= held_bytes - lane.held_bytes
        return chunk

    def rest(self) -> bool:
        """Forget all that was fetched. Returns whether the consumer may be kept: it knows its topics, and had no trouble."""
        self._drop_all()
        if not self._is_well or None in self._topic_ids.values():
            self.close()
            return False
        return True

    def close(self) -> None:
        """End the connections. Twice does no harm."""
        consumer, self._consumer = self._consumer, None
        self._lanes, self._held_bytes, self._missing_offsets = {}, 0, 0
        self._topic_ids, self._is_well = {}, True
        if consumer is not None:
            consumer.close()

    def _introduced(self, topic_ids: Mapping[str, str | None]) -> Consumer:
        """The consumer, which knows leaders: by itself it looks for those of a second topic once a second.

        Not of the first: it looks for those at once, and a client that is asked before it has connected may sleep 50 ms.
        """
        if self._consumer is None:
            self._consumer = self._open_consumer()
        for topic in topic_ids.keys() - self._topic_ids.keys():
            if self._topic_ids:
                self._consumer.list_topics(topic, timeout=_ASK_TIMEOUT_S)
            self._topic_ids[topic] = topic_ids[topic]
        return self._consumer

    def _pump(self, wanted: _Lane) -> bool:
        """Take what the client has, wait a moment where it has nothing. False: there is nothing to be had from ``wanted``."""
        assert self._consumer is not None  # or there would be no lane
        # The client may have fetched thousands of records of a partition of which few are wanted: no more than those, and as
        # many ends, are looked at before it is told.
        at_once = min(_MAX_PUMPED_MESSAGES, self._missing_offsets + len(self._lanes))
        messages = self._consumer.consume(at_once, 0)
        if not messages:
            began_s = self._clock.monotonic_s()
            messages = self._consumer.consume(1, _WAIT_S)
            self._waited_s = 0.0 if messages else self._waited_s + self._clock.monotonic_s() - began_s
        given_up = {wanted} if self._waited_s > _PATIENCE_S else set()
        beyond: dict[_Lane, None] = {}
        for topic, partition, run in _runs(messages):
            lane = self._lanes.get(TopicPartition(topic, partition)) if topic and partition >= 0 else None
            if lane is None:
                self._is_well &= not any(map(_is_trouble, run))
                continue
            if not self._take(lane, run):
                given_up.add(lane)
            elif lane.goes_beyond:
                beyond[lane] = None
        self._is_well &= not given_up
        self._give_up(given_up)
        self._give_up(self._too_many(wanted))
        if self._missing_offsets:
            self._unassign(beyond)
        else:  # the client would go on to ask for more of each partition, while steps behind the reader work
            self._unassign_all()
        return self._lanes.get(wanted.place) is wanted

    def _take(self, lane: _Lane, run: list[Message]) -> bool:
        """See :meth:`_Lane.take`."""
        assert self._consumer is not None
        held_bytes, missing_offsets = lane.held_bytes, lane.missing_offsets
        is_plain = lane.take(run, self._consumer)
        self._held_bytes += lane.held_bytes - held_bytes
        self._missing_offsets -= missing_offsets - lane.missing_offsets
        return is_plain

    def _too_many(self, wanted: _Lane) -> list[_Lane]:
        """Lanes to be given up for what all hold: those that are to be asked last."""
        held_bytes = self._held_bytes
        found: list[_Lane] = []
        for lane in reversed(self._lanes.values()):
            if held_bytes <= _MAX_HELD_BYTES or lane is wanted:
                break
            held_bytes -= lane.held_bytes
            found.append(lane)
        return found

    def _give_up(self, lanes: Collection[_Lane]) -> None:
        for lane in lanes:
            if self._lanes.pop(lane.place, None) is not None:
                self._held_bytes -= lane.held_bytes
                self._missing_offsets -= lane.missing_offsets
        self._unassign(lanes)

    def _unassign(self, lanes: Collection[_Lane]) -> None:
        """Nothing more of these partitions is taken. They are not paused: a client that is told to pause forgets what it has."""
        assigned = [lane for lane in lanes if lane.is_assigned]
        if assigned and self._consumer is not None:
            self._consumer.incremental_unassign([_client_place(lane.place) for lane in assigned])
        for lane in assigned:
            lane.is_assigned = False

    def _unassign_all(self) -> None:
        """One call for all: to take thousands of partitions off one by one, the client looks for each in a list of all."""
        if self._consumer is not None:
            self._consumer.unassign()
        for lane in self._lanes.values():
            lane.is_assigned = False

    def _drop_all(self) -> None:
        lanes, self._lanes, self._held_bytes, self._missing_offsets = self._lanes, {}, 0, 0
        if lanes and self._consumer is not None:
            try:
                self._consumer.unassign()
            except KafkaException:
                self.close()


class _Lane:
    """What is known of one range from where it was read up to on."""

    def __init__(self, offsets: OffsetRange) -> None:
        self.place = offsets.topic_partition
        self.position = offsets.start
        self.stop = offsets.stop
        self.held_bytes = 0
        self.is_assigned = True
        self._seen = offsets.start  # every offset below is in a message here, was handed out, or does not exist
        self._messages: list[Message] = []
        self._offsets: list[int] = []
        self.goes_beyond = False
        """Whether the client fetches what nobody wants."""

    @property
    def has_any(self) -> bool:
        """Whether a chunk can be handed out, if only an empty one."""
        return self._seen > self.position

    @property
    def missing_offsets(self) -> int:
        """What of the range did not come yet."""
        return self.stop - self._seen

    def take(self, messages: list[Message], consumer: Consumer) -> bool:
        """Take what came next of the partition. False: it is not plain, and none of it may be believed."""
        # As nearly always. Never compare an error with ==: the client's comparison with None leaves an exception behind.
        if not any(map(Message.error, messages)):
            return self._take_records(messages, consumer)
        for is_event, run in groupby(messages, _is_event):
            if not is_event:
                if not self._take_records(list(run), consumer):
                    return False
                continue
            for event in run:
                if _is_trouble(event):
                    return False
                self._seen = max(self._seen, min(event.offset() or 0, self.stop))
        return True

    def _take_records(self, messages: list[Message], consumer: Consumer) -> bool:
        if not self.missing_offsets:
            self.goes_beyond = True
            return True
        offsets = list(map(offset_of, messages))
        if not rises_strictly(offsets) or offsets[0] < self._seen:
            return False
        # A corrupt batch may claim any offset. Who reads on asks the broker for the log's end; here it may only be known.
        is_contiguous = offsets[-1] - self._seen + 1 == len(offsets)
        if not is_contiguous and offsets[-1] >= _known_end(consumer, self.place):
            return False
        self.goes_beyond = offsets[-1] >= self.stop
        self._seen = self.stop if self.goes_beyond else offsets[-1] + 1
        count = bisect_left(offsets, self.stop)
        self._messages += messages[:count]
        self._offsets += offsets[:count]
        self.held_bytes += sum(map(len, messages[:count])) + _MESSAGE_BYTES * count
        return True

    def chunk(self, stop: int, max_records: int, wants_headers: bool) -> Chunk:
        """Hand out what is there below ``stop``."""
        below = bisect_left(self._offsets, stop)
        count = self._within_bytes(min(below, max_records))
        taken = TakenRecords(wants_headers)
        if count:
            taken.add(self._messages[:count], self._offsets[:count])
        start, self.position = self.position, min(self._seen, stop) if count == below else self._offsets[count - 1] + 1
        self.held_bytes -= sum(map(len, self._messages[:count])) + _MESSAGE_BYTES * count
        del self._messages[:count], self._offsets[:count]
        return Chunk(self.place.topic, self.place.partition, start, self.position, taken.columns)

    def _within_bytes(self, count: int) -> int:
        """At most so many messages, of no more bytes than a chunk may have; at least one of those that there are."""
        if self.held_bytes <= MAX_CHUNK_BYTES:
            return count
        sizes = accumulate(map(len, self._messages[:count]))
        return max(min(1, count), sum(1 for size in sizes if size <= MAX_CHUNK_BYTES))


def _client_place(place: TopicPartition, offset: int = OFFSET_INVALID) -> ClientTopicPartition:
    return ClientTopicPartition(place.topic, place.partition, offset)


def _runs(messages: list[Message]) -> Iterator[tuple[str | None, int, list[Message]]]:
    """Messages of one partition that come one behind the other: its topic, its number, and they."""
    places = zip(map(Message.topic, messages), map(Message.partition, messages), strict=True)
    start = 0
    for (topic, partition), run in groupby(places):
        stop = start + sum(1 for _ in run)
        yield topic, -1 if partition is None else partition, messages[start:stop]
        start = stop


def _is_event(message: Message) -> bool:
    return message.error() is not None


def _is_trouble(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() != KafkaError._PARTITION_EOF


def _known_end(consumer: Consumer, place: TopicPartition) -> int:
    """Where the log ended when it was last fetched from; -1 if nothing is known."""
    return int((consumer.get_watermark_offsets(_client_place(place), cached=True) or (-1, -1))[1])
