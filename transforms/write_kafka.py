"""``WriteToKafka``: every row of a committed batch once in a topic, for those who read committed records."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import apache_beam as beam

from beam_exactly_once.arguments import names, one_of, options_of, true_or_false, whole_number
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import RECORD_SCHEMA, ConfigValue, KafkaSettings
from beam_exactly_once.kafka.transaction_producer import Compression, TransactionSettings
from beam_exactly_once.rows.rejected import OnError, Rejected, checked_on_error
from beam_exactly_once.sinks.kafka.encoding import KafkaEncoding
from beam_exactly_once.sinks.kafka.shards import KafkaOutput, KafkaShards
from beam_exactly_once.sinks.sharded import ShardedSink
from beam_exactly_once.transforms.named import NamedTransform
from beam_exactly_once.transforms.stream_graph import sink_graph
from beam_exactly_once.transforms.write_to import written

Partitioner: TypeAlias = Literal["key", "partition"]

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_MAX_NAMES_LENGTH = 80
"""Of a prefix: a stream's id and a sink's name follow it in the receipts topic's name."""


class WriteToKafka(NamedTransform):
    """Writes rows as records to ``topic``: those of a committed batch exactly once, for consumers with
    ``isolation.level=read_committed``.

    Bounded a batch; works only in an ``ExactlyOnceStream``. Guarantee: rows wait in the checkpoint location until their
    batch is committed. Then one Kafka transaction a shard and batch holds its records and a receipt that names the batch; a
    batch that the receipt names is never written again, also by a driver that was replaced and wakes late. Aborted
    leftovers of a crash are in the log, and only those see them who read uncommitted records. With one shard a batch is
    visible at once, in all partitions; with more, shard by shard.
    After a crash, readers of committed records wait at the open transaction until the next start, or for at
    most ``transaction_timeout_s``. Parallelism: staging that of the input; publishing, one worker a shard.

    Input: :class:`~beam_exactly_once.Record` as they come, or dicts, NamedTuples, dataclasses and
    ``beam.Row`` with ``value`` and, if wanted, ``key``, ``headers``, ``timestamp_ms``, ``partition``, or ``pa.RecordBatch``
    with such columns of ``RECORD_SCHEMA``, which are much the fastest. Texts become UTF-8. A record without a timestamp
    gets that of its publishing. A row's own ``topic`` and ``offset`` are not used, but by ``order_by``. A
    :class:`~beam_exactly_once.Rejected` is written with its key, value and headers, and says why in headers ``rejected.…``.

    A row that is not a record, or one that the topic would refuse (too large, without a key though the topic is compacted, of a
    partition that it does not have, at a time before 1970 or too far from now), fails the batch, or is rejected with
    ``on_error="reject"``, as by ``WriteToFiles``. Before that, the topic is asked once more what it takes.

    Order: batches are in order, by key or by partition. Within a batch, the order of a key is that of
    ``order_by``; a batch is then sorted in memory, shard by shard.

    What the user provides: the topic; permission to Write and Describe it and the transactional ids ``<receipts_prefix>.*``,
    and to Read, Write, Describe, DescribeConfigs (and Create, Alter) topics ``<receipts_prefix>.*``. The receipts are in a
    compacted topic ``<receipts_prefix>.<stream id>.<name>`` that the first start creates; who deletes it ends the stream.

    Args:
        bootstrap_servers: ``host:port``, several with commas.
        topic: where all rows go.
        partitioner: ``"key"``: by the hash of the key, as Java's producers do it, and anywhere without a key;
            ``"partition"``: the row's own ``partition``.
        order_by: fields of ``RECORD_SCHEMA`` to sort a batch by, such as ``["topic", "partition", "offset"]`` for the order
            of the source.
        shards: transactions that publish a batch side by side. A key, or a partition, is of one shard. May change at any
            start.
        compression: ``"lz4"`` (default), ``"zstd"``, ``"snappy"``, ``"gzip"`` or ``"none"``.
        transaction_timeout_s: the broker aborts a transaction that is open for longer; publishing a shard must take less.
        receipts_prefix: what the names of the receipts topic and of the transactional ids begin with. It cannot change later.
        direct: write before the marker instead of storing the records first: faster, for a stream whose only sink this is and
            whose every run makes the same records of the same input. A replay that differs ends with ``ReplayDiffers``.
        on_error: ``"fail"`` or ``"reject"``.
        name: identifies the sink in the checkpoint, and is its label; may be left out for one sink of this kind.
        client_config: librdkafka properties; secrets as ``secret_from_env(…)``, ``secret_from_file(…)`` or a callable.
        timeout_s: longest wait for an answer of the cluster.

    Raises:
        ConfigurationError: an argument is not possible; plain-text secrets included.
        UnsupportedPipeline: applied outside of a stream, or to windowed rows.

    Raises (while running):
        UnfitRow: a row is not a record, or one that the topic would refuse, and ``on_error`` is ``"fail"``; nothing of
            its batch is committed.
        ConfigurationError: no row could be a record.
        UnknownTopic, OutputNotWritable: the topic is missing, or Kafka refuses. What was committed waits for the next start.
        SinkUnavailable: no broker answers.
        SinkAhead, SinkBehind: the receipts are not those that the checkpoint knows.
        ReplayDiffers: with ``direct=True``, a run of a batch makes other records than an earlier one wrote.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        *,
        partitioner: Partitioner = "key",
        order_by: Sequence[str] = (),
        shards: int = 1,
        compression: Compression = "lz4",
        transaction_timeout_s: float = 60.0,
        receipts_prefix: str = "beam-exactly-once",
        direct: bool = False,
        on_error: OnError = "fail",
        name: str | None = None,
        client_config: Mapping[str, ConfigValue] | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        super().__init__(name)
        config = options_of("client_config", client_config)
        connection = KafkaSettings(bootstrap_servers, config or {}, timeout_s=timeout_s)
        if not isinstance(topic, str) or _TOPIC.fullmatch(topic) is None:
            raise ConfigurationError(
                f"topic={topic!r} cannot name a Kafka topic: use letters, digits, '.', '_' and '-'."
            )
        one_of("partitioner", partitioner, get_args(Partitioner))
        whole_number("shards", shards)
        true_or_false("direct", direct)
        if (
            not isinstance(receipts_prefix, str)
            or len(receipts_prefix) > _MAX_NAMES_LENGTH
            or _TOPIC.fullmatch(receipts_prefix) is None
        ):
            raise ConfigurationError(
                f"receipts_prefix={receipts_prefix!r} must be 1 to {_MAX_NAMES_LENGTH} letters, digits, '.', '_' or '-'."
            )
        self._rejects = checked_on_error(on_error, direct=direct)
        self._output = KafkaOutput(
            topic,
            TransactionSettings(connection, transaction_timeout_s, compression),
            partitioner == "partition",
            _order(order_by),
            shards,
            receipts_prefix,
            direct,
        )

    def expand(self, rows: beam.PCollection[Any]) -> beam.pvalue.PDone | beam.PCollection[Rejected]:
        """Wire *blocks* and *stage*, and register what publishes them."""
        graph = sink_graph(rows, "WriteToKafka")
        name = graph.sink_name(self._name, "kafka")
        output = self._output
        encoding = KafkaEncoding(output)
        sharded = ShardedSink(name, KafkaShards(name, output), output.shards)
        definition = {"kind": sharded.sink.kind, "topic": output.topic, "receipts_prefix": output.receipts_prefix}
        return written(rows, encoding, sharded, graph, definition, direct=output.direct, rejects=self._rejects)


def _order(order_by: Sequence[str]) -> tuple[str, ...]:
    chosen = names("order_by", order_by, of="fields")
    sortable = [name for name in RECORD_SCHEMA.names if name != "headers"]
    for name in chosen:
        if name not in sortable:
            raise ConfigurationError(
                f"order_by={list(chosen)}: {name!r} is not a field of a record; use some of {', '.join(sortable)}."
            )
    return chosen
