"""The records: every one survives its JSON; markers are made of what was read, or not at all."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.checkpoint import (
    Attempt,
    Marker,
    Piece,
    Plan,
    SourceCommit,
    SourcePlan,
    marker_of_attempt,
    marker_of_resolution,
)
from beam_exactly_once.checkpoint.records import WriterClaim
from beam_exactly_once.checkpoint.writer import offsets_before, topic_ids_before
from beam_exactly_once.errors import IncompleteBatch
from beam_exactly_once.offsets import OffsetRange, TopicPartition
from beam_exactly_once.topics import ReplacedTopic
from support import checkpoints
from support.checkpoints import NOW, P0, P1, orders, repeatable


def through_json(record: Any) -> Any:
    return type(record).from_json(orjson.loads(orjson.dumps(record.to_json())))


@repeatable
@given(checkpoints.plans)
def test_a_plan_survives(plan: Plan) -> None:
    assert through_json(plan) == plan


@repeatable
@given(checkpoints.markers)
def test_a_marker_survives(marker: Marker) -> None:
    assert through_json(marker) == marker


@repeatable
@given(st.one_of(checkpoints.attempts, checkpoints.writer_claims, checkpoints.pieces))
def test_the_small_ones_survive(record: Attempt | WriterClaim | Piece) -> None:
    assert through_json(record) == record


def test_unknown_fields_are_let_through() -> None:
    stored = checkpoints.marker(3).to_json()
    stored["from_the_future"] = 1
    stored["sources"]["kafka"]["from_the_future"] = 1
    assert Marker.from_json(stored) == checkpoints.marker(3)


def test_the_stored_form_of_a_plan() -> None:
    assert checkpoints.plan(1).to_json() == {
        "batch_id": 1,
        "writer_epoch": 1,
        "planned_at_ms": NOW,
        "sources": {
            "kafka": {
                "ranges": {"orders": {"0": [[10, 20]]}},
                "lost": {},
                "next_offsets": {"orders": {"0": 20}},
                "topic_ids": {},
                "replaced": {},
                "isolation_level": None,
            }
        },
        "graph": {},
    }


def test_topic_ids_and_isolation_level_come_back() -> None:
    plan, marker = checkpoints.plan(1), checkpoints.marker(1)
    of_topic = {
        "topic_ids": {"orders": "new", "payments": "same"},
        "replaced": {"orders": ReplacedTopic("old", {0: 7, 11: 9})},
        "isolation_level": "read_committed",
    }
    planned = replace(plan, sources={"kafka": replace(plan.sources["kafka"], **of_topic)})
    committed = replace(marker.sources["kafka"], topic_ids={"orders": "new"})
    assert through_json(planned) == planned
    assert through_json(replace(marker, sources={"kafka": committed})).sources == {"kafka": committed}


def test_the_stored_form_of_a_marker() -> None:
    marker = replace(checkpoints.marker(1), records_rejected={"decode": 3})
    assert marker.to_json() == {
        "batch_id": 1,
        "outcome": "committed",
        "attempt": {"writer_epoch": 1, "batch_id": 1, "nonce": "a"},
        "sources": {
            "kafka": {
                "next_offsets": {"orders": {"0": 20}},
                "lost": {},
                "records_read": 10,
                "bytes_read": 100,
                "topic_ids": {},
            }
        },
        "committables": {"files": [{"final_key": "part-1-a", "rows": 10, "size_bytes": 100}]},
        "committed_at_ms": NOW,
        "predecessor": None,
        "shards": {},
        "plan_digest": "",
        "state": {},
        "records_read": 10,
        "bytes_read": 100,
        "rows_written": {"files": 10},
        "records_rejected": {"decode": 3},
        "offsets_lost": {"kafka": 0},
    }


# -- the marker of an attempt ------------------------------------------------------------------------------------------

ATTEMPT = Attempt(4, 7, "nonce")
PLAN = Plan(
    7,
    4,
    NOW,
    {
        "kafka": SourcePlan((orders(0, 0, 10), orders(1, 5, 8)), (orders(1, 3, 5),), {P0: 10, P1: 8}),
        "audit": SourcePlan((), (), {P0: 2}),
    },
)


def piece(partition: int, start: int, stop: int, source: str = "kafka", *lost: OffsetRange) -> Piece:
    return Piece(source, orders(partition, start, stop), stop - start, 100, lost)


WHOLE = [piece(0, 0, 4), piece(1, 5, 8), piece(0, 4, 10)]


def test_pieces_that_tile_the_plan() -> None:
    staged = {"files": ({"rows": 13, "final_key": "part"},)}
    assert marker_of_attempt(PLAN, ATTEMPT, WHOLE, staged, NOW) == Marker(
        7,
        "committed",
        ATTEMPT,
        {
            "kafka": SourceCommit({P0: 10, P1: 8}, (orders(1, 3, 5),), 13, 300),
            "audit": SourceCommit({P0: 2}, (), 0, 0),
        },
        staged,
        NOW,
        plan_digest=PLAN.digest,
    )


def test_a_plan_of_another_version_keeps_its_digest_on_the_way_to_workers() -> None:
    stored = {**PLAN.to_json(), "a_field_of_later": [1, 2]}
    plan = Plan.from_json(stored)
    sent = Plan.from_json(orjson.loads(orjson.dumps(plan.to_json())))

    assert sent == plan == PLAN
    assert sent.digest == plan.digest != PLAN.digest
    assert replace(plan, writer_epoch=5).digest == replace(PLAN, writer_epoch=5).digest


def test_every_plan_has_a_digest_of_its_own() -> None:
    """Also one of the same batch that a driver made from an older copy of the checkpoint: it was made at another time."""
    later = replace(PLAN, planned_at_ms=NOW + 1)
    other = replace(PLAN, sources={**PLAN.sources, "audit": SourcePlan((), (), {P0: 3})})
    assert len({PLAN.digest, later.digest, other.digest, replace(PLAN, writer_epoch=5).digest}) == 4
    assert Plan.from_json(orjson.loads(orjson.dumps(PLAN.to_json()))).digest == PLAN.digest


def test_what_kafka_lost_after_the_planning_is_recorded_once() -> None:
    pieces = [piece(0, 0, 4, "kafka", orders(0, 0, 2)), piece(0, 4, 10), piece(1, 5, 8)]
    commit = marker_of_attempt(PLAN, ATTEMPT, pieces, {}, NOW).sources["kafka"]
    assert commit.lost == (orders(0, 0, 2), orders(1, 3, 5))


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        (WHOLE[:2], r"source 'kafka': orders-0\[4, 10\) was not read"),
        ([], r"source 'kafka': orders-0\[0, 10\) was not read; source 'kafka': orders-1\[5, 8\) was not read"),
        ([*WHOLE, WHOLE[1]], r"source 'kafka': orders-1\[5, 8\) was read 2 times"),
        (
            [*WHOLE, piece(0, 9, 12)],
            r"orders-0\[9, 10\) was read 2 times; .*orders-0\[10, 12\) was read but not planned",
        ),
        ([*WHOLE, piece(2, 0, 1)], r"orders-2\[0, 1\) was read but not planned"),
        ([*WHOLE, piece(0, 0, 1, "other")], "source 'other' is not in the plan"),
        ([*WHOLE, piece(0, 0, 1, "audit")], r"source 'audit': orders-0\[0, 1\) was read but not planned"),
    ],
)
def test_lost_doubled_and_foreign_pieces_commit_nothing(pieces: list[Piece], fault: str) -> None:
    with pytest.raises(IncompleteBatch, match=f"batch 7 was not committed, .*{fault}"):
        marker_of_attempt(PLAN, ATTEMPT, pieces, {}, NOW)


def test_a_message_names_five_faults_and_counts_the_rest() -> None:
    stray = [piece(partition, 0, 1) for partition in range(2, 10)]
    with pytest.raises(IncompleteBatch, match="and 3 more"):
        marker_of_attempt(PLAN, ATTEMPT, [*WHOLE, *stray], {}, NOW)


@repeatable
@given(st.lists(st.integers(0, 10), max_size=6), st.data())
def test_any_cut_tiles_and_any_cut_with_a_piece_less_does_not(cuts: list[int], data: st.DataObject) -> None:
    edges = sorted({0, 10, *cuts})
    pieces = [piece(0, start, stop) for start, stop in pairwise(edges)]
    pieces = data.draw(st.permutations([*pieces, piece(1, 5, 8)]))
    assert marker_of_attempt(PLAN, ATTEMPT, pieces, {}, NOW).records_read == 13
    missing = data.draw(st.sampled_from(pieces))
    with pytest.raises(IncompleteBatch):
        marker_of_attempt(PLAN, ATTEMPT, [one for one in pieces if one is not missing], {}, NOW)


# -- the marker of a resolution ----------------------------------------------------------------------------------------


def test_a_skipped_batch_goes_on_behind_it_and_records_all_of_it_as_lost() -> None:
    marker = marker_of_resolution(PLAN, ATTEMPT, "skipped", NOW)
    assert (marker.batch_id, marker.outcome, marker.attempt, marker.committables) == (7, "skipped", ATTEMPT, {})
    assert marker.sources["kafka"].next_offsets == {P0: 10, P1: 8}
    assert set(marker.sources["kafka"].lost) == {orders(0, 0, 10), orders(1, 5, 8), orders(1, 3, 5)}
    assert marker.offsets_lost == {"audit": 0, "kafka": 15}


def test_an_abandoned_batch_gives_its_offsets_back() -> None:
    marker = marker_of_resolution(PLAN, ATTEMPT, "abandoned", NOW)
    assert marker.outcome == "abandoned"
    assert marker.sources["kafka"] == SourceCommit({P0: 0, P1: 3}, (), 0, 0)
    assert marker.sources["audit"] == SourceCommit({P0: 2}, (), 0, 0)


@pytest.mark.parametrize(
    ("ranges", "lost", "next_offsets", "before"),
    [
        ((), (), {P0: 7}, {P0: 7}),
        ((orders(0, 3, 7),), (), {P0: 7, P1: 9}, {P0: 3, P1: 9}),
        ((orders(0, 3, 5), orders(0, 5, 7)), (), {P0: 7}, {P0: 3}),
        ((orders(0, 5, 7),), (orders(0, 3, 5),), {P0: 7}, {P0: 3}),
        ((), (orders(0, 3, 5),), {P0: 5}, {P0: 3}),
        ((orders(0, 0, 7),), (orders(0, 7, 20),), {P0: 7}, {P0: 20}),
        ((), (orders(0, 7, 20),), {P0: 7}, {P0: 20}),
    ],
    ids=[
        "nothing_planned",
        "one_range",
        "two_ranges",
        "head_cut_by_retention",
        "head_cut_and_nothing_left",
        "log_became_shorter",
        "log_became_shorter_and_holds_nothing_new",
    ],
)
def test_where_a_source_stood_before(ranges: Any, lost: Any, next_offsets: Any, before: Any) -> None:
    assert offsets_before(SourcePlan(ranges, lost, next_offsets)) == before


def test_where_a_source_stood_before_its_topic_was_recreated() -> None:
    replaced = {"orders": ReplacedTopic("old", {0: 70, 1: 50, 2: 4})}
    source = SourcePlan(
        (orders(0, 0, 7),), (orders(0, 70, 90),), {P0: 7, P1: 0}, {"orders": "new", "payments": "p"}, replaced
    )
    assert offsets_before(source) == {P0: 70, P1: 50, TopicPartition("orders", 2): 4}
    assert topic_ids_before(source) == {"orders": "old", "payments": "p"}


def test_counts() -> None:
    marker = checkpoints.marker(3)
    assert (marker.records_read, marker.bytes_read, marker.offsets_lost) == (10, 100, {"kafka": 0})
    assert marker.rows_written == {"files": 10}
