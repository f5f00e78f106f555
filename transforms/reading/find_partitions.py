"""``FindPartitions``: the splittable DoFn that finds partitions as long as a pipeline runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock, now_ms
from beam_exactly_once.errors import UnfitRow, UnknownTopic, leaving_step
from beam_exactly_once.kafka import TopicSelection, selection_of
from beam_exactly_once.logs import Log
from beam_exactly_once.logs.opening import LogSettings, open_log
from beam_exactly_once.offsets import OffsetRange, TopicPartition
from beam_exactly_once.planning.start import LogsNow, Start
from beam_exactly_once.planning.topic_view import DISCOVERY_INTERVAL_S
from beam_exactly_once.topics import OnDataLoss, TopicDescription
from beam_exactly_once.transforms.reading.follow_ranges import ReadTimes, made_anew
from beam_exactly_once.transforms.reading.growing_range import NO_END
from beam_exactly_once.transforms.reading.partition_time import PartitionTimes
from beam_exactly_once.transforms.reading.range_group import PlannedRange, RangeGroup
from beam_exactly_once.transforms.stateless import StatelessDoFn


@dataclass(frozen=True, slots=True)
class Found:
    """What was found so far: by topic its id, and its partitions. None before the first look."""

    topics: Mapping[str, tuple[str | None, tuple[int, ...]]] | None = field(default=None, hash=False)
    is_over: bool = False
    """Whether somebody else goes on."""

    def new_in(self, topics: Mapping[str, TopicDescription], partitions: list[TopicPartition]) -> list[TopicPartition]:
        """Those of ``partitions`` that were not found before, or not of the topics that now have their names."""
        known = self.topics or {}
        return [
            one
            for one in partitions
            if one.topic not in known
            or known[one.topic][0] != topics[one.topic].topic_id
            or one.partition not in known[one.topic][1]
        ]

    def made_anew(self, topics: Mapping[str, TopicDescription]) -> list[str]:
        """The names that other topics had when they were found."""
        known = self.topics or {}
        return [name for name, topic in topics.items() if name in known and known[name][0] != topic.topic_id]

    def with_those(self, topics: Mapping[str, TopicDescription], partitions: list[TopicPartition]) -> Found:
        """What is known behind a look."""
        known = dict(self.topics or {})
        for name, topic in topics.items():
            known[name] = topic.topic_id, tuple(sorted(one.partition for one in partitions if one.topic == name))
        return Found(known)


class FoundTracker(RestrictionTracker):
    """One look after the other. It gives all the rest away or nothing: two that look would find the same."""

    def __init__(self, found: Found) -> None:
        self._found = found

    def current_restriction(self) -> Found:
        """What was found."""
        return self._found

    def try_claim(self, position: Found) -> bool:
        """Claim what a look has found."""
        if self._found.is_over:
            return False
        self._found = position
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Found, Found] | None:
        """All the looks to come, where all is asked for."""
        if fraction_of_remainder or self._found.is_over:
            return None
        rest, self._found = self._found, Found(is_over=True)
        return self._found, rest

    def check_done(self) -> None:
        """Raise unless somebody else goes on."""
        if not self._found.is_over:
            raise ValueError("the search for partitions has no end, and its rest was not put off")

    def current_progress(self) -> RestrictionProgress:
        """There always is one more look."""
        return RestrictionProgress(completed=1, remaining=1)

    def is_bounded(self) -> bool:
        """It has no end."""
        return self._found.is_over


class _FoundCoder(beam.coders.Coder):
    """Wire shape: the JSON list ``[1, topics, is over]``; the 1 is its version."""

    VERSION = 1

    def encode(self, value: Found) -> bytes:
        return orjson.dumps([self.VERSION, value.topics, value.is_over])

    def decode(self, encoded: bytes) -> Found:
        version, topics, is_over = orjson.loads(encoded)
        if version != self.VERSION:
            raise ValueError(f"cannot decode partitions of version {version}: workers and driver must run one version")
        if topics is None:
            return Found(None, is_over)
        return Found({name: (topic_id, tuple(partitions)) for name, (topic_id, partitions) in topics.items()}, is_over)

    def is_deterministic(self) -> bool:
        return False


class _AllPartitions(RestrictionProvider):
    def create_tracker(self, restriction: Found) -> FoundTracker:
        return FoundTracker(restriction)

    def initial_restriction(self, element: object) -> Found:
        return Found()

    def restriction_size(self, element: object, restriction: Found) -> int:
        return 1

    def restriction_coder(self) -> _FoundCoder:
        return _FoundCoder()


class FindPartitions(StatelessDoFn):
    """Emits each partition once, as a range without an end; looks for new ones every ten seconds.

    Those of the first look begin where ``start`` says, others at their earliest offset. Without a selection, the element is the
    name of a topic, or a partition.
    """

    def __init__(
        self,
        settings: LogSettings,
        selection: TopicSelection | None,
        start: Start,
        times: ReadTimes,
        on_data_loss: OnDataLoss,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = settings
        self._selection = selection
        self._start = start
        self._times = times
        self._on_data_loss: OnDataLoss = on_data_loss
        self._clock = clock

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        place: Any,
        tracker: Any = beam.DoFn.RestrictionParam(_AllPartitions()),  # noqa: B008 (Beam's way)
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(PartitionTimes()),  # noqa: B008
    ) -> Iterator[TimestampedValue]:
        """One look; then rest. The watermark is that of the clock, so that it holds up no partition."""
        found = tracker.current_restriction()
        with leaving_step():
            log = open_log(self._settings)
            try:
                ranges, found = self._look(log, found, self._selection or _selection_of(place))
            finally:
                log.close()
        if not tracker.try_claim(found):
            return
        for one in ranges:
            yield TimestampedValue(one, watermark.current_watermark())
        watermark.advance(self._times.behind(now_ms(self._clock)))
        tracker.defer_remainder(Duration(DISCOVERY_INTERVAL_S))

    def _look(self, log: Log, found: Found, selection: TopicSelection) -> tuple[list[RangeGroup], Found]:
        is_first = found.topics is None
        topics = self._topics(log, selection, is_first=is_first)
        anew = found.made_anew(topics)
        if anew and self._on_data_loss == "fail":  # a reader that has nothing left may not find out
            raise made_anew(anew)
        partitions = [one for one in selection.partitions_in(topics) if one.topic in topics]
        new = found.new_in(topics, partitions)
        now = LogsNow.of(log, new)
        starts = self._start.first_offsets(now) if is_first else now.earliest
        ranges = [
            PlannedRange(OffsetRange(one.topic, one.partition, starts[one], NO_END), topics[one.topic].topic_id)
            for one in new
        ]
        if self._times.together is not None:
            self._times.together.found(ranges)
        return [RangeGroup((one,)) for one in ranges], found.with_those(topics, partitions)

    def _topics(self, log: Log, selection: TopicSelection, *, is_first: bool) -> dict[str, TopicDescription]:
        """Those that are there. One that is gone is on record by its readers; it may come back, as another one."""
        try:
            return selection.describe(log, patient=not is_first)
        except UnknownTopic:
            if is_first or self._on_data_loss == "fail":
                raise
        try:
            return log.describe([topic for topic in log.topics() if selection.reads(topic)])
        except UnknownTopic:  # the list still had one that is gone
            return {}


def _selection_of(place: Any) -> TopicSelection:
    """
    Raises:
        UnfitRow: it is neither the name of a topic nor a partition.
    """
    if isinstance(place, TopicPartition):
        return selection_of({place.topic: [place.partition]})
    if isinstance(place, str) and place:
        return selection_of([place])
    raise UnfitRow(
        f"ReadAllFromKafka takes names of topics and TopicPartition, and got a {type(place).__name__}. Make one of them of it "
        "before the read."
    )
