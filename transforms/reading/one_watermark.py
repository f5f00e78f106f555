"""``OneWatermark``: what the readers of one read may say together, where the runner keeps one watermark for all of them.

Prism takes for the watermark of a step what the bundle said that ended last (2.77, ``PersistBundle``). A partition that is quiet
or ahead would so close windows while records of another one are on their way, and these would be late, and dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from beam_exactly_once.per_process import PerProcess
from beam_exactly_once.randomness import new_token
from beam_exactly_once.transforms.reading.partition_time import FIRST_MS
from beam_exactly_once.transforms.reading.range_group import PlannedRange

_Partition = tuple[str, int, str | None]


class _Partitions:
    """How far each partition of a read has come for sure. Those that were found and not read yet are at the beginning of time."""

    def __init__(self, read: OneWatermark) -> None:
        self._lock = threading.Lock()
        self._sure_ms: dict[_Partition, int] = {}

    def find(self, partition: _Partition) -> None:
        with self._lock:
            self._sure_ms.setdefault(partition, FIRST_MS)

    def begin(self, partition: _Partition, watermark_ms: int) -> None:
        with self._lock:
            self._sure_ms[partition] = watermark_ms

    def leave(self, partition: _Partition) -> None:
        with self._lock:
            self._sure_ms.pop(partition, None)

    def least_of_others(self, partition: _Partition, own_ms: int) -> int:
        with self._lock:
            return min((at_ms for one, at_ms in self._sure_ms.items() if one != partition), default=own_ms)


@dataclass(frozen=True, slots=True)
class OneWatermark:
    """Names a read; what is known of its partitions is kept in the process that reads them, which is one on Prism.

    The rest of a partition comes back to a reader only when the runner has taken what was given out before it. So what a turn
    *begins* with is sure, and a reader says the least of its own end and the beginnings of all others.
    """

    read_id: str = field(default_factory=new_token)

    def found(self, ranges: Iterable[PlannedRange]) -> None:
        """These partitions will be read: none of the read leaves the beginning of time before."""
        for one in ranges:
            _READS.get(self).find(_partition(one))

    def begun(self, planned: PlannedRange, watermark_ms: int) -> None:
        """A turn begins with this watermark."""
        _READS.get(self).begin(_partition(planned), watermark_ms)

    def left(self, planned: PlannedRange) -> None:
        """The partition is gone: nobody waits for it."""
        _READS.get(self).leave(_partition(planned))

    def least(self, planned: PlannedRange, own_ms: int) -> int:
        """What the reader of a partition may say that has come to ``own_ms`` itself."""
        return min(own_ms, _READS.get(self).least_of_others(_partition(planned), own_ms))


def _partition(planned: PlannedRange) -> _Partition:
    return planned.offsets.topic, planned.offsets.partition, planned.topic_id


_READS: PerProcess[OneWatermark, _Partitions] = PerProcess(_Partitions, max_kept=100)
