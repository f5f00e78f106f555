"""``CheckpointAt``: a stream whose checkpoint is new goes on where another checkpoint stands."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from beam_exactly_once.arguments import location_of, options_of, true_or_false, whole_number
from beam_exactly_once.checkpoint import Checkpoint, Marker, SourceCommit
from beam_exactly_once.checkpoint.layout import SINKS
from beam_exactly_once.checkpoint.records import CarriedState
from beam_exactly_once.errors import CheckpointHole
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.planning.start import LogsNow


@dataclass(frozen=True)
class CheckpointAt:
    """A place in another stream's checkpoint: behind one of its batches.

    With ``ExactlyOnceStream(…, continue_from=CheckpointAt(…))`` all sources of a new checkpoint begin there together, each
    where the source of its name stood. What operators of the same names remember goes along. Stop the other stream first, by a
    signal or at its own end. Then all that it has committed is published, its checkpoint says so, and nothing is lost or read
    twice.

    Args:
        location: of the other checkpoint.
        batch_id: a batch whose marker it still has; None is the newest.
        may_be_unpublished: go on, also where nobody knows whether the outputs of the other stream hold all of that batch and
            nothing behind it. You have looked.
        storage_options: of the store of that location; None: the stream's own, if it is on the same kind of store.

    Raises:
        ConfigurationError: an argument is not possible.
    """

    location: str
    batch_id: int | None = None
    may_be_unpublished: bool = field(default=False, kw_only=True)
    storage_options: Mapping[str, Any] | None = field(default=None, kw_only=True, hash=False, repr=False)

    def __post_init__(self) -> None:
        location_of("location", self.location, "a checkpoint")
        whole_number("batch_id", self.batch_id, least=0, none="the newest")
        true_or_false("may_be_unpublished", self.may_be_unpublished)
        object.__setattr__(self, "storage_options", options_of("storage_options", self.storage_options))


def marker_at(place: CheckpointAt, checkpoint: StoreLocation) -> Marker:
    """The marker that says where the other stream stood.

    Args:
        place: the batch.
        checkpoint: its location, as this stream reaches it.

    Raises:
        CheckpointHole: it is not there, or the other stream did not end well behind it.
    """
    elsewhere = Checkpoint.open_existing(checkpoint.store)
    marker = None
    if elsewhere is not None:
        marker = elsewhere.newest_marker() if place.batch_id is None else elsewhere.read_marker(place.batch_id)
    uri = checkpoint.store.uri
    if elsewhere is None or marker is None:
        which = "no marker of any batch" if place.batch_id is None else f"no marker of batch {place.batch_id}"
        raise CheckpointHole(
            f"continue_from={uri}: there is {which}, so nothing says where to go on. `beam-exactly-once status {uri}` shows the "
            "batches it has."
        )
    if not place.may_be_unpublished:
        _refuse_unfinished(elsewhere, marker)
    return marker


def _refuse_unfinished(elsewhere: Checkpoint, marker: Marker) -> None:
    """
    Raises:
        CheckpointHole: outputs of the other stream may lack rows of its batch, or hold rows of the next one.
    """
    uri = elsewhere.store.uri
    way_out = (
        "Start the old pipeline once more, as it was, and let it end; then start this one again. Or look into the outputs, "
        f"and give CheckpointAt({uri!r}, {marker.batch_id}, may_be_unpublished=True)."
    )
    if not elsewhere.is_published(marker):
        raise CheckpointHole(
            f"continue_from={uri}: batch {marker.batch_id} is committed, but nothing says that all of it is published: the "
            f"driver was killed. Rows that only its old pipeline can publish would be missing. {way_out}"
        )
    newest = elsewhere.newest_marker() or marker  # which may be a later one
    undecided = next(elsewhere.plan_ids(above=newest.batch_id), None)
    direct = sorted(name for name, sink in elsewhere.definitions(SINKS).items() if sink.get("direct"))
    if direct and undecided is not None:
        raise CheckpointHole(
            f"continue_from={uri}: batch {undecided} is planned and not committed, and sink {direct[0]!r} writes directly: it "
            f"may hold rows of that batch, which would be written again. {way_out}"
        )


def carried_from(elsewhere: Checkpoint, marker: Marker, operators: tuple[str, ...]) -> CarriedState:
    """What a plan says of the state that it carries along: that of these operators, behind ``marker``."""
    return CarriedState(elsewhere.store.uri, elsewhere.stream_id, marker.batch_id, _digest(marker), operators)


def carried_marker(elsewhere: Checkpoint, carries: CarriedState) -> Marker:
    """The marker whose state a plan carries along.

    Raises:
        CheckpointHole: it is gone, or there is another one, or another stream.
    """
    uri = elsewhere.store.uri
    is_same = elsewhere.stream_id == carries.stream_id
    marker = elsewhere.read_marker(carries.batch_id) if is_same else None
    if marker is None or _digest(marker) != carries.digest:
        what = (
            f"has no marker of batch {carries.batch_id} any more" if is_same else "is the checkpoint of another stream"
        )
        if marker is not None:
            what = f"has another marker of batch {carries.batch_id}"
        raise CheckpointHole(
            f"continue_from={uri} {what}, while batch 0 of this stream is planned to carry on the state behind batch "
            f"{carries.batch_id} of stream {carries.stream_id}, which was at {carries.location}. If the other stream still runs, "
            "stop it. Then start this one with an empty checkpoint_location; nothing was written to its outputs."
        )
    return marker


def _digest(marker: Marker) -> str:
    sources = {name: source.to_json() for name, source in marker.sources.items()}
    content = orjson.dumps({"sources": sources, "state": dict(marker.state)}, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:32]


def stood_at(marker: Marker, source: str, where: str) -> SourceCommit:
    """Where the source of that name stood.

    Raises:
        CheckpointHole: the other stream had none.
    """
    if source not in marker.sources:
        raise CheckpointHole(
            f"continue_from={where}: batch {marker.batch_id} has no source {source!r}, but {', '.join(sorted(marker.sources))}. "
            "Name the source as there, or leave continue_from out."
        )
    return marker.sources[source]


def offsets_behind(stood: SourceCommit, now: LogsNow) -> dict[TopicPartition, int]:
    """Where the other stream stood, and the earliest of partitions that it did not read.

    Offsets are passed on unjudged, also of partitions that Kafka lost of a topic that is read: ``plan_ranges`` judges loss.
    """
    topics = {topic_partition.topic for topic_partition in now.partitions}
    return {**now.earliest, **{one: offset for one, offset in stood.next_offsets.items() if one.topic in topics}}
