"""The watermark of a source's next batch: what partitions have shown so far, and which of them are waited for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from beam_exactly_once.checkpoint.source_times import PartitionTimes, SourceTimes
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.planning.event_time import EventTime


class Watermark(NamedTuple):
    """How far the time of a source has come, and the partition that keeps it from coming further; None if none does."""

    at_ms: int | None
    held_by: TopicPartition | None


def quiet_partitions(
    times: SourceTimes, partitions: Iterable[TopicPartition], event_time: EventTime, planned_at_ms: int
) -> list[TopicPartition]:
    """Those that had no record for so long that they are idle, if all of them is read.

    Args:
        times: behind the batch before.
        partitions: of the source.
        event_time: of the source.
        planned_at_ms: when the batch is planned.
    """
    if event_time.idle_s is None:
        return []
    latest_ms = planned_at_ms - int(event_time.idle_s * 1000)
    return [one for one in partitions if one in times.partitions and times.partitions[one].seen_at_ms <= latest_ms]


def next_watermark(
    times: SourceTimes, partitions: Iterable[TopicPartition], idle: Collection[TopicPartition], event_time: EventTime
) -> Watermark:
    """The watermark of a batch.

    It is the least of the partitions that are not idle; where all are, the largest of theirs, so that it does not depend on who
    went idle first. One that had no record yet holds it where it is. It never falls below that of the batch before, whatever
    joins or is set otherwise.

    Args:
        times: behind the batch before.
        partitions: that the source reads now. Others, and topics that are gone, are not waited for.
        idle: those of them that are not waited for.
        event_time: of the source.
    """
    shown = {one: times.partitions.get(one, PartitionTimes(None, 0)).max_ms for one in sorted(partitions)}
    waited_for = [one for one in shown if one not in idle]
    held_by = min(waited_for, key=lambda one: _or_before_all(shown[one]), default=None)
    if held_by is None:
        latest_ms = max((at_ms for at_ms in shown.values() if at_ms is not None), default=None)
    else:
        latest_ms = shown[held_by]
    reached_ms = None if latest_ms is None else latest_ms - int(event_time.out_of_order_s * 1000)
    at_ms = max((one for one in (reached_ms, times.watermark_ms) if one is not None), default=None)
    return Watermark(at_ms, held_by)


def _or_before_all(at_ms: int | None) -> tuple[bool, int]:
    return (at_ms is not None, at_ms or 0)
