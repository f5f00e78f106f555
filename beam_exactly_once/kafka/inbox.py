"""What a client has delivered of one partition: records in order, up to whatever must be looked at."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias, cast

from confluent_kafka import Consumer, KafkaError, Message

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.logs.records import Chunk, Columns, Headers, bytes_of, rises_strictly
from beam_exactly_once.offsets import TopicPartition

MAX_CHUNK_BYTES = 16 * 1024 * 1024

# One call's worth of messages. Small enough that the messages die before the garbage collector counts them and that
# their memory stays in the cache, and that a call is over before another thread takes the interpreter.
_MAX_SLICE_MESSAGES = 100

# The client's annotations allow for messages made by hand; those of a consumer always have these.
offset_of = cast("Callable[[Message], int]", Message.offset)
_headers_of = cast("Callable[[Message], list[tuple[str, bytes | None]] | None]", Message.headers)


class Event(NamedTuple):
    """The client says something instead of giving a record."""

    error: KafkaError
    offset: int


class Doubt(NamedTuple):
    """The next record's offset goes back, or leaves a hole that nobody has vouched for. The record stays where it is."""

    offset: int


Cause: TypeAlias = Event | Doubt | None


class Inbox(Protocol):
    """Takes records of one partition at a time into a chunk under way."""

    def open(self, place: TopicPartition) -> None:
        """Turn to a partition, which the consumer is assigned to next; forgets what is there of another one, or of this."""
        ...

    def close(self) -> None:
        """Give back what was delivered. Called before the consumer is closed; may be opened again."""
        ...

    def begin(self) -> None:
        """Begin a chunk."""
        ...

    def wants_more(self, max_records: int) -> bool:
        """Whether the chunk may grow."""
        ...

    def take(self, seen: int, stop: int, trusted: int, max_records: int, wait_s: float) -> tuple[int, Cause]:
        """Take what is ready into the chunk.

        Args:
            seen: every offset below was taken or does not exist.
            stop: no record from there on is taken; those that came are kept for the next chunk.
            trusted: a hole may end below it.
            max_records: of the chunk.
            wait_s: for the first record.

        Returns:
            The new ``seen``, and what must be looked at. If it is the old one and there is nothing, then nothing was ready.
        """
        ...

    def chunk(self, place: TopicPartition, start: int, stop: int) -> Chunk:
        """What was taken.

        Raises:
            UnfitRow: the name of a header is no text.
        """
        ...


class TakenRecords:
    """Collects the columns of a chunk from slices of messages."""

    def __init__(self, wants_headers: bool) -> None:
        self._wants_headers = wants_headers
        self.columns = Columns([], [], [], [], [], None)
        self.value_bytes = 0

    def add(self, messages: list[Message], offsets: list[int]) -> None:
        """Take one slice; nothing of a message is kept but its bytes and numbers."""
        types, timestamps_ms = zip(*map(Message.timestamp, messages), strict=True)
        if self._wants_headers:
            self._add_headers(messages)
        columns = self.columns
        columns.offsets.extend(offsets)
        columns.timestamps_ms.extend(timestamps_ms)
        columns.timestamp_types.extend(types)
        columns.keys.extend(map(Message.key, messages))
        values = list(map(Message.value, messages))
        columns.values.extend(values)
        self.value_bytes += bytes_of(values)

    def _add_headers(self, messages: list[Message]) -> None:
        headers: list[list[tuple[str, bytes | None]] | None] = []
        try:
            headers.extend(map(_headers_of, messages))
        except SystemError:  # raised once: who asks this message again is given a broken list
            unreadable = messages[len(headers)]
            place = TopicPartition(unreadable.topic() or "", unreadable.partition() or 0)
            raise unreadable_header(place, unreadable.offset() or 0) from None
        if self.columns.headers is None and headers.count(None) < len(headers):
            before: list[Headers] = [()] * len(self.columns.offsets)
            self.columns = self.columns._replace(headers=before)
        if self.columns.headers is not None:
            self.columns.headers.extend(tuple(pairs) if pairs else () for pairs in headers)


class MessageInbox:
    """Of the messages that confluent-kafka makes of records.

    Args:
        consumer: delivers them.
        wants_headers: whether records are taken with their headers.
    """

    def __init__(self, consumer: Consumer, wants_headers: bool) -> None:
        self._consumer = consumer
        self._wants_headers = wants_headers
        self._pending: list[Message] = []
        self.begin()

    def open(self, place: TopicPartition) -> None:
        """See :meth:`Inbox.open`."""
        self._pending = []

    def close(self) -> None:
        """See :meth:`Inbox.close`."""
        self._pending = []

    def begin(self) -> None:
        """See :meth:`Inbox.begin`."""
        self._taken = TakenRecords(self._wants_headers)

    def wants_more(self, max_records: int) -> bool:
        """See :meth:`Inbox.wants_more`."""
        return len(self._taken.columns.offsets) < max_records and self._taken.value_bytes < MAX_CHUNK_BYTES

    def take(self, seen: int, stop: int, trusted: int, max_records: int, wait_s: float) -> tuple[int, Cause]:
        """See :meth:`Inbox.take`."""
        messages = self._next(
            min(_MAX_SLICE_MESSAGES, max_records - len(self._taken.columns.offsets), stop - seen), wait_s
        )
        # Never compare an error with ==: the client's comparison with None leaves an exception behind.
        if any(map(Message.error, messages)):
            first = next(index for index, message in enumerate(messages) if message.error() is not None)
            self._pending = messages[first:] + self._pending
            messages = messages[:first]
            if not messages:
                event = self._pending.pop(0)
                return seen, Event(cast("KafkaError", event.error()), event.offset() or 0)
        if not messages:
            return seen, None
        offsets = list(map(offset_of, messages))
        count, doubt = _believed(offsets, seen, trusted)
        if count and offsets[count - 1] >= stop:
            count, seen = bisect_left(offsets, stop, 0, count), stop
        elif count:
            seen = offsets[count - 1] + 1
        self._pending = messages[count:] + self._pending
        if count:
            self._taken.add(messages[:count], offsets[:count])
        return seen, None if doubt is None or seen == stop else Doubt(doubt)

    def _next(self, count: int, wait_s: float) -> list[Message]:
        if self._pending:
            messages, self._pending = self._pending[:count], self._pending[count:]
            return messages
        # With a time to wait it would wait until all of them are there.
        return self._consumer.consume(1 if wait_s else count, wait_s)

    def chunk(self, place: TopicPartition, start: int, stop: int) -> Chunk:
        """See :meth:`Inbox.chunk`."""
        return Chunk(place.topic, place.partition, start, stop, self._taken.columns)


def _believed(offsets: list[int], seen: int, trusted: int) -> tuple[int, int | None]:
    """How many of these are beyond doubt, and the first one that is not."""
    is_contiguous = offsets[-1] - seen + 1 == len(offsets)  # as nearly always
    if rises_strictly(offsets) and offsets[0] >= seen and (is_contiguous or offsets[-1] < trusted):
        return len(offsets), None
    for index, offset in enumerate(offsets):
        if offset < seen or (offset > seen and offset >= trusted):
            return index, offset
        seen = offset + 1
    return len(offsets), None


def unreadable_header(place: TopicPartition, offset: int) -> UnfitRow:
    """The error for a record with a header whose name is no text."""
    return UnfitRow(
        f"record {place} at offset {offset} has a header whose name is not UTF-8: the client cannot read it. Nothing of its "
        "batch is committed. Read without headers, ReadFromKafka(headers=False), until the batch that has it is committed."
    )
