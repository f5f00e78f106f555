"""Writers: claims, recovery, adopted plans, decided batches, and who is fenced."""

from __future__ import annotations

from threading import Barrier, Thread

import pytest

from beam_exactly_once.checkpoint import Checkpoint, Recovery, StreamWriter, layout
from beam_exactly_once.checkpoint import writer as writer_module
from beam_exactly_once.checkpoint.records import WriterClaim
from beam_exactly_once.errors import CheckpointHole, Fenced, ForeignObject
from support.checkpoints import NOW, fresh_checkpoint, marker, plan


@pytest.fixture
def checkpoint() -> Checkpoint:
    return fresh_checkpoint()


def claim(checkpoint: Checkpoint, owner: str = "ann") -> StreamWriter:
    return StreamWriter.claim(checkpoint, owner=owner, claimed_at_ms=NOW)


# -- claims ------------------------------------------------------------------------------------------------------------


def test_epochs_begin_at_one_and_rise(checkpoint: Checkpoint) -> None:
    assert [claim(checkpoint).writer_epoch for _ in range(3)] == [1, 2, 3]
    assert checkpoint.read_writer(2) == WriterClaim(2, "ann", NOW)


def test_sixteen_claim_at_once_and_each_gets_an_epoch_of_its_own(checkpoint: Checkpoint) -> None:
    start, epochs = Barrier(16), []

    def take() -> None:
        start.wait()
        epochs.append(claim(checkpoint).writer_epoch)

    threads = [Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(epochs) == list(range(1, 17))


def test_who_is_never_fast_enough_gives_up(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_CLAIM_TRIES", 3)
    monkeypatch.setattr(checkpoint, "newest_writer_epoch", lambda: 0)
    for _ in range(3):
        StreamWriter.claim(Checkpoint(checkpoint.store, checkpoint.stream_id), owner="bob", claimed_at_ms=NOW)
    with pytest.raises(Fenced, match="3 other writers claimed memory://"):
        claim(checkpoint)


def test_a_successor_is_named(checkpoint: Checkpoint) -> None:
    old, _ = claim(checkpoint, "ann"), claim(checkpoint, "bob@host pid 7")
    with pytest.raises(Fenced, match=r"writer 1 of memory://.* was replaced by writer 2 \(bob@host pid 7, 2026"):
        old.ensure_newest()


def test_the_newest_writer_is_not_fenced(checkpoint: Checkpoint) -> None:
    claim(checkpoint)
    claim(checkpoint).ensure_newest()


@pytest.mark.parametrize("is_new_stream", [False, True])
def test_a_driver_whose_location_was_emptied_plans_and_publishes_nothing_more(
    checkpoint: Checkpoint, is_new_stream: bool
) -> None:
    """Also where another stream has begun there by now."""
    old = claim(checkpoint)
    old.plan(plan(0))
    checkpoint.store.delete([entry.key for entry in checkpoint.store.list()])
    if is_new_stream:
        claim(Checkpoint.open(checkpoint.store))
    stopped = ForeignObject if is_new_stream else CheckpointHole
    left = [entry.key for entry in checkpoint.store.list()]

    with pytest.raises(stopped):
        old.plan(plan(1))
    assert [entry.key for entry in checkpoint.store.list()] == left
    with pytest.raises(stopped):
        old.commit(marker(0))


# -- recovery ----------------------------------------------------------------------------------------------------------


def test_an_empty_checkpoint(checkpoint: Checkpoint) -> None:
    recovery = claim(checkpoint).recover()
    assert recovery == Recovery(None, ())
    assert recovery.next_batch_id == 0


def test_the_newest_marker_and_every_plan_above_it(checkpoint: Checkpoint) -> None:
    for batch_id in (5, 6, 7, 8, 9):
        checkpoint.create_plan(plan(batch_id))
    for batch_id in (5, 6, 7):
        checkpoint.create_marker(marker(batch_id))
    recovery = claim(checkpoint).recover()
    assert recovery == Recovery(marker(7), (8, 9))
    assert recovery.next_batch_id == 8


def test_a_plan_without_any_marker(checkpoint: Checkpoint) -> None:
    checkpoint.create_plan(plan(0))
    assert claim(checkpoint).recover() == Recovery(None, (0,))


@pytest.mark.parametrize(("planned", "decided", "missing"), [((1,), (), 0), ((3, 5), (2,), 4), ((4,), (2,), 3)])
def test_a_hole_in_the_plans(
    checkpoint: Checkpoint, planned: tuple[int, ...], decided: tuple[int, ...], missing: int
) -> None:
    for batch_id in planned:
        checkpoint.create_plan(plan(batch_id))
    for batch_id in decided:
        checkpoint.create_marker(marker(batch_id))
    with pytest.raises(CheckpointHole, match=rf"offsets of batch {missing} are missing .*offsets/0*{missing}\.json"):
        claim(checkpoint).recover()


def test_strays_far_below_are_not_looked_at(checkpoint: Checkpoint) -> None:
    """What frozen writers create after a sweep."""
    checkpoint.create_plan(plan(1))
    for batch_id in (2, 50):
        checkpoint.create_marker(marker(batch_id))
    assert claim(checkpoint).recover() == Recovery(marker(50), ())


def test_recovery_of_a_replaced_writer(checkpoint: Checkpoint) -> None:
    """Even where it would find a hole: a newer writer may have swept."""
    old, _ = claim(checkpoint), claim(checkpoint)
    checkpoint.create_plan(plan(7))
    with pytest.raises(Fenced):
        old.recover()


def test_a_marker_swept_between_listing_and_reading(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a newer writer can have swept it."""
    old = claim(checkpoint)
    checkpoint.create_marker(marker(3))
    read_marker = checkpoint.read_marker

    def swept_meanwhile(batch_id: int) -> object:
        checkpoint.store.delete([layout.commits_key(batch_id)])
        claim(checkpoint)
        return read_marker(batch_id)

    monkeypatch.setattr(checkpoint, "read_marker", swept_meanwhile)
    with pytest.raises(Fenced):
        old.recover()


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_plan_of_ones_own(checkpoint: Checkpoint) -> None:
    assert claim(checkpoint).plan(plan(0)) == plan(0) == checkpoint.read_plan(0)


def test_the_plan_of_a_lower_or_equal_epoch_is_adopted_word_for_word(checkpoint: Checkpoint) -> None:
    claim(checkpoint)
    newer = claim(checkpoint)
    checkpoint.create_plan(plan(0, writer_epoch=1))
    checkpoint.create_plan(plan(1, writer_epoch=2))
    assert newer.plan(plan(0, writer_epoch=2)) == plan(0, writer_epoch=1)
    assert newer.plan(plan(1, writer_epoch=2)) == plan(1, writer_epoch=2)


def test_the_plan_of_a_higher_epoch_fences(checkpoint: Checkpoint) -> None:
    old, newer = claim(checkpoint), claim(checkpoint)
    newer.plan(plan(0, writer_epoch=2))
    with pytest.raises(Fenced):
        old.plan(plan(0, writer_epoch=1))


# -- markers -----------------------------------------------------------------------------------------------------------


def test_the_winner_gets_its_own_marker(checkpoint: Checkpoint) -> None:
    assert claim(checkpoint).commit(marker(0)) == marker(0) == checkpoint.read_marker(0)


def test_the_loser_gets_the_winner(checkpoint: Checkpoint) -> None:
    """To publish it: the winner may be dead."""
    claim(checkpoint).commit(marker(0, 1, "winner"))
    assert claim(checkpoint).commit(marker(0, 2, "loser")) == marker(0, 1, "winner")


def test_a_repeated_commit_of_the_newest_batch_gives_the_same(checkpoint: Checkpoint) -> None:
    writer = claim(checkpoint)
    assert writer.commit(marker(0)) == writer.commit(marker(0)) == marker(0)


def test_a_replaced_writer_decides_but_does_not_publish(checkpoint: Checkpoint) -> None:
    old, newer = claim(checkpoint), claim(checkpoint)
    with pytest.raises(Fenced):
        old.commit(marker(0, 1, "old"))
    assert newer.commit(marker(0, 2, "new")) == marker(0, 1, "old")


def test_a_frozen_writers_create_succeeds_after_the_sweep_and_is_not_published(checkpoint: Checkpoint) -> None:
    old, newer = claim(checkpoint), claim(checkpoint)
    for batch_id in range(5):
        newer.commit(marker(batch_id, 2, "new"))
    checkpoint.store.delete([layout.commits_key(0)])
    with pytest.raises(Fenced, match="was replaced"):
        old.commit(marker(0, 1, "old"))


@pytest.fixture
def far_ahead(checkpoint: Checkpoint) -> StreamWriter:
    """The newest writer, which has decided and swept batch 0; a replaced one has put a stray in its place."""
    old, newest = claim(checkpoint), claim(checkpoint)
    for batch_id in range(5):
        newest.commit(marker(batch_id, 2, "newest"))
    checkpoint.store.delete([layout.commits_key(0)])
    with pytest.raises(Fenced):
        old.commit(marker(0, 1, "stray"))
    return newest


def test_a_late_worker_of_the_newest_writer_does_not_take_a_stray_for_the_winner(far_ahead: StreamWriter) -> None:
    late = StreamWriter(far_ahead.checkpoint, far_ahead.writer_epoch)
    with pytest.raises(Fenced, match=r"batch 0 of memory://.* was decided and published long ago: batch 1 is decided"):
        late.commit(marker(0, 2, "late"))


def test_a_late_worker_of_the_newest_writer_does_not_publish_a_stray_again(far_ahead: StreamWriter) -> None:
    with pytest.raises(Fenced, match=r"batch 0 .* was decided and published long ago"):
        far_ahead.decided(0)


def test_the_marker_of_the_newest_batch_to_be_published_again(far_ahead: StreamWriter) -> None:
    assert far_ahead.decided(4) == marker(4, 2, "newest")


def test_a_replaced_writer_publishes_nothing_again(checkpoint: Checkpoint) -> None:
    old = claim(checkpoint)
    old.commit(marker(0))
    claim(checkpoint)
    with pytest.raises(Fenced):
        old.decided(0)


def test_the_marker_to_be_published_again_is_gone(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointHole, match="the marker of batch 7 vanished from memory://"):
        claim(checkpoint).decided(7)
