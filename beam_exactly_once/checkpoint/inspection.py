"""What ``beam-exactly-once status`` shows: where a stream stands. Reads only, and is safe beside a running driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from beam_exactly_once.checkpoint import layout
from beam_exactly_once.checkpoint.envelope import unseal
from beam_exactly_once.checkpoint.location import Checkpoint
from beam_exactly_once.checkpoint.offsets_json import next_offsets_from_json, next_offsets_to_json
from beam_exactly_once.checkpoint.records import (
    Json,
    Marker,
    Plan,
    WriterClaim,
)
from beam_exactly_once.checkpoint.source_times import SourceTimes, TimeReached
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.offsets import LogBounds, TopicPartition, lag
from beam_exactly_once.topics import TopicIds


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """One batch: planned, or decided. A decided batch may have lost its plan to retention."""

    batch_id: int
    plan: Plan | None
    marker: Marker | None

    @property
    def state(self) -> str:
        """``planned``, or the marker's outcome."""
        return "planned" if self.marker is None else self.marker.outcome

    @property
    def planned_offsets(self) -> int | None:
        """How many offsets it was to read; None when its plan is gone."""
        if self.plan is None:
            return None
        return sum(planned.size for source in self.plan.sources.values() for planned in source.ranges)

    @property
    def rows_written(self) -> dict[str, int]:
        """Rows that each sink staged for it."""
        return {} if self.marker is None else self.marker.rows_written

    @property
    def rows_late(self) -> int:
        """Rows that came too late, for all operators."""
        return 0 if self.marker is None else sum(self.marker.rows_late.values())

    @property
    def offsets_lost(self) -> int:
        """Offsets of all sources that Kafka no longer had."""
        return 0 if self.marker is None else sum(self.marker.offsets_lost.values())

    @property
    def event_time(self) -> dict[str, TimeReached]:
        """How far the time of each source with event time had come."""
        return {} if self.marker is None else times_reached(self.marker, self.plan)

    def to_json(self) -> Json:
        """For machines; absent values are null."""
        marker = self.marker
        return {
            "batch_id": self.batch_id,
            "state": self.state,
            "planned_at_ms": None if self.plan is None else self.plan.planned_at_ms,
            "planned_offsets": self.planned_offsets,
            "committed_at_ms": None if marker is None else marker.committed_at_ms,
            "writer_epoch": None if marker is None else marker.attempt.writer_epoch,
            "records_read": None if marker is None else marker.records_read,
            "bytes_read": None if marker is None else marker.bytes_read,
            "rows_written": self.rows_written,
            "records_rejected": {} if marker is None else dict(marker.records_rejected),
            **({"rows_late": dict(marker.rows_late)} if marker is not None and marker.rows_late else {}),
            "offsets_lost": {} if marker is None else marker.offsets_lost,
            "event_time": {name: reached.to_json() for name, reached in self.event_time.items()},
        }


@dataclass(frozen=True, slots=True)
class Position:
    """Where a source stands in one partition; ``bounds`` is what Kafka has there, if it was asked."""

    topic_partition: TopicPartition
    next_offset: int
    bounds: LogBounds | None = None

    @property
    def lag_offsets(self) -> int | None:
        """Offsets that wait to be read and are still there."""
        if self.bounds is None:
            return None
        return lag({self.topic_partition: self.next_offset}, {self.topic_partition: self.bounds})[self.topic_partition]

    @property
    def offsets_lost(self) -> int | None:
        """Offsets between the next offset and what Kafka has: it lost them unread, or its log became shorter."""
        if self.bounds is None:
            return None
        return max(0, self.bounds.earliest - self.next_offset, self.next_offset - self.bounds.latest)

    def to_json(self) -> Json:
        """For machines; bounds are null unless Kafka was asked."""
        return {
            "topic": self.topic_partition.topic,
            "partition": self.topic_partition.partition,
            "next_offset": self.next_offset,
            "earliest": None if self.bounds is None else self.bounds.earliest,
            "latest": None if self.bounds is None else self.bounds.latest,
            "lag_offsets": self.lag_offsets,
            "offsets_lost": self.offsets_lost,
        }


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """Where a stream stands."""

    location: str
    stream_id: str
    created_at_ms: int
    writer: WriterClaim | None
    newest: BatchSummary | None
    """The newest decided batch."""
    in_flight: tuple[BatchSummary, ...]
    """Planned and not decided: running now, or replayed at the next start."""
    recent: tuple[BatchSummary, ...]
    """Decided batches, the newest first."""
    sources: Mapping[str, tuple[Position, ...]]
    sinks: Mapping[str, Json]

    @property
    def decided(self) -> int:
        """How many batches have a marker, or had one before retention."""
        return 0 if self.newest is None else self.newest.batch_id + 1

    @property
    def planned(self) -> int:
        """How many batches have a plan, or had one before retention."""
        return self.decided + len(self.in_flight)

    @property
    def starts_since_planned(self) -> int:
        """How many writers have claimed the stream since the first batch in flight was planned: each found it undecided."""
        plan = self.in_flight[0].plan if self.in_flight else None
        return 0 if plan is None or self.writer is None else self.writer.writer_epoch - plan.writer_epoch

    @property
    def lag_offsets(self) -> dict[str, dict[TopicPartition, int]] | None:
        """Offsets of each source that wait to be read; None unless Kafka was asked."""
        found = {
            name: {one.topic_partition: one.lag_offsets for one in positions if one.lag_offsets is not None}
            for name, positions in self.sources.items()
        }
        return found if any(found.values()) else None

    def with_bounds(self, bounds: Mapping[str, Mapping[TopicPartition, LogBounds]]) -> StreamStatus:
        """The same, with what the log of each source has of its partitions."""
        sources = {
            name: tuple(replace(one, bounds=bounds.get(name, {}).get(one.topic_partition)) for one in positions)
            for name, positions in self.sources.items()
        }
        return replace(self, sources=sources)

    def to_json(self) -> Json:
        """For machines."""
        lags = self.lag_offsets
        return {
            "location": self.location,
            "stream_id": self.stream_id,
            "created_at_ms": self.created_at_ms,
            "writer": None if self.writer is None else self.writer.to_json(),
            "batches": {
                "decided": self.decided,
                "planned": self.planned,
                "in_flight": [batch.to_json() for batch in self.in_flight],
                "starts_since_planned": self.starts_since_planned,
            },
            "newest": None if self.newest is None else self.newest.to_json(),
            "recent": [batch.to_json() for batch in self.recent],
            "sources": {name: [one.to_json() for one in positions] for name, positions in self.sources.items()},
            "lag_offsets": None if lags is None else {name: next_offsets_to_json(one) for name, one in lags.items()},
            "sinks": dict(self.sinks),
        }


def open_readable(store: ObjectStore) -> Checkpoint:
    """The checkpoint at ``store``, for a command that looks at it.

    Raises:
        ConfigurationError: the location is empty.
        CheckpointError: its ``metadata.json`` cannot be used.
    """
    checkpoint = Checkpoint.open_existing(store)
    if checkpoint is None:
        raise no_checkpoint(store)
    return checkpoint


def no_checkpoint(store: ObjectStore) -> ConfigurationError:
    """The error for an empty location."""
    return ConfigurationError(
        f"{store.uri} is empty: there is no checkpoint. Give the checkpoint_location of a stream that ran at least once."
    )


def read_status(store: ObjectStore, *, recent_batches: int = 10) -> StreamStatus:
    """Read where the stream at ``store`` stands.

    Args:
        store: the checkpoint location.
        recent_batches: how many decided batches to read.

    Raises:
        ConfigurationError: the location is empty.
        CheckpointError: something that must be read is missing or cannot be used.
    """
    checkpoint = open_readable(store)
    # Markers first: what is committed between the two listings then shows as in flight, never as missing.
    marker_ids = sorted(checkpoint.marker_ids())
    newest_id = marker_ids[-1] if marker_ids else -1
    recent = [_decided(checkpoint, batch_id) for batch_id in reversed(marker_ids[-max(1, recent_batches) :])]
    decided = [batch for batch in recent if batch is not None]
    newest = decided[0] if decided else None
    in_flight = [BatchSummary(id_, checkpoint.read_plan(id_), None) for id_ in checkpoint.plan_ids(above=newest_id)]
    epoch = checkpoint.newest_writer_epoch()
    return StreamStatus(
        location=store.uri,
        stream_id=checkpoint.stream_id,
        created_at_ms=_created_at_ms(checkpoint),
        writer=checkpoint.read_writer(epoch) if epoch else None,
        newest=newest,
        in_flight=tuple(in_flight),
        recent=tuple(decided[:recent_batches]),
        sources={
            name: tuple(Position(one, offset) for one, offset in sorted(offsets.items()))
            for name, offsets in next_offsets(checkpoint, None if newest is None else newest.marker).items()
        },
        sinks=checkpoint.definitions(layout.SINKS),
    )


def next_offsets(checkpoint: Checkpoint, newest: Marker | None) -> dict[str, dict[TopicPartition, int]]:
    """Where each source stands: after the newest marker, or at its first offsets."""
    definitions = checkpoint.definitions(layout.SOURCES)
    first = {name: next_offsets_from_json(body.get("first_offsets", {})) for name, body in definitions.items()}
    committed = {} if newest is None else {name: dict(source.next_offsets) for name, source in newest.sources.items()}
    return dict(sorted({**first, **committed}.items()))


def topic_ids(checkpoint: Checkpoint, newest: Marker | None) -> dict[str, TopicIds]:
    """The topics that :func:`next_offsets` is of, by source."""
    definitions = checkpoint.definitions(layout.SOURCES)
    first: dict[str, TopicIds] = {name: body.get("topic_ids", {}) for name, body in definitions.items()}
    return first if newest is None else {**first, **{name: one.topic_ids for name, one in newest.sources.items()}}


def times_reached(marker: Marker, plan: Plan | None) -> dict[str, TimeReached]:
    """How far the time of each source with event time has come behind a batch. Without its plan, nobody knows what held it."""
    held_by = {} if plan is None else {name: source.held_by for name, source in plan.sources.items()}
    sources = sorted(marker.sources.items())
    return {
        name: TimeReached.behind(source.event_time, held_by.get(name))
        for name, source in sources
        if source.event_time is not None
    }


def event_times(checkpoint: Checkpoint, newest: Marker | None) -> dict[str, SourceTimes]:
    """What is remembered of each source with event time: after the newest marker, or as another stream gave it along."""
    if newest is not None:
        return {name: one.event_time for name, one in newest.sources.items() if one.event_time is not None}
    definitions = checkpoint.definitions(layout.SOURCES).items()
    return {name: SourceTimes.from_json(body["event_time"]) for name, body in definitions if "event_time" in body}


def _decided(checkpoint: Checkpoint, batch_id: int) -> BatchSummary | None:
    marker = checkpoint.read_marker(batch_id)
    # A running driver may have removed old ones since the listing.
    return None if marker is None else BatchSummary(batch_id, checkpoint.read_plan(batch_id), marker)


def _created_at_ms(checkpoint: Checkpoint) -> int:
    where = f"{checkpoint.store.uri}/{layout.METADATA}"
    data = checkpoint.store.get(layout.METADATA) or b""
    return int(unseal(data, where=where, kind="metadata", stream_id=checkpoint.stream_id).body["created_at_ms"])
