"""Rows of any kind to the columns of Kafka records, each under its shard; what a topic would refuse is refused here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.kafka import RECORD_SCHEMA
from beam_exactly_once.kafka.topic_admin import TopicFacts
from beam_exactly_once.kafka.transactions import OutgoingRecords
from beam_exactly_once.rows.columns import batch_of_rows, fitted_batch, name_of
from beam_exactly_once.rows.fields import has_field
from beam_exactly_once.rows.rejected import Rejected
from beam_exactly_once.rows.shards import by_shard, shards_by, shards_by_content

PRODUCED = ("key", "value", "headers", "timestamp_ms")
REJECTED_PREFIX = "rejected."
"""Of the names of the headers that say why a record was rejected."""
REJECTED_FACTS = ("step", "error", "reason", "topic", "partition", "offset", "timestamp_ms")
PRODUCED_AT_ONCE = 16_384
"""Rows that are Python objects at the same time."""
RECORD_OVERHEAD_BYTES = 128
"""More than a batch of one record adds to its key, value and headers."""
_HEADER_OVERHEAD_BYTES = 10


def staged_schema(by_partition: bool, order_by: Sequence[str]) -> pa.Schema:
    """What of a row is kept until it is produced."""
    kept = {*PRODUCED, *(("partition",) if by_partition else ()), *order_by}
    return pa.schema([field for field in RECORD_SCHEMA if field.name in kept])


def given_schema(staged: pa.Schema) -> pa.Schema:
    """What of a row is looked at to make what is staged."""
    names = {*staged.names, "timestamp_type"}
    return pa.schema([field for field in RECORD_SCHEMA if field.name in names])


def as_staged(batch: pa.RecordBatch, staged: pa.Schema) -> pa.RecordBatch:
    """Columns of :func:`given_schema` as they are staged: a time that says that there is none is null.

    That is -1, Kafka's word, or 0, of the type 0, as of a :class:`~beam_exactly_once.Record` that was made without one. Of
    another type, or of none, it is a time like others.
    """
    times, types = batch.column("timestamp_ms"), batch.column("timestamp_type")
    is_unset = pc.and_(pc.or_(pc.equal(times, -1), pc.equal(times, 0)), pc.equal(types, 0))
    kept = pc.if_else(pc.fill_null(is_unset, False), None, times)
    columns = [kept if name == "timestamp_ms" else batch.column(name) for name in staged.names]
    return pa.RecordBatch.from_arrays(columns, schema=staged)


def record_of(rejected: Rejected) -> dict[str, Any]:
    """A rejected record as it is written: key, value and headers as they were, and in more headers why and from where.

    It has the time of its publishing, since a topic may have refused its own. Of a row that was no record, the value is what
    Python shows of it.
    """
    facts = {name: getattr(rejected, name) for name in REJECTED_FACTS}
    why = [(f"{REJECTED_PREFIX}{name}", str(fact).encode()) for name, fact in facts.items() if fact is not None]
    return {
        "topic": rejected.topic,
        "partition": rejected.partition,
        "offset": rejected.offset,
        "key": rejected.key,
        "value": rejected.value if rejected.row is None else rejected.row.encode(),
        "headers": [*rejected.headers, *why],
    }


def batch_of(rows: Sequence[Any], schema: pa.Schema) -> pa.RecordBatch:
    """Rows as columns. Each must have a ``value``, be it None; all else may be missing.

    Raises:
        UnfitRow: a row is not a record.
    """
    for row in rows:
        if not has_field(row, "value"):
            raise UnfitRow(
                f"got a row of type {name_of(type(row))} without a value. Give it Records, or dicts, "
                "NamedTuples, dataclasses or beam.Row with value (bytes, or None for a tombstone) and, if wanted, key, headers, "
                "timestamp_ms, partition."
            )
    return batch_of_rows(rows, schema)


def batch_of_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """An Arrow batch with its columns, of those that it may have; ``value`` is one of them.

    Raises:
        UnfitRow: a value cannot become what the column takes.
        ConfigurationError: it has no values, or a column of another type.
    """
    known = set(batch.schema.names)
    present = pa.schema([field for field in schema if field.name in known or field.name == "value"])
    fitted = fitted_batch(batch, present)
    columns = [
        fitted.column(field.name) if field.name in present.names else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def refuse_what_a_topic_refuses(batch: pa.RecordBatch, topic: TopicFacts, *, now_ms: int) -> None:
    """Look at records before their batch is committed: afterwards, one that is refused would block the stream.

    Raises:
        UnfitRow: a record is too large, has no key although the topic is compacted, a header without a name, a partition that
            the topic does not have, a time that cannot be written, or one too far from now.
    """
    if topic.max_record_bytes is not None:
        largest = int(_sizes(batch).max(initial=0))
        if largest > topic.max_record_bytes:
            raise UnfitRow(
                f"got a record of up to {largest} bytes, but topic {topic.name} takes {topic.max_record_bytes} "
                "(max.message.bytes, which must hold a record before compression). Raise it, or reject or drop such records."
            )
    if "compact" in topic.cleanup_policy and batch.column("key").null_count:
        raise UnfitRow(
            f"got a record without a key, but topic {topic.name} is compacted, and takes none. Give each record a "
            "key, or reject those without."
        )
    if batch.column("headers").flatten().field("key").null_count:
        raise UnfitRow("got a record with a header without a name, which Kafka does not take.")
    if "partition" in batch.schema.names:
        _refuse_partitions(batch.column("partition"), topic)
    if topic.config.get("message.timestamp.type") != "LogAppendTime":
        _refuse_times(batch.column("timestamp_ms"), topic, now_ms)


def by_shard_of(
    batch: pa.RecordBatch, shards: int, *, by_partition: bool, by_content: bool = False
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of a batch, each under its shard: all of a partition, or all of a key, have one. Pure.

    Args:
        batch: the rows.
        shards: how many there are.
        by_partition: the partition decides, not the key.
        by_content: records without a key go by what they hold instead of in turns: in a replay each goes where it went before.
    """
    if shards == 1:
        yield 0, batch
        return
    if by_partition:
        of_rows = pa.array(batch.column("partition").to_numpy(zero_copy_only=False) % shards)
    else:
        keys = batch.column("key")
        of_rows = shards_by(pc.fill_null(keys, b"").to_pylist(), shards)
        if keys.null_count:
            going_round = pa.array(np.arange(batch.num_rows, dtype=np.uint64) % np.uint64(shards))
            without_key = shards_by_content(batch, shards) if by_content else going_round
            of_rows = pc.if_else(pc.is_null(keys), without_key, of_rows)
    yield from by_shard(batch, of_rows)


def outgoing(batch: pa.RecordBatch, *, by_partition: bool) -> OutgoingRecords:
    """Columns as they are produced. Pure."""
    return OutgoingRecords(
        batch.column("value").to_pylist(),
        _unless_null(batch.column("key")),
        _timestamps(batch.column("timestamp_ms")),
        batch.column("partition").to_pylist() if by_partition else None,
        _headers(batch.column("headers")),
    )


def in_order(batches: Iterable[pa.RecordBatch], order_by: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of all batches, sorted; as they come without ``order_by``."""
    if not order_by:
        yield from batches
        return
    held = list(batches)
    if held:
        table = pa.Table.from_batches(held)
        order = pc.sort_indices(table, [(name, "ascending") for name in order_by])
        yield from table.take(order).to_batches(max_chunksize=PRODUCED_AT_ONCE)


def _sizes(batch: pa.RecordBatch) -> Any:
    """Bytes of each record, at most; a numpy array."""
    sizes = pc.add(_lengths(batch.column("value")), _lengths(batch.column("key"))).to_numpy() + RECORD_OVERHEAD_BYTES
    headers = batch.column("headers")
    entries = headers.flatten()
    if len(entries):
        entry_sizes = pc.add(_lengths(entries.field("key")), _lengths(entries.field("value")))
        of_row = pc.list_parent_indices(headers).to_numpy()
        np.add.at(sizes, of_row, entry_sizes.to_numpy() + _HEADER_OVERHEAD_BYTES)
    return sizes


def _lengths(column: pa.Array) -> pa.Array:
    return pc.fill_null(pc.cast(pc.binary_length(column), pa.int64()), 0)


def _refuse_partitions(partitions: pa.Array, topic: TopicFacts) -> None:
    bounds = pc.min_max(partitions)
    lowest, highest = bounds["min"].as_py(), bounds["max"].as_py()
    if partitions.null_count or (lowest is not None and not 0 <= lowest <= highest < topic.partitions):
        odd = None if partitions.null_count else (lowest if lowest < 0 else highest)
        raise UnfitRow(
            f"got a record for partition {odd} of topic {topic.name}, which has partitions 0 to "
            f"{topic.partitions - 1}. Add partitions, use partitioner='key', or reject such records."
        )


def _refuse_times(times: pa.Array, topic: TopicFacts, now_ms: int) -> None:
    bounds = pc.min_max(times)
    if not bounds["min"].is_valid:
        return
    if bounds["min"].as_py() <= 0:
        raise UnfitRow(
            f"got a record with timestamp_ms={bounds['min'].as_py()}, which the Kafka client cannot write: times begin at 1, one "
            "millisecond after the start of 1970. Give None for the time of publishing, or reject such records."
        )
    for word, distance_ms in (("after", bounds["max"].as_py() - now_ms), ("before", now_ms - bounds["min"].as_py())):
        setting = f"message.timestamp.{word}.max.ms"
        max_distance_ms = topic.config.get(setting)
        if max_distance_ms is not None and distance_ms > int(max_distance_ms):
            raise UnfitRow(
                f"got a record with a time {distance_ms} ms {word} now; topic {topic.name} takes "
                f"{max_distance_ms} ({setting}). Raise it, correct or drop the record's timestamp_ms, or reject such "
                "records."
            )


def _unless_null(column: pa.Array) -> list[Any] | None:
    return None if column.null_count == len(column) else column.to_pylist()


def _timestamps(column: pa.Array) -> list[int] | None:
    if column.null_count == len(column):
        return None
    # The client's word for "no timestamp" is 0. Only a topic that sets them itself gets any below.
    times: list[int] = pc.max_element_wise(pc.fill_null(column, 0), 0).to_pylist()
    return times


def _headers(column: pa.Array) -> list[Any] | None:
    if column.null_count == len(column) or not len(column.flatten()):
        return None
    return [[(entry["key"], entry["value"]) for entry in entries or ()] for entries in column.to_pylist()]
