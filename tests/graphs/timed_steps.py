"""DoFns with state and timers. Workers in other processes find them here by their names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Timestamp

# ruff: noqa: B008 (Beam reads parameters from defaults)

Pair = tuple[int, int]
END_OF_INPUT = GlobalWindow().max_timestamp()


def same_key(value: int) -> Pair:
    return 0, value


def own_key(value: int) -> Pair:
    return value, value


class SumAtTheEnd(beam.DoFn):
    """One sum a key, when there is no more of it."""

    HELD = BagStateSpec("held", VarIntCoder())
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def process(self, pair: Pair, held: Any = beam.DoFn.StateParam(HELD), end: Any = beam.DoFn.TimerParam(END)) -> None:
        held.add(pair[1])
        end.set(END_OF_INPUT)

    @on_timer(END)
    def on_end(self, held: Any = beam.DoFn.StateParam(HELD)) -> Iterator[int]:
        yield sum(held.read())
        held.clear()


class Alarms(beam.DoFn):
    """Sets timers at 3, 1 and 2, of which the first clears the last one. At the end: which fired, as digits in order."""

    FIRED = BagStateSpec("fired", VarIntCoder())
    ALARM = TimerSpec("alarm", TimeDomain.WATERMARK)
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def process(
        self, pair: Pair, alarm: Any = beam.DoFn.TimerParam(ALARM), end: Any = beam.DoFn.TimerParam(END)
    ) -> None:
        end.set(END_OF_INPUT)
        for at in (3, 1, 2):
            alarm.set(Timestamp(at), dynamic_timer_tag=str(at))

    @on_timer(ALARM)
    def on_alarm(
        self,
        tag: str = beam.DoFn.DynamicTimerTagParam,
        alarm: Any = beam.DoFn.TimerParam(ALARM),
        fired: Any = beam.DoFn.StateParam(FIRED),
    ) -> None:
        fired.add(int(tag))
        if tag == "1":
            alarm.clear(dynamic_timer_tag="3")

    @on_timer(END)
    def on_end(self, fired: Any = beam.DoFn.StateParam(FIRED)) -> Iterator[int]:
        yield int("".join(map(str, fired.read())))


class Renewed(beam.DoFn):
    """A timer that sets itself again, so many times; each time it counts."""

    COUNT = ReadModifyWriteStateSpec("count", VarIntCoder())
    AGAIN = TimerSpec("again", TimeDomain.WATERMARK)

    def __init__(self, times: int) -> None:
        self._times = times

    def process(self, pair: Pair, again: Any = beam.DoFn.TimerParam(AGAIN)) -> None:
        again.set(Timestamp(1))

    @on_timer(AGAIN)
    def on_again(
        self, count: Any = beam.DoFn.StateParam(COUNT), again: Any = beam.DoFn.TimerParam(AGAIN)
    ) -> Iterator[int]:
        counted = (count.read() or 0) + 1
        count.write(counted)
        if counted < self._times:
            again.set(Timestamp(1 + counted))
        else:
            yield counted


class FirstOfTwo(beam.DoFn):
    """Whichever timer fires first tells, and clears the other: 1 in event time, 2 in processing time."""

    EVENT = TimerSpec("event", TimeDomain.WATERMARK)
    PROCESSING = TimerSpec("processing", TimeDomain.REAL_TIME)

    def process(
        self, pair: Pair, processing: Any = beam.DoFn.TimerParam(PROCESSING), event: Any = beam.DoFn.TimerParam(EVENT)
    ) -> None:
        processing.set(MAX_TIMESTAMP)
        event.set(END_OF_INPUT)

    @on_timer(EVENT)
    def on_event(self, processing: Any = beam.DoFn.TimerParam(PROCESSING)) -> Iterator[int]:
        processing.clear()
        yield 1

    @on_timer(PROCESSING)
    def on_processing(self, event: Any = beam.DoFn.TimerParam(EVENT)) -> Iterator[int]:
        event.clear()
        yield 2


class NotForOddOnes(beam.DoFn):
    """A timer of each key, which is cleared for odd ones in the call that sets it."""

    LATER = TimerSpec("later", TimeDomain.WATERMARK)

    def process(self, pair: Pair, later: Any = beam.DoFn.TimerParam(LATER)) -> None:
        later.set(Timestamp(5))
        if pair[1] % 2:
            later.clear()

    @on_timer(LATER)
    def on_later(self, key: int = beam.DoFn.KeyParam) -> Iterator[int]:
        yield key
