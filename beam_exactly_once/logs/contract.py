"""What a reader of exact ranges needs of a log: its topics, what their partitions hold, and their records, chunk by chunk.

:class:`~beam_exactly_once.testing.LogContract` has the same as tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from beam_exactly_once.logs.records import Chunk
from beam_exactly_once.offsets import LogBounds, OffsetRange, TopicPartition
from beam_exactly_once.topics import TopicDescription


class Log(Protocol):
    """One cluster, or one write-ahead log. For one thread at a time; connects at first use, until :meth:`close`.

    A write-ahead log raises ``StoreUnavailable`` where Kafka's raises ``KafkaUnavailable``, and what its store refuses with.
    """

    def topics(self) -> list[str]:
        """The names of all topics that the cluster shows us, sorted.

        Raises:
            KafkaUnavailable: no broker answers within ``timeout_s``, or it refuses us.
        """
        ...

    def describe(self, topics: Sequence[str], *, patient: bool = True) -> dict[str, TopicDescription]:
        """Partitions and id of each topic, in one request for all of them; asked again at every call.

        Brokers learn of a topic one after the other, so one that is missing is asked for again for some seconds, unless
        ``patient`` is false.

        Raises:
            UnknownTopic: Kafka does not have one of them.
            KafkaRefused: it does not let us in, or not read one of them.
            KafkaUnavailable: no broker answers within ``timeout_s``.
        """
        ...

    def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, LogBounds]:
        """What each partition holds now, asked for all of them at once.

        Raises:
            UnknownTopic: Kafka does not have one of them.
            KafkaRefused: it does not let us in.
            KafkaUnavailable: no broker answers within ``timeout_s``.
        """
        ...

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset behind all that each partition holds, also what open transactions hide: Kafka's high watermark.

        Raises:
            UnknownTopic, KafkaRefused, KafkaUnavailable: as :meth:`bounds`.
        """
        ...

    def offsets_for_time(self, partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        """The first offset of each partition whose record is at or after ``timestamp_ms``, or else its latest offset.

        Raises:
            UnknownTopic: Kafka does not have one of them.
            KafkaRefused: it does not let us in.
            KafkaUnavailable: no broker answers within ``timeout_s``.
        """
        ...

    def next_chunk(self, topic_partition: TopicPartition, position: int, stop: int, max_records: int = 1000) -> Chunk:
        """What is ready of ``[position, stop)``: at most ``max_records`` records, at least one offset.

        The chunk begins at ``position`` and ends at or before ``stop``; read on at its ``stop``. Reading on there
        is cheap; any other partition or position makes the client start over.

        Raises:
            DataLoss: the log does not hold these offsets any more.
            ReadStalled: neither a record nor the end came within ``no_progress_timeout_s``.
            UnfitRow: a record has a header that the client cannot read.
            KafkaRefused: the cluster does not let us in, or not read this topic.
            KafkaUnavailable: the client cannot go on.
            UnknownTopic: the partition is gone.
            ValueError: not ``0 <= position < stop``.
        """
        ...

    def close(self) -> None:
        """End the connections. Twice does no harm."""
        ...


@runtime_checkable
class ManyRangesLog(Protocol):
    """A log that reads many ranges side by side, where it is told of them before; and that may be kept when they are read."""

    def expect(self, ranges: Sequence[OffsetRange], topic_ids: Mapping[str, str | None]) -> None:
        """Say which ranges :meth:`Log.next_chunk` is asked for next. It only saves time: any others may be read instead.

        Args:
            ranges: in the order in which they will be read.
            topic_ids: the ids that were planned, of each topic in ``ranges``; None where none is known.
        """
        ...

    def rest(self) -> bool:
        """Forget all that was fetched, so that whoever reads next is given nothing of it.

        Returns:
            Whether the log may be kept. Else it is to be closed.
        """
        ...


@runtime_checkable
class GroupsLog(Protocol):
    """A log with consumer groups. The library reads what they have committed, and may commit for one; it never joins one."""

    def committed_offsets(self, group_id: str, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where a group goes on, of those of ``partitions`` in which it has committed.

        Raises:
            KafkaRefused: the cluster does not let us see the group.
            KafkaUnavailable: no broker answers within ``timeout_s``.
        """
        ...

    def commit_offsets(self, group_id: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Let a group go on there. It needs to be without members.

        Raises:
            KafkaRefused: the cluster does not let us, or the group has members.
            KafkaUnavailable: no broker answers within ``timeout_s``.
        """
        ...


@runtime_checkable
class HeldLog(Protocol):
    """A log that deletes only what every stream that reads it has finished with: they say so. Kafka asks nobody."""

    def hold(self, stream_id: str, source: str) -> dict[TopicPartition, int]:
        """Keep what is there for one source of a stream, until it says more. Called at every start, before it is decided where
        the source begins; harmless when repeated.

        Returns:
            The least offset at which a source that is new may begin, by partition.

        Raises:
            ConfigurationError: the log was released for the source.
            UnknownTopic: there is no log.
        """
        ...

    def let_go(self, stream_id: str, source: str, batch_id: int, next_offsets: Mapping[TopicPartition, int]) -> None:
        """Say what a source has finished with: what is below these offsets. All of a partition that is not named is kept.

        Args:
            stream_id: of the stream.
            source: its name.
            batch_id: the oldest batch that the stream may still go back to.
            next_offsets: those behind it.
        """
        ...
