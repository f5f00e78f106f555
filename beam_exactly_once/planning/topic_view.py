"""What the log has of one source's topics, looked at again before every plan."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from beam_exactly_once.clock import Clock
from beam_exactly_once.errors import KafkaUnavailable, UnknownTopic
from beam_exactly_once.logs import Log
from beam_exactly_once.offsets import LogBounds, NextOffsets, TopicPartition
from beam_exactly_once.patience import Patience
from beam_exactly_once.planning.source import LogSource
from beam_exactly_once.topics import TopicDescription, ids_of

DISCOVERY_INTERVAL_S = 10.0
"""How often the cluster is asked for new topics that a pattern matches. New partitions are seen at every plan."""
SHORTER_DOUBT_S = 5.0
"""How long a log must be shorter than what was read of it before it is believed: a deposed leader may still answer."""
_SHORTER_PAUSE_S = 0.5

_LOGGER = logging.getLogger(__name__)


class TopicView:
    """Topics and bounds as they were at the last look.

    Args:
        spec: the source.
        log: its cluster; who gives it closes it.
        clock: of the waits.
        may_wait: whether a pattern that matches no topic yet is waited for, instead of being an error.

    Attributes:
        topics: each topic that the source selects.
        bounds: of their partitions.
        replaced_bounds: what topics that are gone are known to have held, since :meth:`forget_replaced`.

    Raises:
        UnknownTopic: a topic does not exist, or no topic matches.
    """

    def __init__(self, spec: LogSource, log: Log, clock: Clock, *, may_wait: bool) -> None:
        self._spec = spec
        self._log = log
        self._clock = clock
        self._discovered_at_s = clock.monotonic_s()
        self._former_ids: set[str] = set()
        self.replaced_bounds: dict[TopicPartition, LogBounds] = {}
        self.topics: Mapping[str, TopicDescription] = self._first_topics(may_wait)
        self.bounds: Mapping[TopicPartition, LogBounds] = log.bounds(self.partitions)

    @property
    def partitions(self) -> list[TopicPartition]:
        """Those that the source reads."""
        return self._spec.selection.partitions_in(self.topics)

    @property
    def topics_without_id(self) -> frozenset[str]:
        """Topics of brokers that are older than ids: one that was recreated looks like the one that was deleted."""
        return frozenset(name for name, topic in self.topics.items() if topic.topic_id is None)

    def look(self) -> frozenset[str]:
        """Look again, at topics first, at bounds after them. Returns the names of topics that are others now.

        Should a topic be recreated between the two questions, the plan names the old id with bounds of the new topic. Its
        reader refuses that, and the next plan finds the topic replaced.
        """
        before, last_bounds = self.topics, self.bounds
        self.topics = self._present_topics()
        stale = sorted(name for name, topic in self.topics.items() if topic.topic_id in self._former_ids)
        if stale:
            raise KafkaUnavailable(
                f"a broker describes {', '.join(stale)} by the id of a topic that was deleted, though the new topic is known: "
                "it has fallen behind the cluster. Start again when the brokers are well"
            )
        self.bounds = self._log.bounds(self.partitions)
        both = self.topics.keys() & before.keys()
        replaced = frozenset(name for name in both if self.topics[name].topic_id != before[name].topic_id)
        self._former_ids.update(ids_of({name: before[name] for name in replaced}).values())
        self.replaced_bounds.update({one: log for one, log in last_bounds.items() if one.topic in replaced})
        return replaced

    def begin_at(self, least: NextOffsets) -> None:
        """Let no partition begin below these offsets, until the next look."""
        self.bounds = {
            one: LogBounds(max(log.earliest, least.get(one, 0)), log.latest) for one, log in self.bounds.items()
        }

    def forget_replaced(self) -> None:
        """What replaced topics held is planned."""
        self.replaced_bounds.clear()

    def ends(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where each of these logs ends, whatever of it open transactions hide."""
        if not partitions or self._spec.settings.isolation_level != "read_committed":
            return {one: self.bounds[one].latest for one in partitions}
        return self._log.ends(partitions)

    def look_for_the_end_of(self, read: NextOffsets) -> None:
        """Let the bounds hold all that was read, if any broker says so within :data:`SHORTER_DOUBT_S`.

        Args:
            read: next offsets of partitions whose topics are those that were read.
        """
        patience = Patience(self._clock, timeout_s=SHORTER_DOUBT_S, first_pause_s=_SHORTER_PAUSE_S)
        while True:
            ahead = [one for one, log in self.bounds.items() if read.get(one, 0) > log.latest]
            if ahead:
                ahead = self._without_open_transactions(ahead, read)
            if not ahead or patience.is_over:
                return
            patience.wait()
            self.bounds = {**self.bounds, **self._log.bounds(ahead)}

    def _without_open_transactions(self, ahead: Sequence[TopicPartition], read: NextOffsets) -> list[TopicPartition]:
        """Those whose log is shorter than what was read of it.

        Who has read beyond the last stable offset, before the source's isolation level was made ``read_committed``, has
        lost nothing: there is only nothing to read until the transactions are over.
        """
        ends = self.ends(ahead)
        held = {one: LogBounds(self.bounds[one].earliest, read[one]) for one in ahead if read[one] <= ends[one]}
        self.bounds = {**self.bounds, **held}
        return [one for one in ahead if one not in held]

    def _first_topics(self, may_wait: bool) -> Mapping[str, TopicDescription]:
        try:
            return self._spec.selection.describe(self._log, patient=False)
        except UnknownTopic as error:
            if not self._spec.selection.discovers or not may_wait:
                raise
            _LOGGER.warning("source %r waits for a topic to appear: %s", self._spec.name, error)
            return {}

    def _present_topics(self) -> Mapping[str, TopicDescription]:
        selection = self._spec.selection
        if not selection.discovers:
            return selection.describe(self._log)
        now_s = self._clock.monotonic_s()
        if now_s - self._discovered_at_s < DISCOVERY_INTERVAL_S:
            try:
                return self._log.describe(list(self.topics))
            except UnknownTopic:
                pass  # one of them was deleted
        self._discovered_at_s = now_s
        return selection.describe(self._log)
