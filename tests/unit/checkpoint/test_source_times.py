"""What a marker remembers of the times of a source's records."""

from __future__ import annotations

import orjson
import pytest

from beam_exactly_once.checkpoint import Attempt, Plan, SourcePlan, marker_of_attempt
from beam_exactly_once.checkpoint.records import Marker, Outcome
from beam_exactly_once.checkpoint.source_times import (
    NotedTimes,
    PartitionTimes,
    SourceTimes,
    noted_from_json,
    noted_to_json,
    together,
)
from beam_exactly_once.checkpoint.writer import marker_of_resolution
from beam_exactly_once.topics import ReplacedTopic
from support.checkpoints import NOW, P0, P1

BEFORE = SourceTimes({P0: PartitionTimes(100, 5), P1: PartitionTimes(None, 5)}, 90, 2)


def test_a_batch_moves_what_it_has_records_of() -> None:
    noted = {P0: NotedTimes(80, 1), P1: NotedTimes(None, 3)}
    after = BEFORE.behind({P0: 1, P1: 1}, (), 20, 95, noted)
    assert after == SourceTimes({P0: PartitionTimes(100, 20), P1: PartitionTimes(None, 5)}, 95, 6)


def test_a_clock_that_went_back_takes_nothing_away() -> None:
    after = BEFORE.behind({P0: 1}, (), 3, 80, {P0: NotedTimes(101)})
    assert after == SourceTimes({P0: PartitionTimes(101, 5)}, 90, 2)


def test_a_partition_is_known_from_its_first_batch_on_and_forgotten_with_its_topic() -> None:
    assert SourceTimes().behind({P0: 0}, (), 7, None, {}) == SourceTimes({P0: PartitionTimes(None, 7)})
    assert BEFORE.behind({P0: 0}, [P0.topic], 7, None, {}) == SourceTimes({P0: PartitionTimes(None, 7)}, 90, 2)


def test_notes_of_several_places_are_put_together() -> None:
    noted = together([{P0: NotedTimes(5)}, {P0: NotedTimes(3, 1), P1: NotedTimes(None, 1)}, {P0: NotedTimes(None, 1)}])
    assert noted == {P0: NotedTimes(5, 2), P1: NotedTimes(None, 1)}
    assert noted_from_json(orjson.loads(orjson.dumps(noted_to_json(noted)))) == noted


def marker(outcome: Outcome, source: SourcePlan) -> Marker:
    plan = Plan(3, 1, 20, {"kafka": source})
    if outcome == "committed":
        noted = {"kafka": {P0: NotedTimes(120)}}
        return marker_of_attempt(plan, Attempt(1, 3, "a"), (), {}, NOW, times={"kafka": BEFORE}, noted=noted)
    return marker_of_resolution(plan, Attempt(1, 3, "a"), outcome, NOW, {"kafka": BEFORE})


def times_behind(outcome: Outcome, source: SourcePlan) -> SourceTimes:
    stored = orjson.loads(orjson.dumps(marker(outcome, source).to_json()))
    found = Marker.from_json(stored).sources["kafka"].event_time
    assert found is not None
    return found


def test_only_a_batch_that_is_committed_moves_it() -> None:
    source = SourcePlan((), (), {P0: 4, P1: 0}, watermark_ms=99)
    assert times_behind("skipped", source) == BEFORE
    assert times_behind("abandoned", source) == BEFORE
    committed = SourceTimes({P0: PartitionTimes(120, 20), P1: PartitionTimes(None, 5)}, 99, 2)
    assert times_behind("committed", source) == committed


def test_times_are_of_the_topics_that_the_offsets_are_of() -> None:
    replaced = {"orders": ReplacedTopic("old", {0: 4, 1: 0})}
    source = SourcePlan((), (), {P0: 0}, {"orders": "new"}, replaced, watermark_ms=99)
    assert times_behind("committed", source).partitions == {P0: PartitionTimes(120, 20)}
    assert times_behind("skipped", source).partitions == {}
    assert times_behind("abandoned", source) == BEFORE


@pytest.mark.parametrize("outcome", ["committed", "skipped", "abandoned"])
def test_a_plan_of_an_older_version_means_the_watermark_of_the_marker(outcome: Outcome) -> None:
    assert times_behind(outcome, SourcePlan((), (), {P0: 4, P1: 0})).watermark_ms == 90


def test_a_plan_keeps_the_watermark_and_what_holds_it() -> None:
    plan = Plan(3, 1, 20, {"kafka": SourcePlan((), (), {P0: 4}, watermark_ms=99, held_by=P0)})
    assert Plan.from_json(orjson.loads(orjson.dumps(plan.to_json()))) == plan


def test_what_has_no_event_time_stores_nothing_of_it() -> None:
    plan = Plan(3, 1, 20, {"kafka": SourcePlan((), (), {P0: 4})})
    committed = marker_of_attempt(plan, Attempt(1, 3, "a"), (), {}, NOW)
    passed = marker_of_resolution(plan, Attempt(1, 3, "a"), "skipped", NOW)
    assert not {"watermark_ms", "held_by"} & plan.sources["kafka"].to_json().keys()
    assert all("event_time" not in one.sources["kafka"].to_json() for one in (committed, passed))
