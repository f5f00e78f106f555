"""Plans one Kafka source, batch after batch: where it stands, what Kafka has, what to read next."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping

from beam_exactly_once.checkpoint import Checkpoint, Marker, SourceCommit, SourcePlan
from beam_exactly_once.checkpoint.layout import SOURCES
from beam_exactly_once.checkpoint.records import next_offsets_from_json, next_offsets_to_json
from beam_exactly_once.clock import Clock
from beam_exactly_once.errors import DataLoss, KafkaUnavailable, PipelineChanged, UnknownTopic
from beam_exactly_once.kafka import open_kafka_log
from beam_exactly_once.offsets import LogBounds, NextOffsets, TopicPartition, lag
from beam_exactly_once.planning.continuing import offsets_behind
from beam_exactly_once.planning.ranges import plan_ranges
from beam_exactly_once.planning.source import KafkaSource
from beam_exactly_once.planning.start import LogsNow
from beam_exactly_once.topics import (
    WAY_OUT,
    ReplacedTopic,
    TopicDescription,
    gone_message,
    ids_of,
    replaced_message,
    replaced_topics,
    unread_of,
)

RECORD_BYTES_GUESS = 1024.0
"""Average record size where nothing could be measured."""
SAMPLE_RECORDS = 100
"""Records that are read to learn their size, before the first batch of a source with a limit in bytes."""
DISCOVERY_INTERVAL_S = 10.0
"""How often the cluster is asked for new topics that a pattern matches. New partitions are seen at every plan."""

_LOGGER = logging.getLogger(__name__)


class SourcePlanner:
    """One source of a running stream. Owns a Kafka client; :meth:`close` it.

    Opening it asks Kafka for the partitions, so that a wrong address or topic fails before anything is claimed.

    Args:
        spec: the source.
        clock: of the waits.
        may_wait: whether a pattern that matches no topic yet is waited for, instead of being an error.

    Raises:
        UnknownTopic: a topic does not exist, or no topic matches.
    """

    def __init__(self, spec: KafkaSource, clock: Clock, *, may_wait: bool) -> None:
        self.spec = spec
        self._clock = clock
        self._log = open_kafka_log(spec.settings)
        self._target: dict[TopicPartition, int] | None = None
        self._topics: Mapping[str, TopicDescription] = {}
        self._bounds: Mapping[TopicPartition, LogBounds] = {}
        self._replaced_bounds: dict[TopicPartition, LogBounds] = {}
        self._next_offsets: dict[TopicPartition, int] = {}
        self._topic_ids: dict[str, str] = {}
        self._average_record_bytes: float | None = None
        self._planned_at_s = clock.monotonic_s()
        self._discovered_at_s = clock.monotonic_s()
        self._former_ids: set[str] = set()
        self._gone: frozenset[str] = frozenset()
        try:
            self._topics = self._first_topics(may_wait)
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

    def take_position(
        self, checkpoint: Checkpoint, newest: Marker | None, elsewhere: SourceCommit | None = None
    ) -> None:
        """Stand where the newest marker says; a source that it does not know stands at its first offsets.

        First offsets are recorded in the checkpoint, so that ``latest`` means the same at every start.

        Args:
            checkpoint: the stream's own.
            newest: its newest marker; None while it has no batch.
            elsewhere: where the source stood in the checkpoint that the stream goes on from; then ``start`` says nothing.

        Raises:
            PipelineChanged: the checkpoint knows this name as something else.
        """
        if newest is not None and self.spec.name in newest.sources:
            committed = newest.sources[self.spec.name]
            self.advance(committed)
            self.measured(committed.records_read, committed.bytes_read)
            return
        now = LogsNow(self._partitions, self._bounds, self._log.offsets_for_time)
        first = self.spec.start.first_offsets(now) if elsewhere is None else offsets_behind(elsewhere, now)
        present = ids_of(self._topics)
        stood_in = {} if elsewhere is None else {one: id_ for one, id_ in elsewhere.topic_ids.items() if one in present}
        recorded = checkpoint.create_definition(
            SOURCES,
            self.spec.name,
            {
                **self.spec.definition,
                "first_offsets": next_offsets_to_json(first),
                "topic_ids": {**present, **stood_in},
            },
        )
        if recorded.get("kind") != self.spec.definition["kind"]:
            raise PipelineChanged(
                f"{checkpoint.store.uri} knows source {self.spec.name!r} as {recorded.get('kind')!r}, not as "
                f"{self.spec.definition['kind']!r}. Give this source another name=."
            )
        self._next_offsets = next_offsets_from_json(recorded["first_offsets"])
        self._topic_ids = dict(recorded.get("topic_ids", {}))

    def take_target(self) -> None:
        """Plan only up to what is there now."""
        self._look()
        self._target = {one: bounds.latest for one, bounds in self._bounds.items()}

    def refresh(self) -> None:
        """Ask Kafka what it has now."""
        self._look()
        if self._target is not None:
            target = self._target
            self._bounds = {one: _up_to(target[one], now) for one, now in self._bounds.items() if one in target}

    def plan(self) -> SourcePlan:
        """The next ranges; none while there is nothing to read, or not yet enough.

        Raises:
            DataLoss: Kafka no longer has offsets that were not read yet, or a topic.
        """
        present = ids_of(self._topics)
        replaced = replaced_topics(self._next_offsets, self._topic_ids, present)
        self._judge(replaced, present)
        stands = {one: offset for one, offset in self._next_offsets.items() if one.topic not in replaced}
        # Partitions that the user no longer names keep their place; they are not lost.
        read = {one: offset for one, offset in stands.items() if self.spec.selection.is_read(one)}
        self._bounds = self._with_open_transactions(read)
        if self._average_record_bytes is None:
            self._average_record_bytes = self._sampled_record_bytes(read)
        planned = plan_ranges(
            read,
            self._bounds,
            self.spec.limits,
            average_record_bytes=self._average_record_bytes,
            # What is available now is read now, however little.
            waited_s=math.inf if self._target is not None else self._clock.monotonic_s() - self._planned_at_s,
            on_data_loss=self.spec.on_data_loss,
        )
        return SourcePlan(
            planned.ranges,
            (*planned.lost, *unread_of(replaced, self._replaced_bounds)),
            {**stands, **planned.next_offsets},
            {**self._topic_ids, **present},
            replaced,
            self.spec.settings.isolation_level,
        )

    def advance(self, after: SourcePlan | SourceCommit) -> None:
        """Stand where a decided batch leaves the source."""
        self._next_offsets = dict(after.next_offsets)
        self._topic_ids.update(after.topic_ids)
        self._replaced_bounds.clear()
        self._planned_at_s = self._clock.monotonic_s()

    def measured(self, records: int, bytes_read: int) -> None:
        """Learn the average record size, for limits in bytes."""
        if records:
            self._average_record_bytes = max(1.0, bytes_read / records)

    # -- what Kafka has ----------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Topics first, bounds after them.

        Should a topic be made anew between the two questions, the plan names the old id with bounds of the new topic. Its
        reader refuses that, and the next plan finds the topic replaced.
        """
        before, last_bounds = self._topics, self._bounds
        self._topics = self._present_topics()
        stale = sorted(name for name, topic in self._topics.items() if topic.topic_id in self._former_ids)
        if stale:
            raise KafkaUnavailable(
                f"a broker describes {', '.join(stale)} by the id of a topic that was deleted, though the new topic is known: "
                "it has fallen behind the cluster. Start again when the brokers are well"
            )
        self._bounds = self._log.bounds(self._partitions)
        for name in self._topics.keys() & before.keys():
            if self._topics[name].topic_id != before[name].topic_id:
                self._take_new_topic(name, before[name], last_bounds)

    def _take_new_topic(
        self, name: str, before: TopicDescription, last_bounds: Mapping[TopicPartition, LogBounds]
    ) -> None:
        """Remember the old one and what it is known to have held; of the new one, what is there now is to be read."""
        self._former_ids.update(ids_of({name: before}).values())
        self._replaced_bounds.update({one: log for one, log in last_bounds.items() if one.topic == name})
        if self._target is not None:
            self._target = {one: latest for one, latest in self._target.items() if one.topic != name}
            self._target.update({one: log.latest for one, log in self._bounds.items() if one.topic == name})

    def _first_topics(self, may_wait: bool) -> Mapping[str, TopicDescription]:
        try:
            return self.spec.selection.describe(self._log, patient=False)
        except UnknownTopic as error:
            if not self.spec.selection.discovers or not may_wait:
                raise
            _LOGGER.warning("source %r waits for a topic to appear: %s", self.spec.name, error)
            return {}

    def _present_topics(self) -> Mapping[str, TopicDescription]:
        selection = self.spec.selection
        if not selection.discovers:
            return selection.describe(self._log)
        now_s = self._clock.monotonic_s()
        if now_s - self._discovered_at_s < DISCOVERY_INTERVAL_S:
            try:
                return self._log.describe(list(self._topics))
            except UnknownTopic:
                pass  # one of them was deleted
        self._discovered_at_s = now_s
        return selection.describe(self._log)

    @property
    def _partitions(self) -> list[TopicPartition]:
        return self.spec.selection.partitions_in(self._topics)

    # -- judging it --------------------------------------------------------------------------------------------

    def _judge(self, replaced: Mapping[str, ReplacedTopic], present: Mapping[str, str]) -> None:
        """Topics that are others, or that a pattern no longer finds, are data loss."""
        known = {one.topic for one in self._next_offsets}
        gone = self.spec.selection.gone(known - self._topics.keys())
        messages = [replaced_message(replaced, present)] if replaced else []
        if gone - self._gone:
            messages.append(gone_message(gone, self._next_offsets, str(self.spec.selection)))
        if messages and self.spec.on_data_loss == "fail":
            raise DataLoss(f"{'; '.join(messages)}. {WAY_OUT}")
        self._gone = gone
        for message in messages:
            _LOGGER.warning("source %r goes on: %s", self.spec.name, message)

    def _with_open_transactions(self, read: NextOffsets) -> Mapping[TopicPartition, LogBounds]:
        """Bounds that hold all that was read.

        Who has read beyond the last stable offset, before the source's isolation level was made ``read_committed``, has
        lost nothing: there is only nothing to read until the transactions are over.
        """
        ahead = [one for one, log in self._bounds.items() if read.get(one, 0) > log.latest]
        if not ahead or self.spec.settings.isolation_level == "read_uncommitted":
            return self._bounds
        log = open_kafka_log(dataclasses.replace(self.spec.settings, isolation_level="read_uncommitted"))
        try:
            ends = log.bounds(ahead)
        finally:
            log.close()
        held = {one: LogBounds(self._bounds[one].earliest, read[one]) for one in ahead if read[one] <= ends[one].latest}
        return {**self._bounds, **held}

    def _sampled_record_bytes(self, read: NextOffsets) -> float:
        """Average size of the next records of the partition that lags most."""
        place, behind = max(lag(read, self._bounds).items(), key=lambda one: one[1], default=(None, 0))
        if place is None or behind <= SAMPLE_RECORDS or self.spec.limits.max_batch_bytes is None:
            return RECORD_BYTES_GUESS
        bounds = self._bounds[place]
        try:
            sample = self._log.next_chunk(place, bounds.latest - behind, bounds.latest, SAMPLE_RECORDS)
        except DataLoss:  # retention was faster; the plan judges that
            return RECORD_BYTES_GUESS
        return max(1.0, sample.bytes / len(sample)) if len(sample) else RECORD_BYTES_GUESS


def _up_to(target: int, bounds: LogBounds) -> LogBounds:
    """What a log holds of offsets below ``target``."""
    return LogBounds(bounds.earliest, min(bounds.latest, max(target, bounds.earliest)))
