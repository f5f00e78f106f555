"""Retention: removes what no start needs, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.checkpoint import Checkpoint, layout
from beam_exactly_once.checkpoint.records import WriterClaim
from beam_exactly_once.checkpoint.retention import Retention
from support.checkpoints import NOW, fresh_checkpoint, marker, plan, repeatable


def filled(decided: int, planned: int) -> Checkpoint:
    """Batches 0 to ``decided - 1`` have markers; up to ``planned - 1`` plans; there are as many writers."""
    checkpoint = fresh_checkpoint()
    for batch_id in range(planned):
        checkpoint.create_plan(plan(batch_id))
    for batch_id in range(decided):
        checkpoint.create_marker(marker(batch_id))
        checkpoint.create_writer(WriterClaim(batch_id + 1, "ann", NOW))
        checkpoint.store.put_if_absent(layout.spilled_key(batch_id, "nonce"), b"list")
    checkpoint.create_definition(layout.SOURCES, "kafka", {})
    checkpoint.create_definition(layout.SINKS, "files", {})
    return checkpoint


def keys(checkpoint: Checkpoint) -> set[str]:
    return {entry.key for entry in checkpoint.store.list()}


def test_the_newest_are_kept() -> None:
    checkpoint = filled(decided=10, planned=12)
    Retention(checkpoint, 3).sweep_all(9)
    assert list(checkpoint.marker_ids()) == [7, 8, 9]
    assert list(checkpoint.plan_ids()) == [7, 8, 9, 10, 11]
    assert [entry.key for entry in checkpoint.store.list(layout.SPILLED)] == [
        layout.spilled_key(batch_id, "nonce") for batch_id in (7, 8, 9)
    ]


@repeatable
@given(st.integers(1, 12), st.integers(0, 3), st.integers(1, 15), st.integers(0, 11))
def test_what_a_start_needs_is_never_removed(decided: int, ahead: int, retained: int, newest: int) -> None:
    newest = min(newest, decided - 1)
    checkpoint = filled(decided, decided + ahead)
    before = keys(checkpoint)
    Retention(checkpoint, retained).sweep_all(newest)
    removed = before - keys(checkpoint)
    may_go = {
        key
        for batch_id in range(max(0, newest - retained + 1))
        for key in (layout.offsets_key(batch_id), layout.commits_key(batch_id), layout.spilled_key(batch_id, "nonce"))
    }
    assert removed == may_go
    assert checkpoint.newest_marker() == marker(decided - 1)


def test_plans_go_before_markers() -> None:
    """A sweep that dies in the middle leaves markers without plans, which verify knows as leftovers."""
    checkpoint, deleted = filled(decided=5, planned=5), []
    delete = checkpoint.store.delete

    def note(swept: list[str]) -> None:
        deleted.extend({key.split("/")[0] for key in swept})
        delete(swept)

    checkpoint.store.delete = note  # type: ignore[method-assign, assignment]
    Retention(checkpoint, 1).sweep_all(4)
    assert deleted == ["offsets", "commits", "staging"]


def test_nothing_old_asks_the_store_nothing() -> None:
    checkpoint = filled(decided=3, planned=3)
    checkpoint.store.list = pytest.fail  # type: ignore[method-assign, assignment]
    Retention(checkpoint, 3).sweep_all(2)


def test_strays_go_with_the_next_sweep() -> None:
    checkpoint = filled(decided=10, planned=10)
    retention = Retention(checkpoint, 2)
    retention.sweep_all(9)
    checkpoint.create_marker(marker(4, nonce="stray"))
    checkpoint.create_plan(plan(4))
    retention.sweep_all(9)
    assert list(checkpoint.marker_ids()) == list(checkpoint.plan_ids()) == [8, 9]


def test_swept_again_and_again() -> None:
    checkpoint = filled(decided=10, planned=10)
    for _ in range(3):
        Retention(checkpoint, 2).sweep_all(9)
    assert list(checkpoint.marker_ids()) == [8, 9]


@pytest.mark.parametrize(("retained", "due"), [(1, [0, 1, 2, 3, 4, 5]), (2, [1, 3, 5]), (3, [2, 5]), (100, [])])
def test_once_every_so_many_batches(retained: int, due: list[int]) -> None:
    retention = Retention(fresh_checkpoint(), retained)
    assert [batch_id for batch_id in range(6) if retention.is_due(batch_id)] == due
