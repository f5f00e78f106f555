"""One run of one batch, as data: the only thing in the graph that changes from batch to batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from beam_exactly_once.checkpoint import Attempt, Plan, Predecessor
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import TASK, Gathered, typed

START_OF_TIME = Timestamp(0)
"""The timestamp of every element of a batch: before any event time of the user's, which a runner may otherwise take for late, and
drop. It is not the earliest there is: Prism then fires timers while a splittable DoFn above them still has something deferred."""

ATTEMPT, SEED = "attempt", "seed"
"""Tags of what :class:`BatchTasks` emits besides the task."""


@dataclass(frozen=True, slots=True)
class BatchTask:
    """Run ``attempt``: read ``plan``, stage, commit, publish. Without a plan: publish the batch's marker again."""

    stream_id: str
    attempt: Attempt
    plan: Plan | None
    predecessor: Predecessor | None = None
    """What decided the batch before. A marker that is published again says it itself."""

    def to_json(self) -> str:
        """As it is stored."""
        return orjson.dumps(
            {
                "stream_id": self.stream_id,
                "attempt": self.attempt.to_json(),
                "plan": None if self.plan is None else self.plan.to_json(),
                "predecessor": None if self.predecessor is None else self.predecessor.to_json(),
            }
        ).decode()

    @classmethod
    def from_json(cls, text: str) -> BatchTask:
        """From what is stored."""
        stored = orjson.loads(text)
        plan, predecessor = stored["plan"], stored["predecessor"]
        return cls(
            stored["stream_id"],
            Attempt.from_json(stored["attempt"]),
            None if plan is None else Plan.from_json(plan),
            None if predecessor is None else Predecessor.from_json(predecessor),
        )


class EmitTask(StatelessDoFn):
    """Emits the task it was made with. The stream puts a new one into the translated graph for every batch.

    Outputs: the task's JSON; under :data:`ATTEMPT` its attempt's JSON; under :data:`SEED` the task for the commit.
    """

    def __init__(self, task_json: str | None = None) -> None:
        self._task_json = task_json

    def process(self, impulse: bytes) -> Iterator[Any]:
        """Emit the task, at :data:`START_OF_TIME`."""
        if self._task_json is None:
            raise RuntimeError("the graph of a stream was run without a task; run it through ExactlyOnceStream")
        task = BatchTask.from_json(self._task_json)
        attempt_json = orjson.dumps(task.attempt.to_json()).decode()
        yield TimestampedValue(self._task_json, START_OF_TIME)
        yield beam.pvalue.TaggedOutput(ATTEMPT, TimestampedValue(attempt_json, START_OF_TIME))
        yield beam.pvalue.TaggedOutput(SEED, TimestampedValue(("", (TASK, "", self._task_json)), START_OF_TIME))


class BatchTasks(beam.PTransform):
    """The root of a stream's graph: one task a batch."""

    def expand(self, begin: beam.pvalue.PBegin) -> dict[str, beam.PCollection[Any]]:
        """Impulse and :class:`EmitTask`; the collections by their tags."""
        emitted = begin | beam.Impulse() | "EmitTask" >> beam.ParDo(EmitTask()).with_outputs(ATTEMPT, SEED, main=TASK)
        return {
            TASK: typed(emitted[TASK], str),
            ATTEMPT: typed(emitted[ATTEMPT], str),
            SEED: typed(emitted[SEED], Gathered),
        }
