"""What the logs of a stream's sources hold, for the lag that ``status`` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from beam_exactly_once.checkpoint.inspection import StreamStatus
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.kafka import KafkaSettings
from beam_exactly_once.logs.opening import LogSettings, open_log
from beam_exactly_once.object_store.store_location import StoreLocation, kind_of_store
from beam_exactly_once.offsets import LogBounds, TopicPartition
from beam_exactly_once.wal.settings import WalSettings


def with_lag(
    found: StreamStatus, sources: Mapping[str, Json], kafka: KafkaSettings | None, options: Mapping[str, Any] | None
) -> StreamStatus:
    """``found``, with the lag of every source whose log can be reached.

    Args:
        found: the stream.
        sources: their definitions, as the checkpoint has them.
        kafka: the cluster of those that read Kafka; None leaves them out.
        options: of the checkpoint's store. A write-ahead log on a store of another kind is left out.

    Raises:
        KafkaUnavailable, KafkaRefused, UnknownTopic, StoreUnavailable: a log does not answer, or is gone.
    """
    bounds: dict[str, Mapping[TopicPartition, LogBounds]] = {}
    for settings, names in _logs(found, sources, kafka, options):
        partitions = sorted({one.topic_partition for name in names for one in found.sources[name]})
        if partitions:
            with closing(open_log(settings)) as log:
                bounds.update(dict.fromkeys(names, log.bounds(partitions)))
    return found.with_bounds(bounds)


def _logs(
    found: StreamStatus, sources: Mapping[str, Json], kafka: KafkaSettings | None, options: Mapping[str, Any] | None
) -> Iterator[tuple[LogSettings, Sequence[str]]]:
    """Each log, and the names of the sources that read it."""
    wals = {name: str(one["location"]) for name, one in sources.items() if one.get("kind") == "wal"}
    for name, location in sorted(wals.items()):
        if name in found.sources and kind_of_store(location) == kind_of_store(found.location):
            yield WalSettings(StoreLocation(location, options)), [name]
    of_kafka = [name for name in found.sources if name not in wals]
    if kafka is not None and of_kafka:
        yield kafka, of_kafka
