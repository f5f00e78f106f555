"""What operators that go by event time have in common: from which sources and operators their rows come, and rows too late."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once.errors import ConfigurationError, UnsupportedPipeline
from beam_exactly_once.state.event_bounds import TimeInputs
from beam_exactly_once.state.hashing import Numbers
from beam_exactly_once.state.keyed_chunk import Sorted
from beam_exactly_once.state.shard_seed import OperatorTask
from beam_exactly_once.state.updates import Operator
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.stateful.keyed_state import ToShards
from beam_exactly_once.transforms.stream_graph import OperatorSpec, SourceSpec, StreamGraph

LATE = "late"
"""Tag of rows that came too late."""
OnLate: TypeAlias = Literal["keep", "drop"]


class RowsAndLate(NamedTuple):
    """What a step returns with ``on_late="keep"``."""

    rows: beam.PCollection[Any]
    late: beam.PCollection[Any]

    def __or__(self, step: object) -> NoReturn:
        """Refuse to go on as if it were one collection."""
        raise ConfigurationError(
            f'on_late="keep" gives two collections, and {step!r} takes one. Unpack them: rows, late = …, and pipe each to a sink '
            'of its own; or pass on_late="drop", which only counts late rows.'
        )


def time_inputs(name: str, rows: beam.PCollection[Any], graph: StreamGraph, allowed_lateness_ms: int = 0) -> TimeInputs:
    """What the rows of operator ``name`` come from.

    Raises:
        UnsupportedPipeline: their times are not known: a source has no event time, or an operator before it gives rows of any.
    """
    readers = {source.pieces.producer: source for source in graph.sources.values()}
    emitters = {one.emitted: one for one in graph.operators.values()}
    sources: dict[str, SourceSpec] = {}
    operators: dict[str, OperatorSpec] = {}
    waiting, seen = [rows], set()
    while waiting:
        one = waiting.pop()
        if one in seen or not isinstance(one, beam.PCollection) or one.producer is None:
            continue
        seen.add(one)
        if one in emitters and _ends_time(name, emitters[one]):
            operators[emitters[one].name] = emitters[one]
        elif one.producer in readers:
            source = readers[one.producer]
            if source.event_time is None:
                raise UnsupportedPipeline(
                    f"operator {name!r} goes by event time, and source {source.name!r} before it does not say how far its time "
                    "has come. Give ReadFromKafka event_time=EventTime(out_of_order_s=…)."
                )
            sources[source.name] = source
        else:
            waiting += one.producer.inputs
    if not (sources or operators):
        raise UnsupportedPipeline(f"operator {name!r} goes by event time, and no source of the stream is before it.")
    return TimeInputs(_in_order(sources, graph.sources), _in_order(operators, graph.operators), allowed_lateness_ms)


def _ends_time(name: str, before: OperatorSpec) -> bool:
    """Whether the rows of an operator have the times at which it closes; else those of what came to it.

    Raises:
        UnsupportedPipeline: they may have any.
    """
    if before.update.kind == "map_groups_with_state":
        raise UnsupportedPipeline(
            f"operator {name!r} goes by event time, and is behind operator {before.name!r}: what a function of "
            "MapGroupsWithState yields may have happened at any time. Write it to a topic, and read that in a stream of its own."
        )
    return before.times is not None


def _in_order(names: Mapping[str, Any], every: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(name for name in every if name in names)


class ToShardsInTime(ToShards, abc.ABC):
    """Sends rows on by the hash of their keys; counts those that are late, and gives them out if they are kept."""

    def __init__(self, operator: str, update: Operator, shards: int, *, keeps_late: bool) -> None:
        super().__init__(operator, update, shards)
        self._keeps_late = keeps_late

    @abc.abstractmethod
    def _sorted_out(self, rows: Any, of_operator: OperatorTask) -> Sorted:
        """What is sent, and which rows are late."""

    def process(self, rows: Any, task: BatchTask) -> Iterator[Any]:
        """Hash and group what is in time."""
        of_operator = task.operators[self._operator]
        found = self._sorted_out(rows, of_operator)
        self._rows_late += len(found.late_rows)
        yield from self._sent(found.chunk, task)
        if self._keeps_late:
            for row in _as_they_came(rows, found.late_rows):
                yield beam.pvalue.TaggedOutput(LATE, row)


def _as_they_came(rows: Any, at: Numbers) -> list[Any]:
    if isinstance(rows, pa.RecordBatch):
        return [rows.take(pa.array(at))] if len(at) else []
    keys, values = rows
    return [(keys[row], values[row]) for row in at.tolist()]
