"""``WriteToKafka``: every row of a committed batch once in a topic, for those who read committed records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

import apache_beam as beam
import orjson
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.clock import SystemClock
from beam_exactly_once.errors import ConfigurationError, CorruptObject, OutputNotWritable, UnknownTopic
from beam_exactly_once.kafka import RECORD_SCHEMA, ConfigValue, KafkaRecord, KafkaSettings
from beam_exactly_once.kafka.marks_topic import MarksTopic
from beam_exactly_once.kafka.topic_admin import TopicAdmin, TopicFacts
from beam_exactly_once.kafka.transactions import Compression, OutgoingRecords, Transaction, TransactionSettings
from beam_exactly_once.transforms.kafka_rows import (
    batch_of,
    batch_of_batch,
    batch_of_fields,
    by_shard_of,
    in_order,
    outgoing,
    refuse_what_a_topic_refuses,
    staged_schema,
)
from beam_exactly_once.transforms.publishing import Part, Publisher, is_to_write
from beam_exactly_once.transforms.staged_rows import StagedRows, StageRows
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import SinkSpec, sink_graph

PartitionBy: TypeAlias = Literal["key", "partition"]

ROWS_AT_ONCE = 1024
_RECORD_FIELDS = len(KafkaRecord._fields)
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_TOPIC_LENGTH_MAX = 249
_NAMES_LENGTH_MAX = 80
"""Of a prefix: a stream's id and a sink's name follow it in the marks topic's name."""
_MARK_FORMAT = 1
_CLOCK = SystemClock()
_Sharded: TypeAlias = tuple[int, pa.RecordBatch]


class WriteToKafka(beam.PTransform):
    """Writes rows as records to ``topic``: those of a committed batch exactly once, for consumers with
    ``isolation.level=read_committed``.

    Bounded a batch; works only in an ``ExactlyOnceStream``. Guarantee: rows wait in the checkpoint location until their
    batch is committed. Then one Kafka transaction a shard and batch holds its records and a mark that names the batch; a
    batch that the mark names is never written again, also by a driver that was replaced and wakes late. Aborted
    leftovers of a crash are in the log, and only those see them who read uncommitted records. With one shard a batch is
    visible at once, in all partitions; with more, shard by shard.
    After a crash, readers of committed records wait at the open transaction until the next start, or for at
    most ``transaction_timeout_s``. Parallelism: staging that of the input; publishing, one worker a shard.

    Input: :class:`~beam_exactly_once.kafka.KafkaRecord` as they come, or dicts, NamedTuples, dataclasses and
    ``beam.Row`` with ``value`` and, if wanted, ``key``, ``headers``, ``timestamp_ms``, ``partition``, or ``pa.RecordBatch``
    with such columns of ``RECORD_SCHEMA``, which are much the fastest. Texts become UTF-8. A record without a timestamp
    gets that of its publishing. A row's own ``topic`` and ``offset`` are not used, but by ``order_by``.

    Order: batches are in order, by key or by partition. Within a batch, the order of a key is that of
    ``order_by``; a batch is then sorted in memory, shard by shard.

    What the user provides: the topic; permission to Write and Describe it and the transactional ids ``<marks_prefix>.*``,
    and to Read, Write, Describe, DescribeConfigs (and Create, Alter) topics ``<marks_prefix>.*``. The marks are in a compacted
    topic ``<marks_prefix>.<stream id>.<name>`` that the first start creates; who deletes it ends the stream.

    Args:
        bootstrap_servers: ``host:port``, several with commas.
        topic: where all rows go.
        partition_by: ``"key"``: by the hash of the key, as Java's producers do it, and anywhere without a key;
            ``"partition"``: the row's own ``partition``.
        order_by: fields of ``RECORD_SCHEMA`` to sort a batch by, such as ``["topic", "partition", "offset"]`` for the order
            of the source.
        shards: transactions that publish a batch side by side. A key, or a partition, is of one shard. May change at any
            start.
        compression: ``"lz4"`` (default), ``"zstd"``, ``"snappy"``, ``"gzip"`` or ``"none"``.
        transaction_timeout_s: the broker aborts a transaction that is open for longer; publishing a shard must take less.
        marks_prefix: what the names of the marks topic and of the transactional ids begin with. It cannot change later.
        name: identifies the sink in the checkpoint; may be left out for one sink of this kind.
        producer_config: librdkafka properties; secrets as ``secret_from_env(…)``, ``secret_from_file(…)`` or a callable.
        timeout_s: longest wait for an answer of the cluster.

    Raises:
        ConfigurationError: an argument is not possible; plain-text secrets included.
        UnsupportedPipeline: applied outside of a stream, or to windowed rows.

    Raises (while running):
        ConfigurationError: a row is no record, or one that the topic would refuse; nothing of its batch is committed.
        UnknownTopic, OutputNotWritable: the topic is missing, or Kafka refuses. What was committed waits for the next start.
        SinkUnavailable: no broker answers.
        SinkAhead, SinkBehind: the marks are not those that the checkpoint knows.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        partition_by: PartitionBy = "key",
        order_by: Sequence[str] = (),
        shards: int = 1,
        compression: Compression = "lz4",
        transaction_timeout_s: float = 60.0,
        marks_prefix: str = "beam-exactly-once",
        name: str | None = None,
        producer_config: Mapping[str, ConfigValue] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__()
        connection = KafkaSettings(bootstrap_servers, dict(producer_config or {}), startup_timeout_s=timeout_s)
        if not isinstance(topic, str) or _TOPIC.fullmatch(topic) is None:
            raise ConfigurationError(f"topic={topic!r} cannot name a Kafka topic.")
        if partition_by not in get_args(PartitionBy):
            raise ConfigurationError(f"partition_by={partition_by!r} is not known; use 'key' or 'partition'.")
        if not isinstance(shards, int) or shards < 1:
            raise ConfigurationError(f"shards={shards!r} must be a whole number from 1 on.")
        if len(marks_prefix) > _NAMES_LENGTH_MAX or _TOPIC.fullmatch(marks_prefix) is None:
            raise ConfigurationError(
                f"marks_prefix={marks_prefix!r} must be 1 to {_NAMES_LENGTH_MAX} letters, digits, '.', '_' or '-'."
            )
        self._name = name
        self._output = _Output(
            topic,
            TransactionSettings(connection, transaction_timeout_s, compression),
            partition_by == "partition",
            _order(order_by),
            shards,
            marks_prefix,
        )

    def expand(self, rows: beam.PCollection[Any]) -> beam.pvalue.PDone:
        """Wire *stage*, and register what publishes it."""
        graph = sink_graph(rows, "WriteToKafka")
        name = graph.sink_name(self._name, "kafka")
        output = self._output
        definition = {"kind": "kafka", "topic": output.topic, "marks_prefix": output.marks_prefix}
        committables = (
            rows
            | "Records" >> beam.ParDo(_ToRecords(name, output)).with_output_types(_Sharded)
            | "Stage" >> StageRows(graph, name)
        )
        publisher = _KafkaPublisher(name, output, StagedRows(name, graph.checkpoint))
        graph.sinks[name] = SinkSpec(name, definition, publisher, committables)
        return beam.pvalue.PDone(rows.pipeline)


@dataclass(frozen=True)
class _Output:
    """Where and how a sink writes."""

    topic: str
    settings: TransactionSettings
    by_partition: bool
    order_by: tuple[str, ...]
    shards: int
    marks_prefix: str

    @property
    def connection(self) -> KafkaSettings:
        return self.settings.connection


def _order(order_by: Sequence[str]) -> tuple[str, ...]:
    names = (order_by,) if isinstance(order_by, str) else tuple(order_by)
    sortable = [name for name in RECORD_SCHEMA.names if name != "headers"]
    for name in names:
        if name not in sortable:
            raise ConfigurationError(
                f"order_by={name!r} is not a field of a record; use some of {', '.join(sortable)}."
            )
    return names


@lru_cache(maxsize=64)
def _facts(connection: KafkaSettings, topic: str) -> TopicFacts:
    """A topic, asked for once a process.

    Raises:
        UnknownTopic: Kafka does not have it.
    """
    return _described(TopicAdmin(connection), connection, topic)


def _described(admin: TopicAdmin, connection: KafkaSettings, topic: str) -> TopicFacts:
    facts = admin.describe(topic)
    if facts is None:
        raise UnknownTopic(
            f"Kafka at {connection.bootstrap_servers} has no topic {topic}, or does not let us see it. Create it, or "
            "correct topic=."
        )
    return facts


class _ToRecords(StatelessDoFn):
    """Makes columns of rows, many at once, refuses what the topic would refuse, and cuts by shard."""

    def __init__(self, sink: str, output: _Output) -> None:
        self._sink = sink
        self._output = output
        self._schema = staged_schema(output.by_partition, output.order_by)
        self._fields: list[Any] = []
        self._rows: list[Any] = []

    def start_bundle(self) -> None:
        """Drop what a failed bundle left."""
        self._fields, self._rows = [], []

    def process(self, row: Any) -> list[_Sharded] | None:
        """Take a row, or an Arrow batch of rows."""
        if type(row) is KafkaRecord:
            # The fields of all records in one list: a thousand waiting tuples cost more in garbage collection than in work.
            self._fields += row
            return self._drain() if len(self._fields) >= ROWS_AT_ONCE * _RECORD_FIELDS else None
        if type(row) is pa.RecordBatch:
            batch = batch_of_batch(row, self._schema, sink=self._sink)
            return [*self._drain(), *self._sharded(batch)] if row.num_rows else None
        self._rows.append(row)
        return self._drain() if len(self._rows) >= ROWS_AT_ONCE else None

    def finish_bundle(self) -> list[WindowedValue]:
        """Give what still waits."""
        return [GlobalWindows.windowed_value(block, MIN_TIMESTAMP) for block in self._drain()]

    def _drain(self) -> list[_Sharded]:
        fields, self._fields = self._fields, []
        rows, self._rows = self._rows, []
        sharded: list[_Sharded] = []
        if fields:
            sharded += self._sharded(batch_of_fields(fields, self._schema, sink=self._sink))
        if rows:
            sharded += self._sharded(batch_of(rows, self._schema, sink=self._sink))
        return sharded

    def _sharded(self, batch: pa.RecordBatch) -> Iterator[_Sharded]:
        output = self._output
        now_ms = int(_CLOCK.utc_now().timestamp() * 1000)
        try:
            topic = _facts(output.connection, output.topic)
            refuse_what_a_topic_refuses(batch, topic, sink=self._sink, now_ms=now_ms)
        except ConfigurationError:  # the topic may have changed since it was asked for
            _facts.cache_clear()
            topic = _facts(output.connection, output.topic)
            refuse_what_a_topic_refuses(batch, topic, sink=self._sink, now_ms=now_ms)
        return by_shard_of(batch, output.shards, by_partition=output.by_partition)


class _KafkaPublisher(Publisher):
    """Produces what a shard has of a batch, and its mark, in one transaction."""

    def __init__(self, sink: str, output: _Output, staged: StagedRows) -> None:
        self._sink = sink
        self._output = output
        self._staged = staged
        self.shards = output.shards

    def publish(self, part: Part) -> None:
        """Write a shard of a batch, unless its mark says that it is there.

        The mark is read once nobody else's transaction of the shard can commit, and set in the transaction that writes.
        """
        output, marks_topic = self._output, self._marks_topic(part.stream_id)
        marks = MarksTopic(output.connection, marks_topic)
        where = f"sink {self._sink!r}, topic {output.topic}"
        try:
            with self._transaction(part.stream_id, part.shard) as transaction:
                if not is_to_write(part, self._mark_of(marks, part), where):
                    return
                transaction.begin()
                for batch in in_order(self._staged.read(part), output.order_by):
                    transaction.produce(output.topic, outgoing(batch, by_partition=output.by_partition))
                transaction.produce(marks_topic, self._mark(part))
                transaction.commit()
        finally:
            marks.close()

    def finish(self, stream_id: str, attempt: Attempt, committables: tuple[Json, ...]) -> None:
        """Nothing: the marks say all."""

    def check_place(self) -> None:
        """Prove that the topic can be written."""
        self._writable_output(TopicAdmin(self._output.connection))

    def prepare(self, stream_id: str) -> None:
        """Create the marks topic."""
        admin = TopicAdmin(self._output.connection)
        like = self._writable_output(admin)
        MarksTopic(self._output.connection, self._marks_topic(stream_id)).create(admin, self._output.shards, like)

    def check_start(self, stream_id: str, next_batch_id: int) -> None:
        """Prove that marks can be written; end what an earlier driver left open in the first shard."""
        admin = TopicAdmin(self._output.connection)
        MarksTopic(self._output.connection, self._marks_topic(stream_id)).check(admin, self._output.shards)
        with self._transaction(stream_id, 0):
            pass

    def sweep(self, published_batch_id: int) -> None:
        """Remove staged rows of batches up to ``published_batch_id``."""
        self._staged.sweep(published_batch_id)

    def _writable_output(self, admin: TopicAdmin) -> TopicFacts:
        output = self._output
        facts = _described(admin, output.connection, output.topic)
        if "WRITE" not in facts.operations:
            raise OutputNotWritable(
                f"Kafka does not let us write to topic {output.topic}. Allow it: kafka-acls.sh --add --allow-principal User:… "
                f"--operation Write --operation Describe --topic {output.topic}"
            )
        return facts

    def _marks_topic(self, stream_id: str) -> str:
        name = f"{self._output.marks_prefix}.{stream_id}.{self._sink}"
        if len(name) > _TOPIC_LENGTH_MAX:
            raise ConfigurationError(
                f"{name} is too long for a topic's name. Give sink {self._sink!r} a shorter name=."
            )
        return name

    def _transaction(self, stream_id: str, shard: int) -> Transaction:
        output = self._output
        facts = _facts(output.connection, output.topic)
        return Transaction(
            output.settings,
            f"{self._marks_topic(stream_id)}.{shard}",
            output.topic,
            batch_bytes_max=facts.record_bytes_max,
        )

    def _mark(self, part: Part) -> OutgoingRecords:
        mark = {
            "format_version": _MARK_FORMAT,
            "stream_id": part.stream_id,
            "sink": self._sink,
            "shard": part.shard,
            "attempt": part.attempt.to_json(),
        }
        # One key a partition: compaction keeps the newest.
        return OutgoingRecords([orjson.dumps(mark)], [b"mark"], partitions=[part.shard])

    def _mark_of(self, marks: MarksTopic, part: Part) -> Attempt | None:
        value = marks.newest(part.shard)
        if value is None:
            return None
        try:
            found = orjson.loads(value)
            if found["format_version"] == _MARK_FORMAT and found["shard"] == part.shard:
                return Attempt.from_json(found["attempt"])
        except (ValueError, KeyError, TypeError):
            pass
        raise CorruptObject(
            f"the newest record of topic {self._marks_topic(part.stream_id)}, partition {part.shard}, is not the mark of this "
            "shard: nothing but this sink may write there. Nothing was written. Start a new checkpoint_location with "
            "Start.from_checkpoint(…) at the last batch that the output holds."
        )
