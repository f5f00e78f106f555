"""Which offsets the next batch reads: next offsets + bounds + limits -> ranges.

Everything here is pure and deterministic, but for what a caller counts: no log, no store, no clock. Two drivers with the same
arguments make the same plan, and the plan says all that it decided: what to read, what the log had already lost, and where
each partition stands after it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from beam_exactly_once.errors import DataLoss
from beam_exactly_once.offsets import LogBounds, NextOffsets, OffsetRange, TopicPartition
from beam_exactly_once.planning.limits import BatchLimits
from beam_exactly_once.topics import OnDataLoss

_MAX_NAMED = 10
"""Partitions that an error names before it only counts: enough to see the pattern, short enough to read."""


CountAhead: TypeAlias = Callable[[Sequence[OffsetRange]], Mapping[TopicPartition, int]]
"""How many offsets from the start of each of these ranges hold few enough bytes, whatever the average says."""


@dataclass(frozen=True, slots=True)
class PlannedRanges:
    """What one batch of one source reads, and where the source stands after it.

    Attributes:
        ranges: what to read: not empty, sorted, at most one a partition.
        lost: offsets that were not read and that the log no longer has; sorted. Empty when loss is an error.
        next_offsets: of every known partition after the batch. Partitions that are not read stand where they stood.
    """

    ranges: tuple[OffsetRange, ...]
    lost: tuple[OffsetRange, ...]
    next_offsets: NextOffsets


def plan_ranges(
    next_offsets: NextOffsets,
    bounds: Mapping[TopicPartition, LogBounds],
    limits: BatchLimits,
    *,
    average_record_bytes: float,
    waited_s: float,
    count_ahead: CountAhead | None = None,
    until: Mapping[TopicPartition, int] | None = None,
    topics_without_id: Collection[str] = (),
    on_data_loss: OnDataLoss = "fail",
) -> PlannedRanges:
    """Choose what the next batch reads.

    The limit is shared in proportion to how far each partition lags, at least one offset each. A limit below
    the number of lagging partitions goes round: one offset each, to the next ones in turn at every batch.

    Args:
        next_offsets: where the source stands.
        bounds: of every partition to read. One that is not in ``next_offsets`` is new: it is read from its earliest.
        limits: of this source.
        average_record_bytes: of what was read before; turns ``limits.max_batch_bytes`` into offsets. 0 if nothing is
            known: then ``max_batch_bytes`` does not limit.
        count_ahead: asked for more than the limits let through, once, and only where they hold something back of a batch that
            is due: it may read what it counts.
        waited_s: seconds since the source's last batch was planned.
        until: where to stop in each partition; nothing is read of those that are not in it. It says nothing of loss: another
            driver may have read further. None: read what is there.
        topics_without_id: topics of which nobody knows whether they were recreated. Where the log of one of them ends below
            its next offset, reading goes on at its earliest. Of any other topic it goes on at its end.
        on_data_loss: ``"skip"`` goes on behind what the log no longer has, and names it in ``lost``.

    Raises:
        DataLoss: offsets that were not read are gone from the log. Names each partition, how many, and the way out.
    """
    lost, losses = _find_loss(next_offsets, bounds)
    if losses and on_data_loss == "fail":
        raise DataLoss(
            f"the log no longer has offsets that were not read: {listed(losses)}. To go on without them, "
            'set on_data_loss="skip": they are then recorded as lost. To start over, use a new checkpoint_location.'
        )
    positions = {
        one: log.position(next_offsets.get(one), may_be_another=one.topic in topics_without_id)
        for one, log in bounds.items()
        if until is None or one in until or one in next_offsets
    }
    ends = {
        one: bounds[one].latest if until is None else min(bounds[one].latest, until.get(one, position))
        for one, position in positions.items()
    }
    takes = _takes(positions, ends, limits, average_record_bytes, waited_s)
    if count_ahead is not None and any(take < ends[one] - positions[one] for one, take in takes.items()):
        left = [OffsetRange(one.topic, one.partition, positions[one], ends[one]) for one in sorted(takes)]
        for one, offsets in count_ahead(left).items():
            takes[one] = max(takes[one], min(offsets, ends[one] - positions[one]))
    ranges = tuple(
        OffsetRange(one.topic, one.partition, positions[one], positions[one] + take)
        for one, take in sorted(takes.items())
        if take
    )
    after = {**next_offsets, **positions, **{planned.topic_partition: planned.stop for planned in ranges}}
    return PlannedRanges(ranges, tuple(lost), after)


def _find_loss(
    next_offsets: NextOffsets, bounds: Mapping[TopicPartition, LogBounds]
) -> tuple[list[OffsetRange], list[str]]:
    """Offsets that should be read next and that the log no longer has, as ranges and for people."""
    topics = {topic_partition.topic for topic_partition in bounds}
    ranges: list[OffsetRange] = []
    sentences: list[str] = []
    for one, next_offset in sorted(next_offsets.items()):
        log = bounds.get(one)
        if log is None:
            # A topic that is not read at all any more is the user's choice; a hole in one that is read is not.
            if one.topic in topics:
                sentences.append(f"partition {one}, next offset {next_offset}, is no longer among those read")
        elif next_offset < log.earliest:
            ranges.append(OffsetRange(one.topic, one.partition, next_offset, log.earliest))
            sentences.append(f"partition {one} lost {ranges[-1].size} offsets, [{next_offset}, {log.earliest})")
        elif next_offset > log.latest:
            ranges.append(OffsetRange(one.topic, one.partition, log.latest, next_offset))
            sentences.append(
                f"partition {one} ends at {log.latest}, {ranges[-1].size} offsets below the next offset {next_offset} "
                "(the log was truncated, or the topic recreated, or an isolation_level of read_committed is new and a "
                "transaction is open)"
            )
    return ranges, sentences


def _takes(
    positions: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    limits: BatchLimits,
    average_record_bytes: float,
    waited_s: float,
) -> dict[TopicPartition, int]:
    """How many offsets to read of each lagging partition."""
    lags = {one: end - positions[one] for one, end in sorted(ends.items()) if end > positions[one]}
    available = sum(lags.values())
    if available < (limits.min_batch_offsets or 0) and waited_s < (limits.max_batch_delay_s or 0):
        return {}
    limit = available if limits.max_batch_offsets is None else min(available, limits.max_batch_offsets)
    if limits.max_batch_bytes is not None and average_record_bytes > 0:
        limit = min(limit, max(1, int(limits.max_batch_bytes / average_record_bytes)))
    if limit < len(lags):
        return _one_each(lags, limit, turn=sum(positions.values()))
    return _in_proportion(lags, limit)


def _one_each(lags: Mapping[TopicPartition, int], limit: int, turn: int) -> dict[TopicPartition, int]:
    """One offset of each of ``limit`` partitions.

    ``turn`` is the sum of all positions. Every such batch raises it by ``limit``, so the next batch goes on behind
    the partitions of this one: nobody starves, and nothing besides the positions need be remembered.
    """
    in_order = list(lags)
    return {in_order[(turn + step) % len(in_order)]: 1 for step in range(limit)}


def _in_proportion(lags: Mapping[TopicPartition, int], limit: int) -> dict[TopicPartition, int]:
    """Share ``limit``, at least ``len(lags)`` and at most the sum of ``lags``: one each, the rest by largest remainder.

    In whole numbers throughout: offsets exceed what a float holds exactly.
    """
    spare = limit - len(lags)
    beyond_first = sum(lags.values()) - len(lags)
    if spare == beyond_first:
        return dict(lags)
    takes: dict[TopicPartition, int] = {}
    remainders: dict[TopicPartition, int] = {}
    for one, lagging in lags.items():
        quotient, remainders[one] = divmod(spare * (lagging - 1), beyond_first)
        takes[one] = 1 + quotient
    # The sort is stable and `lags` is in the order of partitions: ties fall to the first.
    by_remainder = sorted(remainders, key=lambda one: remainders[one], reverse=True)
    for one in by_remainder[: limit - sum(takes.values())]:
        takes[one] += 1
    return takes


def listed(sentences: Sequence[str]) -> str:
    """The first of them, on one line, since a runner's text of an error keeps only the first."""
    more = f"; and {len(sentences) - _MAX_NAMED} more" if len(sentences) > _MAX_NAMED else ""
    return "; ".join(sentences[:_MAX_NAMED]) + more
