"""``CommitBatch``: waits for everything, writes the marker once, publishes what it names.

Stages: *gather* (all leaves of the graph into one element) / *commit* (tiling check, marker, successor check) /
*publish* (fanned out) / *finish* (each sink's last step).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.metrics import Metrics

from beam_exactly_once.checkpoint import Attempt, Checkpoint, Marker, Piece, StreamWriter, marker_of_attempt
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.clock import SystemClock
from beam_exactly_once.errors import CheckpointHole, StagedOutputMissing
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.stream_graph import Publisher

METRICS = "beam_exactly_once"
"""Namespace of the counters that a commit sets, once a batch."""

_CLOCK = SystemClock()
_TASK, _PIECE, _COMMITTABLE = "task", "piece", "committable"
_Gathered = tuple[str, str, str]
"""What was gathered (one of the three above), the sink's name where it has one, JSON."""


class CommitBatch(beam.PTransform):  # type: ignore[misc]
    """Decides a batch once all of its graph has finished, and makes it visible.

    Bounded: one element a batch. The marker is created only when every leaf of the graph has been computed, so
    that a failing side branch prevents the commit. Exactly one marker a batch, also for an empty one. Committing is one
    element on one worker; publishing is spread over the workers.

    Args:
        checkpoint_location: URI of the checkpoint.
        store_options: options of its store.
        publishers: how each sink publishes, by its name.
        pieces: what the readers reported, one PCollection a source.
        committables: what the sinks staged, by their name.
        leaves: every other PCollection that nothing consumes.

    Input: the stream's tasks. Output: nothing.

    Raises (while running):
        IncompleteBatch, Fenced, StagedOutputMissing, SinkAhead, and the store's errors.
    """

    def __init__(
        self,
        checkpoint_location: str,
        store_options: Mapping[str, Any] | None,
        publishers: Mapping[str, Publisher],
        *,
        pieces: Sequence[beam.PCollection[str]],
        committables: Mapping[str, beam.PCollection[str]],
        leaves: Sequence[beam.PCollection[Any]],
    ) -> None:
        super().__init__()
        self._location = _Location(checkpoint_location, store_options)
        self._publishers = dict(publishers)
        self._pieces = list(pieces)
        self._committables = dict(committables)
        self._leaves = list(leaves)

    def expand(self, tasks: beam.PCollection[str]) -> beam.pvalue.PDone:
        """Wire gather, commit, publish and finish."""
        gathered = [tasks | "Tasks" >> beam.Map(_tag, _TASK, "")]
        for number, pieces in enumerate(self._pieces):
            gathered.append(pieces | f"Pieces{number}" >> beam.Map(_tag, _PIECE, ""))
        for sink, committables in self._committables.items():
            gathered.append(committables | f"Committables-{sink}" >> beam.Map(_tag, _COMMITTABLE, sink))
        for number, leaf in enumerate(self._leaves):
            gathered.append(
                leaf
                | f"Gate{number}" >> beam.ParDo(_Gate()).with_output_types(_Gathered)
                | f"GateWindow{number}" >> beam.WindowInto(beam.window.GlobalWindows())
            )
        committed = (
            gathered
            | "Gather" >> beam.Flatten()
            | "OneBatch" >> _group_all()
            | "Commit" >> beam.ParDo(_Commit(self._location)).with_outputs(_COMMITTABLE, main="marker")
        )
        committed[_COMMITTABLE].element_type = tuple[str, str, str]
        committed["marker"].element_type = str
        done = (
            committed[_COMMITTABLE]
            | "FanOut" >> beam.Reshuffle()
            | "Publish" >> beam.ParDo(_Publish(self._location, self._publishers)).with_output_types(str)
        )
        _ = (
            (committed["marker"], done)
            | "Published" >> beam.Flatten()
            | "AllPublished" >> _group_all()
            | "Finish" >> beam.ParDo(_Finish(self._publishers)).with_output_types(str)
        )
        return beam.pvalue.PDone(tasks.pipeline)


def _tag(element: str, what: str, sink: str) -> _Gathered:
    return what, sink, element


class _GroupAll(beam.PTransform):  # type: ignore[misc]
    """All elements into one list. The seed in the input makes it one list also for an empty batch."""

    def expand(self, elements: beam.PCollection[Any]) -> beam.PCollection[Any]:
        return elements | "Key" >> beam.Map(_keyed) | beam.GroupByKey() | "Values" >> beam.Values()


def _group_all() -> _GroupAll:
    return _GroupAll()


def _keyed(element: Any) -> tuple[str, Any]:
    return "", element


class _Gate(beam.DoFn):  # type: ignore[misc]
    """Emits nothing: makes the commit wait for its input at the least cost a record."""

    def process(self, element: Any) -> None:
        pass


class _Location:
    """A checkpoint location, to be opened on a worker."""

    def __init__(self, uri: str, options: Mapping[str, Any] | None) -> None:
        self._uri = uri
        self._options = None if options is None else dict(options)

    def writer(self, stream_id: str, writer_epoch: int) -> StreamWriter:
        return StreamWriter(Checkpoint(open_object_store(self._uri, self._options), stream_id), writer_epoch)


class _Commit(beam.DoFn):  # type: ignore[misc]
    """Writes the marker, or reads it when the task is to publish again; then emits what it names."""

    def __init__(self, location: _Location) -> None:
        self._location = location

    def process(self, gathered: Iterable[_Gathered]) -> Iterator[Any]:
        began_s = _CLOCK.monotonic_s()
        task, pieces, committables = _sorted_out(gathered)
        writer = self._location.writer(task.stream_id, task.attempt.writer_epoch)
        marker = _decide(writer, task, pieces, committables)
        for name, source in marker.sources.items():
            _count(f"records.{name}", source.records)
            _count(f"bytes_read.{name}", source.bytes_read)
        _count("lost_offsets", marker.lost_offsets)
        for sink in marker.committables:
            _count(f"rows.{sink}", marker.rows(sink))
        _count("commit_us", int((_CLOCK.monotonic_s() - began_s) * 1e6))
        _count("outcome." + marker.outcome, 1)
        yield orjson.dumps(
            {"stream_id": task.stream_id, "marker": marker.to_json(), "committed_at_s": _now_s()}
        ).decode()
        attempt = orjson.dumps({**marker.attempt.to_json(), "publisher_epoch": task.attempt.writer_epoch}).decode()
        for sink, of_sink in marker.committables.items():
            for committable in of_sink:
                envelope = orjson.dumps({"stream_id": task.stream_id, "committable": committable}).decode()
                yield beam.pvalue.TaggedOutput(_COMMITTABLE, (sink, attempt, envelope))


def _sorted_out(gathered: Iterable[_Gathered]) -> tuple[BatchTask, list[Piece], dict[str, list[Json]]]:
    tasks: list[BatchTask] = []
    pieces: list[Piece] = []
    committables: dict[str, list[Json]] = {}
    for what, sink, element in gathered:
        if what == _TASK:
            tasks.append(BatchTask.from_json(element))
        elif what == _PIECE:
            pieces.append(Piece.from_json(orjson.loads(element)))
        else:
            committables.setdefault(sink, []).append(orjson.loads(element))
    (task,) = tasks
    return task, pieces, committables


def _decide(
    writer: StreamWriter, task: BatchTask, pieces: list[Piece], committables: dict[str, list[Json]]
) -> Marker:
    batch_id = task.attempt.batch_id
    if task.plan is None:
        marker = writer.checkpoint.read_marker(batch_id)
        if marker is None:
            raise CheckpointHole(f"the marker of batch {batch_id} vanished from {writer.checkpoint.store.uri}.")
        writer.ensure_newest()
        return marker
    staged = {sink: tuple(of_sink) for sink, of_sink in sorted(committables.items())}
    return writer.commit(
        marker_of_attempt(task.plan, task.attempt, pieces, staged, _CLOCK.utc_now().isoformat())
    )


class _Publish(beam.DoFn):  # type: ignore[misc]
    """Makes one committable visible."""

    def __init__(self, location: _Location, publishers: Mapping[str, Publisher]) -> None:
        self._location = location
        self._publishers = dict(publishers)

    def process(self, named: tuple[str, str, str]) -> Iterator[str]:
        sink, attempt_json, envelope_json = named
        stored_attempt, envelope = orjson.loads(attempt_json), orjson.loads(envelope_json)
        attempt = Attempt.from_json(stored_attempt)
        try:
            self._publishers[sink].publish(attempt, envelope["committable"])
        except StagedOutputMissing:
            # A newer writer may have published and swept it long ago: then this writer is simply too late.
            self._location.writer(envelope["stream_id"], stored_attempt["publisher_epoch"]).ensure_newest()
            raise
        yield ""


class _Finish(beam.DoFn):  # type: ignore[misc]
    """Each sink's last step, once everything of the batch is visible."""

    def __init__(self, publishers: Mapping[str, Publisher]) -> None:
        self._publishers = dict(publishers)

    def process(self, published: Iterable[str]) -> Iterator[str]:
        (seed,) = (orjson.loads(element) for element in published if element)
        marker = Marker.from_json(seed["marker"])
        for sink, publisher in self._publishers.items():
            publisher.finish(seed["stream_id"], marker.attempt, marker.committables.get(sink, ()))
        _count("publish_us", int((_now_s() - seed["committed_at_s"]) * 1e6))
        yield seed["stream_id"]


def _now_s() -> float:
    return _CLOCK.utc_now().timestamp()


def _count(name: str, value: int) -> None:
    Metrics.counter(METRICS, name).inc(value)


