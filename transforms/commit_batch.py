"""``CommitBatch``: waits for everything, writes the marker once, publishes what it names.

Stages: *gather* (all leaves of the graph into one element) / *commit* (tiling check, marker, successor check) /
*publish* (fanned out) / *finish* (each sink's last step).
"""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import apache_beam as beam

from beam_exactly_once.checkpoint import Checkpoint, Marker, Piece, StreamWriter, marker_of_attempt
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.checkpoint.source_times import Noted, together
from beam_exactly_once.clock import SYSTEM_CLOCK, Clock, now_ms
from beam_exactly_once.errors import IncompleteBatch, SinkAhead, SinkBehind, StagedOutputMissing
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.sinks.contract import Part, Publisher, parts_of
from beam_exactly_once.state.state_list import StateChange
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.coders import JsonCoder, OneOfCoder
from beam_exactly_once.transforms.commit_counts import CommitCounts
from beam_exactly_once.transforms.named import Composite
from beam_exactly_once.transforms.reports import Committable, Gathered, RejectedCount, RowsSent, TimesNoted, whose
from beam_exactly_once.transforms.stateless import StatelessDoFn

PUBLISH_KEYS = 100
"""Parts of a batch are published under that many keys, which a runner spreads over its workers."""


@dataclass(frozen=True, slots=True)
class _PartToPublish:
    """What a worker is to make visible."""

    sink: str
    publisher_epoch: int
    part: Part

    def to_json(self) -> Json:
        return {"sink": self.sink, "publisher_epoch": self.publisher_epoch, "part": self.part.to_json()}

    @classmethod
    def from_json(cls, sent: Json) -> _PartToPublish:
        return cls(sent["sink"], sent["publisher_epoch"], Part.from_json(sent["part"]))


@dataclass(frozen=True, slots=True)
class _BatchToFinish:
    """What every sink's last step needs. It goes the way of the parts: a branch of its own would cost small batches more."""

    stream_id: str
    marker: Marker
    committed_at_ms: int

    def to_json(self) -> Json:
        return {"stream_id": self.stream_id, "marker": self.marker.to_json(), "committed_at_ms": self.committed_at_ms}

    @classmethod
    def from_json(cls, sent: Json) -> _BatchToFinish:
        return cls(sent["stream_id"], Marker.from_json(sent["marker"]), sent["committed_at_ms"])


class _ToPublish(abc.ABC):  # noqa: B024 (a union with a name that Beam can have a coder for)
    """A :class:`_PartToPublish` or a :class:`_BatchToFinish`."""


class _PartCoder(JsonCoder):
    value_type = _PartToPublish


class _FinishCoder(JsonCoder):
    value_type = _BatchToFinish


class _ToPublishCoder(OneOfCoder):
    value_type = _ToPublish
    members = ((_PartToPublish, _PartCoder()), (_BatchToFinish, _FinishCoder()))


_ToPublish.register(_PartToPublish)
_ToPublish.register(_BatchToFinish)
beam.coders.registry.register_coder(_ToPublish, _ToPublishCoder)
beam.coders.registry.register_coder(_BatchToFinish, _FinishCoder)


class CommitBatch(Composite):
    """Decides a batch once all of its graph has finished, and makes it visible.

    Bounded: one element a batch. The marker is created only when every leaf of the graph has been computed, so
    that a failing side branch prevents the commit. Exactly one marker a batch, also for an empty one. Committing is one
    element on one worker; publishing is spread over the workers.

    Args:
        checkpoint: the stream's checkpoint location.
        publishers: how each sink publishes, by its name.
        gathered: what sources and sinks give to a commit.
        leaves: every other PCollection that nothing consumes.
        notes_published: whether the last step notes in the checkpoint that the batch is published. It is for those who
            cannot see the run end.

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
        notes_published: bool = False,
    ) -> None:
        super().__init__()
        self._notes_published = notes_published
        self._location = _Location(checkpoint)
        self._publishers = dict(publishers)
        self._gathered = list(gathered)
        self._leaves = list(leaves)

    def expand(self, seeds: beam.PCollection[Gathered]) -> beam.pvalue.PDone:
        """Wire gather, commit, publish and finish."""
        shards = {sink: publisher.shards for sink, publisher in self._publishers.items()}
        gathered = [_as_seeds(part, seeds, f"Window{number}") for number, part in enumerate(self._gathered)]
        gates = [leaf | f"Gate{number}" >> _WaitFor(seeds) for number, leaf in enumerate(self._leaves)]
        finished = self._location if self._notes_published else None
        commit = beam.ParDo(_Commit(self._location, shards), *map(beam.pvalue.AsIter, gathered))
        _ = (
            [seeds, *gathered, *gates]
            | "Gather" >> beam.Flatten()
            | "OneBatch" >> beam.GroupByKey()
            | "Commit" >> commit.with_output_types(tuple[int, _ToPublish])
            | "FanOut" >> beam.GroupByKey()
            | "Publish"
            >> beam.ParDo(_Publish(self._location, self._publishers)).with_output_types(tuple[str, _BatchToFinish])
            | "AllPublished" >> beam.GroupByKey()
            | "Finish" >> beam.ParDo(_Finish(self._publishers, finished)).with_output_types(str)
        )
        return beam.pvalue.PDone(seeds.pipeline)


class _WaitFor(Composite):
    """Emits nothing, but only once its input is complete."""

    def __init__(self, seeds: beam.PCollection[Gathered]) -> None:
        super().__init__()
        self._seeds = seeds

    def expand(self, leaf: beam.PCollection[Any]) -> beam.PCollection[Gathered]:
        gate = leaf | "Gate" >> beam.ParDo(_Gate()).with_output_types(Gathered)
        return _as_seeds(gate, self._seeds, "Window")


def _as_seeds(
    part: beam.PCollection[Gathered], seeds: beam.PCollection[Gathered], label: str
) -> beam.PCollection[Gathered]:
    """``part`` in the windows of the seeds, whatever windows the user made."""
    same = part.windowing == seeds.windowing
    return part if same else part | label >> beam.WindowInto(seeds.windowing.windowfn)


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

    def __init__(self, location: _Location, shards: Mapping[str, int], clock: Clock = SYSTEM_CLOCK) -> None:
        self._location = location
        self._shards = dict(shards)
        self._clock = clock

    def process(self, one_batch: tuple[str, Iterable[Any]], *complete: Iterable[Gathered]) -> Iterator[tuple[int, Any]]:
        began_s = self._clock.monotonic_s()
        batch = _sorted_out(one_batch[1], Counter(map(whose, (report for part in complete for _, report in part))))
        task = batch.task
        writer = self._location.writer(task.stream_id, task.attempt.writer_epoch)
        marker = _decide(writer, batch, self._shards, now_ms(self._clock))
        committed = marker.outcome == "committed" and marker.attempt == task.attempt
        commit_us = int((self._clock.monotonic_s() - began_s) * 1e6)
        CommitCounts.of(marker, commit_us=commit_us, committed=committed).report()
        yield 0, _BatchToFinish(task.stream_id, marker, now_ms(self._clock))
        yield from _to_publish(task, marker)


def _to_publish(task: BatchTask, marker: Marker) -> Iterator[tuple[int, _PartToPublish]]:
    """What the marker names, spread over keys."""
    number = 0
    for sink in sorted({*marker.committables, *marker.shards}):
        for part in parts_of(task.stream_id, marker, sink):
            yield number % PUBLISH_KEYS, _PartToPublish(sink, task.attempt.writer_epoch, part)
            number += 1


@dataclass(frozen=True, slots=True)
class _OneBatch:
    """What was gathered of a batch."""

    task: BatchTask
    pieces: list[Piece]
    committables: dict[str, list[Json]]
    records_rejected: dict[str, int]
    state_changes: dict[str, list[StateChange]]
    rows_sent: dict[str, int]
    """To each operator with state."""
    rows_late: dict[str, int]
    """That each operator did not send on; only of those that had some."""
    times_noted: dict[str, Noted]
    """Of each source with event time."""


def _sorted_out(gathered: Iterable[Any], complete: Mapping[str, int]) -> _OneBatch:
    """What was gathered, if it is whole.

    Args:
        gathered: the reports.
        complete: how many there are of whom, besides the task.

    Raises:
        IncompleteBatch: the runner did not wait for everything, or lost or repeated a part.
    """
    kinds: list[type] = [BatchTask, Piece, Committable, RejectedCount, StateChange, RowsSent, TimesNoted]
    of_kind: dict[type, list[Any]] = {kind: [] for kind in kinds}
    for report in gathered:
        of_kind[type(report)].append(report)
    tasks, pieces, staged, rejected, changes, sent, noted = of_kind.values()
    if len(tasks) != 1:
        raise _incomplete(f"it called the commit with {len(tasks)} tasks")
    came = Counter(map(whose, chain(pieces, staged, rejected, changes, sent, noted)))
    for reporter in sorted(complete.keys() | came.keys()):
        if came[reporter] != complete.get(reporter, 0):
            raise _incomplete(
                f"of batch {tasks[0].attempt.batch_id} it brought {came[reporter]} reports of {reporter} to the commit, where "
                f"{complete.get(reporter, 0)} are made"
            )
    committables: dict[str, list[Json]] = {}
    for one in staged:
        committables.setdefault(one.sink, []).append(one.staged)
    counts: Counter[str] = Counter()
    for one in rejected:
        counts[one.step] += one.records
    state_changes: dict[str, list[StateChange]] = {}
    for one in changes:
        state_changes.setdefault(one.operator, []).append(one)
    rows_sent, rows_late = Counter[str](), Counter[str]()
    for one in sent:
        rows_sent[one.operator] += one.rows
        rows_late[one.operator] += one.rows_late
    times = {
        source: together(one.noted for one in noted if one.source == source) for source in {one.source for one in noted}
    }
    return _OneBatch(tasks[0], pieces, committables, counts, state_changes, rows_sent, +rows_late, times)


def _incomplete(what: str) -> IncompleteBatch:
    return IncompleteBatch(
        f"the runner did not run a batch whole: {what}. Nothing was committed, and nothing is lost: start again to replay the "
        "batch. If it happens again, run the stream on another runner, and report it."
    )


def _decide(writer: StreamWriter, batch: _OneBatch, shards: Mapping[str, int], at_ms: int) -> Marker:
    task = batch.task
    if task.plan is None:
        return writer.decided(task.attempt.batch_id)
    staged = {sink: tuple(of_sink) for sink, of_sink in sorted(batch.committables.items())}
    marker = marker_of_attempt(
        task.plan,
        task.attempt,
        batch.pieces,
        staged,
        at_ms,
        _state_behind(batch),
        times=task.times,
        noted=batch.times_noted,
    )
    marker = replace(marker, records_rejected=dict(sorted(batch.records_rejected.items())))
    marker = replace(marker, rows_late=dict(sorted(batch.rows_late.items())))
    return writer.commit(marker.following(task.predecessor, shards))


def _state_behind(batch: _OneBatch) -> dict[str, Json]:
    """What each operator remembers behind the batch."""
    attempt = batch.task.attempt
    return {
        name: of_operator.base.behind(
            batch.state_changes.get(name, ()),
            operator=name,
            attempt=attempt,
            fired_ms=of_operator.fires_to_ms,
            rows_sent=batch.rows_sent.get(name, 0),
        ).to_json()
        for name, of_operator in sorted(batch.task.operators.items())
    }


class _Publish(StatelessDoFn):
    """Makes committables visible; hands on what is for the last step."""

    def __init__(self, location: _Location, publishers: Mapping[str, Publisher]) -> None:
        self._location = location
        self._publishers = dict(publishers)

    def process(self, keyed: tuple[int, Iterable[Any]]) -> Iterator[tuple[str, _BatchToFinish]]:
        for work in keyed[1]:
            if isinstance(work, _BatchToFinish):
                yield "", work
            else:
                self._publish(work)

    def _publish(self, work: _PartToPublish) -> None:
        writer = self._location.writer(work.part.stream_id, work.publisher_epoch)
        publisher = self._publishers[work.sink]
        if publisher.asks_newest:
            writer.ensure_newest()
        try:
            publisher.publish(work.part)
        except (StagedOutputMissing, SinkAhead, SinkBehind):
            # A newer writer may have published and swept it long ago: then this writer is simply too late.
            writer.ensure_newest()
            raise


class _Finish(StatelessDoFn):
    """Each sink's last step, once everything of the batch is visible; and the note of it, where a location is given."""

    def __init__(
        self, publishers: Mapping[str, Publisher], noted_in: _Location | None, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._publishers = dict(publishers)
        self._noted_in = noted_in
        self._clock = clock

    def process(self, published: tuple[str, Iterable[_BatchToFinish]]) -> Iterator[str]:
        (batch,) = published[1]
        marker = batch.marker
        for sink, publisher in self._publishers.items():
            publisher.finish(batch.stream_id, marker.attempt, marker.committables.get(sink, ()))
        if self._noted_in is not None:
            writer = self._noted_in.writer(batch.stream_id, marker.attempt.writer_epoch)
            writer.checkpoint.create_published(marker.batch_id)
        CommitCounts(publish_us=(now_ms(self._clock) - batch.committed_at_ms) * 1000).report()
        yield batch.stream_id
