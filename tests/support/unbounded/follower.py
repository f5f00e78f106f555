"""A runner of one reader that goes on, driven by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from apache_beam.runners.sdf_utils import (
    RestrictionTrackerView,
    ThreadsafeRestrictionTracker,
    ThreadsafeWatermarkEstimator,
)
from apache_beam.transforms.window import TimestampedValue

from beam_exactly_once import Record
from beam_exactly_once.clock import now_ms
from beam_exactly_once.kafka import KafkaSettings
from beam_exactly_once.logs.opening import LogSettings
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.topics import OnDataLoss
from beam_exactly_once.transforms.reading.follow_ranges import FollowRanges, ReadTimes, _GrowingRanges
from beam_exactly_once.transforms.reading.growing_range import NO_END
from beam_exactly_once.transforms.reading.partition_time import PartitionTime, State
from beam_exactly_once.transforms.reading.range_group import PlannedRange, RangeGroup
from support.hand_made_stream import HandClock

WHOLE = OffsetRange("orders", 0, 0, NO_END)


class Follower:
    """A runner of one DoFn: it splits at random if it is told to, and gives rests back in any order."""

    def __init__(
        self,
        cluster: MemoryKafka,
        times: ReadTimes | None = None,
        on_data_loss: OnDataLoss = "fail",
        random_: random.Random | None = None,
        settings: LogSettings = KafkaSettings("memory:9092"),  # noqa: B008 (it cannot be changed)
        whole: OffsetRange = WHOLE,
        topic_id: str | None = None,
        seconds_a_chunk: float = 0,
    ) -> None:
        self.cluster, self.random = cluster, random_
        self.clock = HandClock()
        self.settings = settings
        self.doing = FollowRanges(settings, on_data_loss, times or ReadTimes(), self.clock)
        self.more: list[Any] = []
        """Arguments of ``process`` that Beam gives by position."""
        self.group = RangeGroup((PlannedRange(whole, topic_id or cluster.ids()["orders"]),))
        self.waiting: list[tuple[OffsetRange, State]] = [(whole, (-(1 << 40), now_ms(self.clock)))]
        self.records: list[Record] = []
        self.turns: list[int] = []
        """How many records each had."""
        self.rests_s: list[float] = []
        self.reached_ms: list[int] = []
        self.first_ms: list[int] = []
        """The timestamp of each chunk."""
        self.seconds_a_chunk = seconds_a_chunk
        """How long the steps behind need for one."""

    def turn(self) -> None:
        """One, of one of the rests, as Beam's worker makes it."""
        restriction, state = self.waiting.pop(self.random.randrange(len(self.waiting)) if self.random else 0)
        provider = _GrowingRanges()
        tracker = ThreadsafeRestrictionTracker(provider.create_tracker(restriction))
        estimator = ThreadsafeWatermarkEstimator(PartitionTime(state))
        before, residuals = len(self.records), []
        with self.cluster.serving():
            self.doing.start_bundle()
            for output in self.doing.process(
                self.group, *self.more, tracker=RestrictionTrackerView(tracker), watermark=estimator
            ):
                assert isinstance(output, TimestampedValue)
                assert output.timestamp >= estimator.current_watermark() or self.doing._times.event_time is not None
                self.records += output.value.records()
                self.first_ms.append(output.timestamp.micros // 1000)
                self.clock.seconds += self.seconds_a_chunk
                if self.random and self.random.random() < 0.5:
                    residuals += [part[1] for part in [tracker.try_split(self.random.random())] if part]
            self.doing.finish_bundle()
        tracker.check_done()
        deferred = tracker.deferred_status()
        if deferred is not None:
            residuals.append(deferred[0])
            self.rests_s.append(float(deferred[1].micros) / 1e6)
        self.waiting += [(one, estimator.get_estimator_state()) for one in residuals]
        self.turns.append(len(self.records) - before)
        self.reached_ms.append(estimator.current_watermark().micros // 1000)

    def offsets(self) -> list[int]:
        return sorted(record.offset for record in self.records)


def records(count: int, **fields: Any) -> Iterator[Record]:
    return (Record("orders", 0, value=b"x", **fields) for _ in range(count))
