"""Whether the batches of a checkpoint follow each other without hole or overlap. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from beam_exactly_once.checkpoint.findings import Fault, listed
from beam_exactly_once.checkpoint.layout import commits_key, offsets_key
from beam_exactly_once.checkpoint.records import Marker, Plan, SourceCommit, SourcePlan
from beam_exactly_once.checkpoint.writer import offsets_before, topic_ids_before
from beam_exactly_once.offsets import NextOffsets, OffsetRange
from beam_exactly_once.topics import changed_ids

_FROM_COPY = "Restore it from a copy or an older version of the object"


def oldest_retained(plan_ids: Collection[int], marker_ids: Collection[int]) -> int:
    """Id of the oldest batch that retention has left whole: with its plan and its marker."""
    return min(set(plan_ids) & set(marker_ids), default=max(marker_ids, default=0))


def leftovers(plan_ids: Collection[int], marker_ids: Collection[int]) -> str | None:
    """Plans without markers, and markers without plans, below everything that is whole, as a note.

    A sweep that was interrupted leaves such, and so does a frozen writer's write that arrived after a sweep. Drivers
    look at the newest marker and above, so these do no harm.
    """
    oldest = oldest_retained(plan_ids, marker_ids)
    halves = [batch_id for batch_id in {*plan_ids, *marker_ids} if batch_id < oldest]
    if not halves:
        return None
    return (
        f"stray plan or marker of batch {listed(halves)}, below all that is retained: of an interrupted sweep or a "
        "frozen writer. Harmless; the next sweep removes it."
    )


def hole_faults(uri: str, plan_ids: Collection[int], marker_ids: Collection[int]) -> Iterator[Fault]:
    """What is missing between the oldest retained batch and the newest plan."""
    newest = max(marker_ids, default=-1)
    for first, last in _gaps(marker_ids, oldest_retained(plan_ids, marker_ids), newest):
        yield Fault(
            commits_key(first),
            f"{uri} has no marker of batch {_span(first, last)}, though batch {newest} is decided. {_FROM_COPY}. No start "
            "of this stream needs it; continue_from with this batch would.",
        )
    for first, last in _gaps(plan_ids, oldest_retained(plan_ids, marker_ids), newest):
        yield Fault(
            offsets_key(first),
            f"{uri} has no plan of batch {_span(first, last)}, though batch {newest} is decided. {_FROM_COPY}. No start "
            "of this stream needs it.",
        )
    for first, last in _gaps(plan_ids, newest + 1, max(plan_ids, default=newest)):
        yield Fault(
            offsets_key(first),
            f"{uri} has no plan of batch {_span(first, last)}, though a later one is planned: no start can go on. "
            f"{_FROM_COPY}; if there is none, start a new checkpoint_location with "
            f"continue_from=CheckpointAt({uri!r}, {newest}).",
        )


def offset_faults(
    plans: Mapping[int, Plan], markers: Mapping[int, Marker], first_offsets: Mapping[str, NextOffsets]
) -> Iterator[Fault]:
    """Where a plan does not begin where the batch before it ended, or a marker does not end where its plan does.

    Args:
        plans: the plans that could be read.
        markers: the markers that could be read.
        first_offsets: where each source began.
    """
    for batch_id, plan in sorted(plans.items()):
        if batch_id == 0 or batch_id - 1 in markers:
            before = markers[batch_id - 1].sources if batch_id else {}
            for message in _plan_faults(plan, before, first_offsets):
                yield Fault(offsets_key(batch_id), f"batch {batch_id}: {message} {_FROM_COPY}.")
        if batch_id in markers:
            for message in _marker_faults(plan, markers[batch_id]):
                yield Fault(commits_key(batch_id), f"batch {batch_id}: {message} {_FROM_COPY}.")


def _plan_faults(
    plan: Plan, before: Mapping[str, SourceCommit], first_offsets: Mapping[str, NextOffsets]
) -> Iterator[str]:
    for name in sorted(before.keys() - plan.sources.keys()):
        yield f"source {name!r} is not planned any more, so its place is lost."
    for name, source in sorted(plan.sources.items()):
        stood_at = before[name].next_offsets if name in before else first_offsets.get(name, {})
        begins_at = offsets_before(source)
        for partition, next_offset in sorted(stood_at.items()):
            if partition not in begins_at:
                yield f"source {name!r} does not know partition {partition} any more, which stood at {next_offset}."
            elif begins_at[partition] != next_offset:
                yield (
                    f"source {name!r} goes on in partition {partition} at {begins_at[partition]}, not at {next_offset} "
                    f"where it stood: {abs(begins_at[partition] - next_offset)} offsets are "
                    f"{'left out' if begins_at[partition] > next_offset else 'read twice'}."
                )
        stood_in, begins_in = before[name].topic_ids if name in before else {}, topic_ids_before(source)
        for topic in changed_ids(stood_in, begins_in):
            yield (
                f"source {name!r} goes on in topic {topic} with id {begins_in[topic]}, not with id {stood_in[topic]} where it "
                "stood: its offsets are another topic's."
            )
        reached_ms = _watermark_of(before.get(name))
        if reached_ms is not None and source.watermark_ms is not None and source.watermark_ms < reached_ms:
            yield (
                f"source {name!r} has the watermark {source.watermark_ms}, and had {reached_ms} in the batch before: its time "
                "would go back."
            )
        for planned in _ends_elsewhere(source):
            yield (
                f"source {name!r} reads {planned}, but the next batch goes on at "
                f"{source.next_offsets.get(planned.topic_partition)}."
            )


def _watermark_of(committed: SourceCommit | None) -> int | None:
    return None if committed is None or committed.event_time is None else committed.event_time.watermark_ms


def _ends_elsewhere(source: SourcePlan) -> list[OffsetRange]:
    last = {planned.topic_partition: planned for planned in sorted(source.ranges)}
    return [planned for one, planned in last.items() if source.next_offsets.get(one) != planned.stop]


def _marker_faults(plan: Plan, marker: Marker) -> Iterator[str]:
    if marker.attempt.batch_id != marker.batch_id:
        yield f"its marker names an attempt of batch {marker.attempt.batch_id}."
    for name in sorted(plan.sources.keys() ^ marker.sources.keys()):
        yield f"source {name!r} is in its {'plan' if name in plan.sources else 'marker'} alone."
    for name in sorted(plan.sources.keys() & marker.sources.keys()):
        source, committed = plan.sources[name], marker.sources[name]
        expected = offsets_before(source) if marker.outcome == "abandoned" else source.next_offsets
        for partition in sorted(expected.keys() | committed.next_offsets.keys()):
            found, wanted = committed.next_offsets.get(partition), expected.get(partition)
            if found != wanted:
                yield (
                    f"its marker ({marker.outcome}) says that source {name!r} stands at {found} in partition {partition}, "
                    f"its plan says {wanted}."
                )
        ids = topic_ids_before(source) if marker.outcome == "abandoned" else source.topic_ids
        for topic in changed_ids(ids, committed.topic_ids):
            yield (
                f"its marker says that source {name!r} stands in topic {topic} with id {committed.topic_ids[topic]}, its plan "
                f"says {ids[topic]}."
            )
        reached_ms = _watermark_of(committed)
        if (
            marker.outcome == "committed"
            and None not in (reached_ms, source.watermark_ms)
            and reached_ms != source.watermark_ms
        ):
            yield f"its marker says that source {name!r} has the watermark {reached_ms}, its plan says {source.watermark_ms}."
        recorded = () if marker.outcome == "abandoned" else source.lost
        for lost in sorted(set(recorded) - set(committed.lost)):
            yield f"its marker does not record {lost} of source {name!r} as lost, its plan does."


def _gaps(present: Collection[int], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Spans of numbers in ``[first, last]`` that are not ``present``."""
    expected = first
    for number in [*sorted(number for number in present if first <= number <= last), last + 1]:
        if number > expected:
            yield expected, number - 1
        expected = number + 1


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"
