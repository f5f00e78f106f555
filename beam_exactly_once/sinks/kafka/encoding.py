"""Rows to columns of records, each block under the shard that produces it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock, now_ms
from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.rows.columns import batch_of_records
from beam_exactly_once.rows.encoding import PlacedBlock, RowBlocks, RowEncoding
from beam_exactly_once.rows.rejected import Rejected
from beam_exactly_once.sinks.kafka.rows import (
    as_staged,
    batch_of,
    batch_of_batch,
    by_shard_of,
    given_schema,
    record_of,
    refuse_what_a_topic_refuses,
    staged_schema,
)
from beam_exactly_once.sinks.kafka.shards import KafkaOutput, topic_facts


@dataclass(frozen=True)
class KafkaEncoding(RowEncoding):
    """Rows of a sink of Kafka."""

    output: KafkaOutput
    clock: Clock = SYSTEM_CLOCK
    block_type = tuple[int, pa.RecordBatch]

    def blocks(self) -> RowBlocks:
        """See :class:`RowEncoding`."""
        return _KafkaBlocks(self.output, self.clock)


class _KafkaBlocks:
    """Makes columns of rows, refuses what the topic would refuse, and cuts by shard. Nothing waits."""

    def __init__(self, output: KafkaOutput, clock: Clock) -> None:
        self._output = output
        self._clock = clock
        self._staged = staged_schema(output.by_partition, output.order_by)
        self._given = given_schema(self._staged)
        self._asked_again = False

    def of_rows(self, rows: Sequence[Any]) -> list[PlacedBlock]:
        if Rejected in set(map(type, rows)):
            rows = [record_of(row) if type(row) is Rejected else row for row in rows]
        return self._sharded(batch_of(rows, self._given))

    def of_records(self, fields: Sequence[Any]) -> list[PlacedBlock]:
        return self._sharded(batch_of_records(fields, self._given))

    def of_batch(self, batch: pa.RecordBatch) -> list[PlacedBlock]:
        return self._sharded(batch_of_batch(batch, self._given))

    def rest(self) -> list[PlacedBlock]:
        return []

    def _sharded(self, given: pa.RecordBatch) -> list[PlacedBlock]:
        batch = as_staged(given, self._staged)
        try:
            self._refuse(batch)
        except UnfitRow:
            if self._asked_again:
                raise
            self._asked_again = True
            topic_facts.forget()  # the topic may have changed since it was asked for
            self._refuse(batch)
        output = self._output
        return list(by_shard_of(batch, output.shards, by_partition=output.by_partition, by_content=output.direct))

    def _refuse(self, batch: pa.RecordBatch) -> None:
        topic = topic_facts.get((self._output.connection, self._output.topic))
        refuse_what_a_topic_refuses(batch, topic, now_ms=now_ms(self._clock))
