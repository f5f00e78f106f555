"""Time that goes back, between the plans and markers of a checkpoint."""

from __future__ import annotations

import pytest

from beam_exactly_once import TopicPartition
from beam_exactly_once.checkpoint import Attempt, Marker, Plan, SourceCommit, SourcePlan
from beam_exactly_once.checkpoint.continuity import offset_faults
from beam_exactly_once.checkpoint.source_times import SourceTimes

P0 = TopicPartition("orders", 0)


def faults(planned_ms: int | None, committed_ms: int | None, before_ms: int | None) -> list[str]:
    """Of batch 1, behind a batch that had the watermark ``before_ms``."""
    plan = Plan(1, 1, 0, {"kafka": SourcePlan((), (), {P0: 5}, watermark_ms=planned_ms)})
    markers = {
        batch_id: Marker(
            batch_id,
            "committed",
            Attempt(1, batch_id, "a"),
            {"kafka": SourceCommit({P0: 5}, (), 0, 0, event_time=SourceTimes({}, watermark_ms))},
            {},
            0,
        )
        for batch_id, watermark_ms in enumerate([before_ms, committed_ms])
    }
    return [fault.message for fault in offset_faults({1: plan}, markers, {})]


@pytest.mark.parametrize("times", [(None, None, None), (7, 7, None), (7, 7, 7), (9, 9, 7), (None, 7, 7)])
def test_time_that_goes_on_or_stands_is_no_fault(times: tuple[int | None, int | None, int | None]) -> None:
    assert faults(*times) == []


def test_a_watermark_that_falls_is_a_fault() -> None:
    (fault,) = faults(6, 6, 7)
    assert "source 'kafka' has the watermark 6, and had 7 in the batch before: its time would go back." in fault


def test_a_marker_that_has_another_watermark_than_its_plan_is_a_fault() -> None:
    (fault,) = faults(9, 8, 7)
    assert "its marker says that source 'kafka' has the watermark 8, its plan says 9." in fault
