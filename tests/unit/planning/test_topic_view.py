"""A log that is shorter than what was read of it: a broker that answers late is asked again, one that insists is believed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from beam_exactly_once.kafka import KafkaSettings, Record, open_kafka_log, selection_of
from beam_exactly_once.logs import Log
from beam_exactly_once.offsets import LogBounds, TopicPartition
from beam_exactly_once.planning import BatchLimits
from beam_exactly_once.planning.source import LogSource
from beam_exactly_once.planning.start import FromEarliest
from beam_exactly_once.planning.topic_view import SHORTER_DOUBT_S, TopicView
from beam_exactly_once.testing import MemoryKafka
from support.faulty_store import ManualClock

PLACE = TopicPartition("orders", 0)
SETTINGS = KafkaSettings("in-memory:9092")
SOURCE = LogSource("kafka", SETTINGS, selection_of(["orders"], None), FromEarliest(), BatchLimits(), "skip")


class Deposed:
    """A leader that lacks the last record, for so many answers; after them the new one answers.

    Who asks what open transactions hide, too, gets so many answers of it.
    """

    def __init__(self, log: Log, answers: int, answers_of_ends: int) -> None:
        self._log = log
        self.answers = answers
        self.answers_of_ends = answers_of_ends

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, LogBounds]:
        found = self._log.bounds(partitions)
        if self.answers:
            self.answers -= 1
            found = {place: LogBounds(log.earliest, log.latest - 1) for place, log in found.items()}
        return found

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        found = self._log.ends(partitions)
        if self.answers_of_ends:
            self.answers_of_ends -= 1
            found = {place: end - 1 for place, end in found.items()}
        return found


def end_after(answers: int, answers_of_ends: int = 0) -> tuple[int, ManualClock]:
    """The end that is believed of a log of three records, which were all read, and the time that it took."""
    kafka, clock = MemoryKafka({"orders": 1}), ManualClock()
    kafka.append(Record("orders", value=b"x") for _ in range(3))
    with kafka.serving():
        log = Deposed(open_kafka_log(SETTINGS), answers, answers_of_ends)
    view = TopicView(SOURCE, log, clock, may_wait=False)  # type: ignore[arg-type]
    view.look_for_the_end_of({PLACE: 3})
    return view.bounds[PLACE].latest, clock


def test_a_log_that_holds_all_that_was_read_is_not_doubted() -> None:
    end, clock = end_after(0)
    assert (end, clock.now_s) == (3, 0)


def test_a_deposed_leader_is_not_believed() -> None:
    end, clock = end_after(3, 1000)
    assert end == 3
    assert 0 < clock.now_s < SHORTER_DOUBT_S


def test_a_log_that_stays_shorter_is_believed() -> None:
    end, clock = end_after(1000, 1000)
    assert end == 2
    assert clock.now_s == pytest.approx(SHORTER_DOUBT_S, abs=0.5)


def test_open_transactions_hold_what_was_read() -> None:
    """Who reads committed records only sees the end before them; another reader sees all."""
    end, clock = end_after(1000, 0)
    assert (end, clock.now_s) == (3, 0)
