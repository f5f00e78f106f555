"""How far the event time of one partition has come, in a pipeline where Beam keeps watermarks."""

from __future__ import annotations

from collections.abc import Callable

from apache_beam.io.iobase import WatermarkEstimator
from apache_beam.transforms.core import WatermarkEstimatorProvider
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock, now_ms

State = tuple[int, int]
"""The watermark in milliseconds since 1970, and when a record was last seen, or the partition was found."""

FIRST_MS = -(-MIN_TIMESTAMP.micros // 1000)
"""The beginning of time."""
_LAST_MS = MAX_TIMESTAMP.micros // 1000


def beam_time(at_ms: int) -> Timestamp:
    """A moment, or the nearest that Beam has."""
    return Timestamp(micros=1000 * min(max(at_ms, FIRST_MS), _LAST_MS))


class PartitionTime(WatermarkEstimator):
    """The watermark, which the reader moves on, and how long the partition has been quiet. Both go along with the rest."""

    def __init__(self, state: State) -> None:
        self._watermark_ms, self._seen_at_ms = state
        self._sayable: Callable[[int], int] | None = None

    def current_watermark(self) -> Timestamp:
        """No record is expected to have happened before."""
        return beam_time(self._watermark_ms if self._sayable is None else self._sayable(self._watermark_ms))

    def say_no_more_than(self, sayable: Callable[[int], int]) -> None:
        """Let ``sayable`` make of the partition's watermark what the runner hears; the partition keeps its own."""
        self._sayable = sayable

    def get_estimator_state(self) -> State:
        """What the next reader of the rest goes on with."""
        return self._watermark_ms, self._seen_at_ms

    def observe_timestamp(self, timestamp: Timestamp) -> None:
        """A chunk has one timestamp, and its records have others: the reader says what it saw."""

    def saw_records(self, at_ms: int) -> None:
        """There were some, at this time of the clock."""
        self._seen_at_ms = at_ms

    def quiet_since_ms(self) -> int:
        """When there last were some."""
        return self._seen_at_ms

    def advance(self, to_ms: int) -> None:
        """Let the watermark come so far; it never falls."""
        self._watermark_ms = max(self._watermark_ms, to_ms)


class PartitionTimes(WatermarkEstimatorProvider):
    """Each partition begins where time does, and quiet."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock

    def initial_estimator_state(self, element: object, restriction: object) -> State:
        """Of a partition that was just found."""
        return FIRST_MS, now_ms(self._clock)

    def create_watermark_estimator(self, estimator_state: State) -> PartitionTime:
        """As it was left."""
        return PartitionTime(estimator_state)
