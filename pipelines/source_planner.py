"""Plans one Kafka source, batch after batch: where it stands, what Kafka has, what to read next."""

from __future__ import annotations

import math
from collections.abc import Mapping

from beam_exactly_once.checkpoint import Checkpoint, Marker, SourcePlan
from beam_exactly_once.checkpoint.layout import SOURCES
from beam_exactly_once.checkpoint.records import next_offsets_from_json, next_offsets_to_json
from beam_exactly_once.clock import Clock
from beam_exactly_once.errors import CheckpointHole, DataLoss, SinkChanged
from beam_exactly_once.kafka import open_kafka_log
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.offsets import LogBounds, NextOffsets, TopicPartition
from beam_exactly_once.planning import Start, first_offsets, lag, plan_ranges
from beam_exactly_once.transforms.stream_graph import KafkaSourceSpec

RECORD_BYTES_GUESS = 1024.0
"""Average record size where nothing could be measured."""
SAMPLE_RECORDS = 100
"""Records that are read to learn their size, before the first batch of a source with a limit in bytes."""
DISCOVERY_INTERVAL_S = 10.0
"""How often topics are asked for new partitions."""


class SourcePlanner:
    """One source of a running stream. Owns a Kafka client; :meth:`close` it.

    Opening it asks Kafka for the partitions, so that a wrong address or topic fails before anything is claimed.
    """

    def __init__(self, spec: KafkaSourceSpec, clock: Clock) -> None:
        self.spec = spec
        self._clock = clock
        self._log = open_kafka_log(spec.settings)
        self._target: Mapping[TopicPartition, LogBounds] | None = None
        self._bounds: Mapping[TopicPartition, LogBounds] = {}
        self._next_offsets: dict[TopicPartition, int] = {}
        self._average_record_bytes: float | None = None
        self._planned_at_s = clock.monotonic_s()
        self._discovered_at_s = clock.monotonic_s()
        try:
            self._partitions = self._find_partitions()
            self._bounds = self._log.bounds(self._partitions)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the Kafka client."""
        self._log.close()

    @property
    def lag(self) -> dict[TopicPartition, int]:
        """Offsets not read yet of each partition, as of the last plan."""
        return lag(self._next_offsets, self._bounds)

    def take_position(self, checkpoint: Checkpoint, newest: Marker | None) -> None:
        """Stand where the newest marker says; a source that it does not know stands at its first offsets.

        First offsets are recorded in the checkpoint, so that ``latest`` means the same at every start.

        Raises:
            SinkChanged: the checkpoint knows this name as something else.
            CheckpointHole: ``Start.from_checkpoint`` names a batch that is not there.
        """
        if newest is not None and self.spec.name in newest.sources:
            committed = newest.sources[self.spec.name]
            self._next_offsets = dict(committed.next_offsets)
            self.measured(committed.records, committed.bytes_read)
            return
        first = first_offsets(
            self.spec.start,
            self._partitions,
            self._bounds,
            self._log.offsets_for_time,
            _offsets_of_checkpoint(self.spec.start, self.spec.name),
        )
        recorded = checkpoint.create_definition(
            SOURCES, self.spec.name, {**self.spec.definition, "first_offsets": next_offsets_to_json(first)}
        )
        if recorded.get("kind") != self.spec.definition["kind"]:
            raise SinkChanged(
                f"{checkpoint.store.uri} knows source {self.spec.name!r} as {recorded.get('kind')!r}, not as "
                f"{self.spec.definition['kind']!r}. Give this source another name=."
            )
        self._next_offsets = next_offsets_from_json(recorded["first_offsets"])

    def take_target(self) -> None:
        """Plan only up to what is there now."""
        self._bounds = self._target = self._log.bounds(self._partitions)

    def refresh(self) -> None:
        """Ask Kafka what it has now, and now and then for new partitions."""
        if self._target is not None:
            now = self._log.bounds(self._partitions)
            self._bounds = {one: _up_to(self._target[one].latest, bounds) for one, bounds in now.items()}
            return
        now_s = self._clock.monotonic_s()
        if now_s - self._discovered_at_s >= DISCOVERY_INTERVAL_S:
            self._discovered_at_s = now_s
            self._partitions = self._find_partitions()
        self._bounds = self._log.bounds(self._partitions)

    def plan(self) -> SourcePlan:
        """The next ranges; none while there is nothing to read, or not yet enough.

        Raises:
            DataLoss: Kafka no longer has offsets that were not read yet.
        """
        if self._average_record_bytes is None:
            self._average_record_bytes = self._sampled_record_bytes()
        # Partitions that the user no longer names keep their place; they are not lost.
        read = {one: offset for one, offset in self._next_offsets.items() if self._is_read(one)}
        planned = plan_ranges(
            read,
            self._bounds,
            self.spec.limits,
            average_record_bytes=self._average_record_bytes,
            # What is available now is read now, however little.
            waited_s=math.inf if self._target is not None else self._clock.monotonic_s() - self._planned_at_s,
            fail_on_data_loss=self.spec.fail_on_data_loss,
        )
        return SourcePlan(planned.ranges, planned.lost, {**self._next_offsets, **planned.next_offsets})

    def advance(self, next_offsets: NextOffsets) -> None:
        """Stand where a decided batch leaves the source."""
        self._next_offsets = dict(next_offsets)
        self._planned_at_s = self._clock.monotonic_s()

    def measured(self, records: int, bytes_read: int) -> None:
        """Learn the average record size, for limits in bytes."""
        if records:
            self._average_record_bytes = max(1.0, bytes_read / records)

    def _sampled_record_bytes(self) -> float:
        """Average size of the next records of the partition that lags most."""
        place, behind = max(self.lag.items(), key=lambda one: one[1], default=(None, 0))
        if place is None or behind <= SAMPLE_RECORDS or self.spec.limits.max_bytes is None:
            return RECORD_BYTES_GUESS
        bounds = self._bounds[place]
        position = max(bounds.earliest, self._next_offsets.get(place, bounds.earliest))
        try:
            sample = self._log.next_chunk(place, position, bounds.latest, SAMPLE_RECORDS)
        except DataLoss:  # retention was faster; the plan judges that
            return RECORD_BYTES_GUESS
        return max(1.0, sample.bytes / len(sample)) if len(sample) else RECORD_BYTES_GUESS

    def _is_read(self, partition: TopicPartition) -> bool:
        return not self.spec.partitions or partition in self._partitions

    def _find_partitions(self) -> list[TopicPartition]:
        if not self.spec.partitions:
            return self._log.partitions(self.spec.topics)
        wanted = [TopicPartition(topic, partition) for topic, partition in self.spec.partitions]
        self._log.bounds(wanted)  # raises for an unknown one
        return wanted


def _up_to(target: int, bounds: LogBounds) -> LogBounds:
    """What a log holds of offsets below ``target``."""
    return LogBounds(bounds.earliest, min(bounds.latest, max(target, bounds.earliest)))


def _offsets_of_checkpoint(start: Start, source: str) -> Mapping[TopicPartition, int] | None:
    """Where ``source`` stood in another checkpoint, when ``start`` names one."""
    if start.checkpoint_location is None or start.batch_id is None:
        return None
    store = open_object_store(start.checkpoint_location)
    checkpoint = Checkpoint.open_existing(store)
    marker = None if checkpoint is None else checkpoint.read_marker(start.batch_id)
    if marker is None or source not in marker.sources:
        raise CheckpointHole(
            f"{store.uri} has no marker of batch {start.batch_id} with a source {source!r}, so nothing says where to start. "
            f"`beam-exactly-once status {store.uri}` shows the batches it has."
        )
    return marker.sources[source].next_offsets
