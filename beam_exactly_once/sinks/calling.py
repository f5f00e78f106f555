"""What publishes ``ForEachBatch``: a call of user code with the rows of a committed batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, TypeAlias

import pyarrow as pa

from beam_exactly_once.sinks.contract import Part, Publisher
from beam_exactly_once.sinks.staged_rows import StagedRows


class BatchRows:
    """The rows of one batch, read while they are iterated over; more than once if need be.

    Iterating gives a dict for each row; :meth:`arrow` gives many rows at a time.

    Attributes:
        stream_id: of the checkpoint, which counts its batches from 0.
        batch_id: number of the batch.
    """

    def __init__(self, stream_id: str, batch_id: int, batches: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        self.stream_id = stream_id
        self.batch_id = batch_id
        self._batches = batches
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return chain.from_iterable(self._read(pa.RecordBatch.to_pylist))

    def arrow(self) -> Iterator[pa.RecordBatch]:
        """The same rows as Arrow batches."""
        return self._read(lambda batch: batch)

    def _read(self, shape: Callable[[pa.RecordBatch], Any]) -> Iterator[Any]:
        try:
            for batch in self._batches():
                yield shape(batch)
        except Exception as error:
            self._error = error
            raise

    def raise_if_incomplete(self) -> None:
        """Raise what ended an iteration early: user code that catches everything must not pass for done."""
        if self._error is not None:
            raise self._error


UserFunction: TypeAlias = Callable[[BatchRows], None]


class CallingPublisher(Publisher):
    """Publishing is calling. It has no receipt: user code keeps it, by the rule."""

    shards = 1
    asks_newest = True

    def __init__(self, fn: UserFunction, staged: StagedRows) -> None:
        self._fn = fn
        self._staged = staged

    def publish(self, part: Part) -> None:
        """Call ``fn`` with the batch.

        Raises:
            StagedOutputMissing: its rows are gone, even if ``fn`` caught that.
        """
        rows = BatchRows(part.stream_id, part.attempt.batch_id, lambda: self._staged.read(part))
        self._fn(rows)
        rows.raise_if_incomplete()

    def sweep(self, published_batch_id: int) -> None:
        """Remove staged rows of batches before ``published_batch_id``: every start calls with those of the newest again."""
        self._staged.sweep(published_batch_id - 1)
