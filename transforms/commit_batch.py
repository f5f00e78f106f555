"""``CommitBatch``: waits for everything, writes the marker once, publishes what it names.

Stages: *gather* (all leaves of the graph into one element) / *commit* (tiling check, marker, successor check) /
*publish* (fanned out) / *finish* (each sink's last step).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.metrics import Metrics
from apache_beam.typehints.decorators import IOTypeHints

from beam_exactly_once.checkpoint import Checkpoint, Marker, Piece, StreamWriter, marker_of_attempt
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.clock import SystemClock
from beam_exactly_once.errors import IncompleteBatch, SinkAhead, SinkBehind, StagedOutputMissing
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.sinks.contract import Part, Publisher, parts_of
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.stateless import StatelessDoFn
from beam_exactly_once.transforms.stream_graph import (
    COMMITTABLE,
    PIECE,
    REJECTED_COUNT,
    TASK,
    Gathered,
)

METRICS = "beam_exactly_once"
"""Namespace of the counters that a commit sets, once a batch."""

PUBLISH_KEYS = 100
"""Parts of a batch are published under that many keys, which a runner spreads over its workers."""

_CLOCK = SystemClock()
_ToPublish = tuple[int, tuple[str, int, str]]
"""A key to spread by; the sink, the epoch that publishes, and the part as JSON. One element more, whose
sink is empty, is for the last step: a branch of its own for it would cost small batches more than it is worth."""


class CommitBatch(beam.PTransform):
    """Decides a batch once all of its graph has finished, and makes it visible.

    Bounded: one element a batch. The marker is created only when every leaf of the graph has been computed, so
    that a failing side branch prevents the commit. Exactly one marker a batch, also for an empty one. Committing is one
    element on one worker; publishing is spread over the workers.

    Args:
        checkpoint: the stream's checkpoint location.
        publishers: how each sink publishes, by its name.
        gathered: what sources and sinks give to a commit.
        leaves: every other PCollection that nothing consumes.

    Input: the stream's seeds. Output: nothing.

    Raises (while running):
        IncompleteBatch, Fenced, StagedOutputMissing, SinkAhead, and the store's errors.
    """

    def __init__(
        self,
        checkpoint: StoreLocation,
        publishers: Mapping[str, Publisher],
        *,
        gathered: Sequence[beam.PCollection[Gathered]] = (),
        leaves: Sequence[beam.PCollection[Any]] = (),
    ) -> None:
        super().__init__()
        self._location = _Location(checkpoint)
        self._publishers = dict(publishers)
        self._gathered = list(gathered)
        self._leaves = list(leaves)

    def expand(self, seeds: beam.PCollection[Gathered]) -> beam.pvalue.PDone:
        """Wire gather, commit, publish and finish."""
        shards = {sink: publisher.shards for sink, publisher in self._publishers.items()}
        gathered = [_in_one_window(part, f"Window{number}") for number, part in enumerate(self._gathered)]
        gates = [leaf | f"Gate{number}" >> _WaitFor() for number, leaf in enumerate(self._leaves)]
        commit = beam.ParDo(_Commit(self._location, shards), *map(beam.pvalue.AsIter, gathered))
        _ = (
            [seeds, *gathered, *gates]
            | "Gather" >> beam.Flatten()
            | "OneBatch" >> beam.GroupByKey()
            | "Commit" >> commit.with_output_types(_ToPublish)
            | "FanOut" >> beam.GroupByKey()
            | "Publish" >> beam.ParDo(_Publish(self._location, self._publishers)).with_output_types(tuple[str, str])
            | "AllPublished" >> beam.GroupByKey()
            | "Finish" >> beam.ParDo(_Finish(self._publishers)).with_output_types(str)
        )
        return beam.pvalue.PDone(seeds.pipeline)


class _WaitFor(beam.PTransform):
    """Emits nothing, but only once its input is complete."""

    def expand(self, leaf: beam.PCollection[Any]) -> beam.PCollection[Gathered]:
        gate = leaf | "Gate" >> beam.ParDo(_Gate()).with_output_types(Gathered)
        return _in_one_window(gate, "Window")


def _in_one_window(part: beam.PCollection[Gathered], label: str) -> beam.PCollection[Gathered]:
    """``part``, whatever windows the user made."""
    return part if part.windowing.is_default() else part | label >> beam.WindowInto(beam.window.GlobalWindows())


class _Gate(StatelessDoFn):
    """Emits nothing: makes the commit wait for its input at the least cost a record."""

    def process(self, element: Any) -> None:
        pass


class _Location:
    """A checkpoint location, to be opened on a worker."""

    def __init__(self, checkpoint: StoreLocation) -> None:
        self._checkpoint = checkpoint

    def writer(self, stream_id: str, writer_epoch: int) -> StreamWriter:
        return StreamWriter(Checkpoint(self._checkpoint.store, stream_id), writer_epoch)


class _Commit(StatelessDoFn):
    """Writes the marker, or reads it when the task is to publish again; then emits what it names.

    What a commit gathers reaches it on two ways: in one element, and as side inputs. A runner that begins the commit too
    early, or loses a part of the graph, is found by the difference.
    """

    def __init__(self, location: _Location, shards: Mapping[str, int]) -> None:
        self._location = location
        self._shards = dict(shards)

    def default_type_hints(self) -> IOTypeHints:
        """None: Beam has no hint for any number of side inputs."""
        return IOTypeHints.empty()

    def process(
        self, one_batch: tuple[str, Iterable[tuple[str, str, str]]], *complete: Iterable[Gathered]
    ) -> Iterator[_ToPublish]:
        began_s = _CLOCK.monotonic_s()
        batch = _sorted_out(one_batch[1], Counter((what, name) for part in complete for _, (what, name, _) in part))
        task = batch.task
        writer = self._location.writer(task.stream_id, task.attempt.writer_epoch)
        marker = _decide(writer, batch, self._shards)
        for name, source in marker.sources.items():
            _count(f"records.{name}", source.records)
            _count(f"bytes_read.{name}", source.bytes_read)
        _count("lost_offsets", marker.lost_offsets)
        for sink in marker.committables:
            _count(f"rows.{sink}", marker.rows(sink))
        for step, count in marker.rejected.items():
            _count(f"rejected.{step}", count)
        _count("commit_us", int((_CLOCK.monotonic_s() - began_s) * 1e6))
        _count("committed", int(marker.outcome == "committed" and marker.attempt == task.attempt))
        seed = {"stream_id": task.stream_id, "marker": marker.to_json(), "committed_at_s": _now_s()}
        yield 0, ("", 0, orjson.dumps(seed).decode())
        yield from _to_publish(task, marker)


def _to_publish(task: BatchTask, marker: Marker) -> Iterator[_ToPublish]:
    """What the marker names, spread over keys."""
    number = 0
    for sink in sorted({*marker.committables, *marker.shards}):
        for part in parts_of(task.stream_id, marker, sink):
            yield number % PUBLISH_KEYS, (sink, task.attempt.writer_epoch, orjson.dumps(part.to_json()).decode())
            number += 1


@dataclass(frozen=True, slots=True)
class _OneBatch:
    """What was gathered of a batch."""

    task: BatchTask
    pieces: list[Piece]
    committables: dict[str, list[Json]]
    rejected: dict[str, int]


def _sorted_out(gathered: Iterable[tuple[str, str, str]], complete: Mapping[tuple[str, str], int]) -> _OneBatch:
    """What was gathered, if it is whole.

    Args:
        gathered: what it is, whose, and its JSON.
        complete: how much there is of each, besides the task.

    Raises:
        IncompleteBatch: the runner did not wait for everything, or lost or repeated a part.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for what, name, element in gathered:
        found.setdefault((what, name), []).append(element)
    tasks = found.pop((TASK, ""), [])
    if len(tasks) != 1:
        raise _incomplete(f"it called the commit with {len(tasks)} tasks")
    task = BatchTask.from_json(tasks[0])
    for what, name in sorted(complete.keys() | found.keys()):
        came, made = len(found.get((what, name), ())), complete.get((what, name), 0)
        if came != made:
            whose = f"{what} of {name!r}" if name else what
            raise _incomplete(
                f"of batch {task.attempt.batch_id} it brought {came} to the commit where {made} are made ({whose})"
            )
    return _OneBatch(
        task,
        [Piece.from_json(orjson.loads(element)) for element in found.get((PIECE, ""), ())],
        {
            name: [orjson.loads(one) for one in elements]
            for (what, name), elements in found.items()
            if what == COMMITTABLE
        },
        {name: sum(map(int, elements)) for (what, name), elements in found.items() if what == REJECTED_COUNT},
    )


def _incomplete(what: str) -> IncompleteBatch:
    return IncompleteBatch(
        f"the runner did not run a batch whole: {what}. Nothing was committed, and nothing is lost: start again to replay the "
        "batch. If it happens again, run the stream on another runner, and report it."
    )


def _decide(writer: StreamWriter, batch: _OneBatch, shards: Mapping[str, int]) -> Marker:
    task = batch.task
    if task.plan is None:
        return writer.decided(task.attempt.batch_id)
    staged = {sink: tuple(of_sink) for sink, of_sink in sorted(batch.committables.items())}
    marker = marker_of_attempt(task.plan, task.attempt, batch.pieces, staged, _CLOCK.utc_now().isoformat())
    marker = replace(marker, rejected=dict(sorted(batch.rejected.items())))
    return writer.commit(marker.following(task.predecessor, shards))


class _Publish(StatelessDoFn):
    """Makes committables visible; hands on what is for the last step."""

    def __init__(self, location: _Location, publishers: Mapping[str, Publisher]) -> None:
        self._location = location
        self._publishers = dict(publishers)

    def process(self, keyed: tuple[int, Iterable[tuple[str, int, str]]]) -> Iterator[tuple[str, str]]:
        for sink, publisher_epoch, sent in keyed[1]:
            if not sink:
                yield "", sent
                continue
            part = Part.from_json(orjson.loads(sent))
            writer = self._location.writer(part.stream_id, publisher_epoch)
            publisher = self._publishers[sink]
            if publisher.asks_newest:
                writer.ensure_newest()
            try:
                publisher.publish(part)
            except (StagedOutputMissing, SinkAhead, SinkBehind):
                # A newer writer may have published and swept it long ago: then this writer is simply too late.
                writer.ensure_newest()
                raise
        yield "", ""


class _Finish(StatelessDoFn):
    """Each sink's last step, once everything of the batch is visible."""

    def __init__(self, publishers: Mapping[str, Publisher]) -> None:
        self._publishers = dict(publishers)

    def process(self, published: tuple[str, Iterable[str]]) -> Iterator[str]:
        (seed,) = (orjson.loads(element) for element in published[1] if element)
        marker = Marker.from_json(seed["marker"])
        for sink, publisher in self._publishers.items():
            publisher.finish(seed["stream_id"], marker.attempt, marker.committables.get(sink, ()))
        _count("publish_us", int((_now_s() - seed["committed_at_s"]) * 1e6))
        yield seed["stream_id"]


def _now_s() -> float:
    return _CLOCK.utc_now().timestamp()


def _count(name: str, value: int) -> None:
    Metrics.counter(METRICS, name).inc(value)
