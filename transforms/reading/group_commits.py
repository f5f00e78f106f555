"""What a read without an end tells a consumer group of Kafka, for those who watch its lag. Nothing here rests on it."""

from __future__ import annotations

import dataclasses
import logging
import threading
from typing import NamedTuple

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import BeamExactlyOnceError
from beam_exactly_once.kafka import KafkaSettings
from beam_exactly_once.logs import GroupsLog
from beam_exactly_once.logs.opening import open_log
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.per_process import PerProcess

EVERY_S = 5.0
"""How often a process commits, for all partitions at once."""
AFTER_FAILURE_S = 60.0
MAX_WAIT_S = 5.0
"""How long a bundle's finalisation waits for the cluster."""

_LOGGER = logging.getLogger(__name__)


class Group(NamedTuple):
    """A consumer group of one cluster."""

    settings: KafkaSettings
    group_id: str


class GroupCommits:
    """Commits of one process for one group: what was read, when the runner has said that it is safe.

    Advisory: a failure is a warning, and a position may be that of another reader of the partition, ahead or behind.
    """

    def __init__(self, group: Group, clock: Clock = SYSTEM_CLOCK) -> None:
        self._group = group
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: dict[TopicPartition, int] = {}
        self._next_s = 0.0

    @property
    def are_due(self) -> bool:
        """Whether something waits to be committed, and has waited long enough."""
        return bool(self._pending) and self._clock.monotonic_s() >= self._next_s

    def finished(self, positions: dict[TopicPartition, int]) -> None:
        """Bundles are final that read up to these positions. Commits now and then; never raises."""
        with self._lock:
            self._pending.update(positions)
            if self.are_due:
                self._commit()

    def _commit(self) -> None:
        settings, group_id = self._group
        log = open_log(dataclasses.replace(settings, timeout_s=min(settings.timeout_s, MAX_WAIT_S)))
        wait_s = EVERY_S
        try:
            if isinstance(log, GroupsLog):
                log.commit_offsets(group_id, self._pending)
            self._pending = {}
        except BeamExactlyOnceError as error:
            wait_s = AFTER_FAILURE_S
            _LOGGER.warning("nothing was committed for the consumer group %s; the read goes on: %s", group_id, error)
        finally:
            log.close()
        self._next_s = self._clock.monotonic_s() + wait_s


COMMITS: PerProcess[Group, GroupCommits] = PerProcess(GroupCommits, max_kept=100)
