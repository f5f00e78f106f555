"""``CheckpointAt``: a stream whose checkpoint is new goes on where another checkpoint stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_exactly_once.arguments import location_of, options_of, whole_number
from beam_exactly_once.checkpoint import Checkpoint, Marker, SourceCommit
from beam_exactly_once.errors import CheckpointHole
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.planning.start import LogsNow


@dataclass(frozen=True)
class CheckpointAt:
    """A place in another stream's checkpoint: behind one of its batches.

    With ``ExactlyOnceStream(…, continue_from=CheckpointAt(…))`` all sources of a new checkpoint begin there together, each
    where the source of its name stood. Stop the other stream first: then all that it has committed is published, and nothing
    is read twice.

    Args:
        location: of the other checkpoint.
        batch_id: a batch whose marker it still has; None is the newest.
        storage_options: of the store of that location; None: the stream's own, if it is on the same kind of store.

    Raises:
        ConfigurationError: an argument is not possible.
    """

    location: str
    batch_id: int | None = None
    storage_options: Mapping[str, Any] | None = field(default=None, kw_only=True, hash=False, repr=False)

    def __post_init__(self) -> None:
        location_of("location", self.location, "a checkpoint")
        whole_number("batch_id", self.batch_id, least=0, none="the newest")
        object.__setattr__(self, "storage_options", options_of("storage_options", self.storage_options))


def marker_at(checkpoint: StoreLocation, batch_id: int | None) -> Marker:
    """The marker that says where the other stream stood.

    Args:
        checkpoint: its location.
        batch_id: the batch; None is the newest.

    Raises:
        CheckpointHole: it is not there.
    """
    elsewhere = Checkpoint.open_existing(checkpoint.store)
    marker = None
    if elsewhere is not None:
        marker = elsewhere.newest_marker() if batch_id is None else elsewhere.read_marker(batch_id)
    if marker is None:
        which = "no marker of any batch" if batch_id is None else f"no marker of batch {batch_id}"
        uri = checkpoint.store.uri
        raise CheckpointHole(
            f"continue_from={uri}: there is {which}, so nothing says where to go on. `beam-exactly-once status {uri}` shows the "
            "batches it has."
        )
    return marker


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
