"""The root of a stream's graph: it emits the task of the batch that runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.named import Composite
from beam_exactly_once.transforms.reports import Gathered, ReportCoder, gathered
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import typed

TASK, ATTEMPT, SEED = "task", "attempt", "seed"
"""Tags of what :class:`BatchTasks` emits: the task; its attempt; the task for the commit."""

START_OF_TIME = Timestamp(0)
"""The timestamp of every element of a batch: before the event times that a step may give them, which a runner would otherwise
take for late, and drop. It is not earlier: Prism then fires timers while a step above them still has something to give."""


def encoded_task(task: BatchTask) -> bytes:
    """What :class:`EmitTask` is given."""
    return ReportCoder().encode(task)


class EmitTask(StatelessDoFn):
    """Emits the task of a batch: the one that its impulse is, or the one that it was made with.

    An impulse with bytes in it is for runners whose loop is ours. For others, the stream puts a new EmitTask into the
    translated graph for every batch.
    """

    def __init__(self, task: BatchTask | None = None) -> None:
        self._encoded = b"" if task is None else encoded_task(task)  # small and quick where a pickle is neither

    def process(self, impulse: bytes) -> Iterator[Any]:
        """Emit the task, at :data:`START_OF_TIME`."""
        encoded = impulse or self._encoded
        if not encoded:
            raise RuntimeError("the graph of a stream was run without a task; run it through ExactlyOnceStream")
        task = ReportCoder().decode(encoded)
        yield TimestampedValue(task, START_OF_TIME)
        yield beam.pvalue.TaggedOutput(ATTEMPT, TimestampedValue(task.attempt, START_OF_TIME))
        yield beam.pvalue.TaggedOutput(SEED, TimestampedValue(gathered(task), START_OF_TIME))


class BatchTasks(Composite):
    """The root of a stream's graph: one task a batch."""

    def expand(self, begin: beam.pvalue.PBegin) -> dict[str, beam.PCollection[Any]]:
        """Impulse and :class:`EmitTask`; the collections by their tags."""
        emitted = begin | beam.Impulse() | "EmitTask" >> beam.ParDo(EmitTask()).with_outputs(ATTEMPT, SEED, main=TASK)
        return {
            TASK: typed(emitted[TASK], BatchTask),
            ATTEMPT: typed(emitted[ATTEMPT], Attempt),
            SEED: typed(emitted[SEED], Gathered),
        }
