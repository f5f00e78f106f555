"""One run of one batch, as data: the only thing in the graph that changes from batch to batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from beam_exactly_once.checkpoint import Attempt, Plan, Predecessor
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.checkpoint.source_times import SourceTimes
from beam_exactly_once.state.shard_seed import OperatorTask


@dataclass(frozen=True, slots=True)
class BatchTask:
    """Run ``attempt``: read ``plan``, stage, commit, publish. Without a plan: publish the batch's marker again."""

    stream_id: str
    attempt: Attempt
    plan: Plan | None
    predecessor: Predecessor | None = None
    """What decided the batch before. A marker that is published again says it itself."""
    operators: Mapping[str, OperatorTask] = field(default_factory=dict)
    """On what each operator with state stands, by its name."""
    times: Mapping[str, SourceTimes] = field(default_factory=dict)
    """What is remembered of each source with event time before the batch, as its marker says."""
    workers: int | None = None
    """How many run it; None where that is not known. With one nothing is gained by dealing it out."""

    def to_json(self) -> Json:
        """As it travels to the workers."""
        return {
            "stream_id": self.stream_id,
            "attempt": self.attempt.to_json(),
            "plan": None if self.plan is None else self.plan.to_json(),
            "predecessor": None if self.predecessor is None else self.predecessor.to_json(),
            "operators": {name: one.to_json() for name, one in self.operators.items()},
            "times": {name: one.to_json() for name, one in self.times.items()},
            "workers": self.workers,
        }

    @classmethod
    def from_json(cls, sent: Json) -> BatchTask:
        """The inverse of :meth:`to_json`."""
        plan, predecessor = sent["plan"], sent["predecessor"]
        return cls(
            sent["stream_id"],
            Attempt.from_json(sent["attempt"]),
            None if plan is None else Plan.from_json(plan),
            None if predecessor is None else Predecessor.from_json(predecessor),
            {name: OperatorTask.from_json(one) for name, one in sent["operators"].items()},
            {name: SourceTimes.from_json(one) for name, one in sent["times"].items()},
            workers=sent["workers"],
        )
