"""Rows of a committed batch that its sink's system refuses, and that an operator let pass: kept in the checkpoint location.

    refused = RefusedRows("orders", staged, part)
    refused.kept() -> the rows of the part without them

Which rows they are is decided once, by objects below ``rejected/<sink>/`` that are created while the shard's receipt is locked.
Whoever writes the part reads them behind the same lock, and leaves the same rows out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa

from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import OutputNotWritable, RowsRefused
from beam_exactly_once.rows.json_values import shown
from beam_exactly_once.sinks.contract import Part
from beam_exactly_once.sinks.staged_rows import StagedRows

ROWS_AN_OBJECT = 10_000

Decide = Callable[[Mapping[int, str]], None]
"""Is told the rows that are refused, counted from 0 in the order in which they were given, and why; returns if they may be."""


class RefusedRows:
    """Those of one part of a batch.

    Args:
        sink: name of the sink.
        staged: its staged rows.
        part: of the batch.
    """

    def __init__(self, sink: str, staged: StagedRows, part: Part) -> None:
        self._sink = sink
        self._staged = staged
        self._part = part
        self._checkpoint = Checkpoint(staged.store, part.stream_id)

    def kept(self) -> Iterator[pa.RecordBatch]:
        """The rows of the part without those that were refused."""
        if not self._part.committables:
            return
        refused, first = self._numbers(), 0
        for batch in self._staged.read(self._part):
            of_batch = [number - first for number in refused if first <= number < first + batch.num_rows]
            first += batch.num_rows
            if of_batch:
                is_kept = np.ones(batch.num_rows, bool)
                is_kept[of_batch] = False
                batch = batch.filter(pa.array(is_kept))
            if batch.num_rows:
                yield batch

    def decide(self, refused: Mapping[int, str], error: OutputNotWritable) -> None:
        """Record rows that are refused, if an operator has let them pass.

        Args:
            refused: positions in :meth:`kept`, and why.
            error: what ended the transaction in which they were.

        Raises:
            RowsRefused: nobody has.
        """
        batch_id = self._part.attempt.batch_id
        if self._checkpoint.read_rejecting(batch_id) is None:
            uri = self._staged.store.uri
            raise RowsRefused(
                f"{error} Of the {self._rows} rows that batch {batch_id} has for sink {self._sink!r}, shard {self._part.shard}, "
                f"{len(refused)} are refused ({next(iter(refused.values()))}). To write the batch without them, run "
                f"`beam-exactly-once resolve {uri} --batch {batch_id} --reject` and start again: they go to {uri}/rejected/."
            )
        numbers = self._numbers()
        kept = [number for number in range(self._rows) if number not in numbers]
        reasons = {kept[position]: reason for position, reason in sorted(refused.items())}
        rows, count = list(self._described(reasons)), len(list(self._objects()))
        for first in range(0, len(rows), ROWS_AN_OBJECT):
            body = {**self._of, "rows": rows[first : first + ROWS_AN_OBJECT]}
            self._checkpoint.create_rejected(self._sink, batch_id, self._part.shard, count, body)
            count += 1

    @property
    def _of(self) -> Json:
        part = self._part
        return {"batch_id": part.attempt.batch_id, "sink": self._sink, "shard": part.shard}

    @property
    def _rows(self) -> int:
        return sum(int(committable["rows"]) for committable in self._part.committables)

    def _objects(self) -> Iterator[Json]:
        return self._checkpoint.rejected(self._sink, self._part.attempt.batch_id, self._part.shard)

    def _numbers(self) -> set[int]:
        return {int(row["number"]) for body in self._objects() for row in body["rows"]}

    def _described(self, reasons: Mapping[int, str]) -> Iterator[Json]:
        first = 0
        for batch in self._staged.read(self._part):
            for number in range(first, first + batch.num_rows):
                if number in reasons:
                    columns = batch.slice(number - first, 1).columns
                    row = {name: shown(column) for name, column in zip(batch.schema.names, columns, strict=True)}
                    yield {"number": number, "reason": reasons[number], "row": row}
            first += batch.num_rows
