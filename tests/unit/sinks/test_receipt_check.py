"""What ``verify`` says of the receipts of a sink: there, on the way, or not those of this checkpoint."""

from __future__ import annotations

from dataclasses import replace

import pytest

from beam_exactly_once.checkpoint import Attempt, Checkpoint, Marker
from beam_exactly_once.checkpoint.findings import Check
from beam_exactly_once.checkpoint.verification import Contents
from beam_exactly_once.rows.digests import RowsDigest
from beam_exactly_once.sinks.receipts import DirectReceipt, Receipt, StagedReceipt
from beam_exactly_once.sinks.verification import ReceiptCheck
from support.checkpoints import fresh_checkpoint, marker, plan

SHARDS = {"sql": 2}
ROWS = RowsDigest(17, "a" * 32)


def decided(checkpoint: Checkpoint, batch_ids: range, **changed: object) -> Marker:
    """Batches that leave receipts in two shards, the newest changed."""
    before: Marker | None = None
    for batch_id in batch_ids:
        checkpoint.create_plan(plan(batch_id))
        newest = replace(marker(batch_id), plan_digest=plan(batch_id).digest)
        newest = newest.following(None if before is None else before.as_predecessor, SHARDS)
        before = replace(newest, **changed) if batch_id == batch_ids[-1] else newest  # type: ignore[arg-type]
        checkpoint.create_marker(before)
    assert before is not None
    return before


def found_of(checkpoint: Checkpoint, newest: Marker, receipts: dict[int, Receipt]) -> Check:
    ids = frozenset(range(newest.batch_id + 1))
    contents = Contents(checkpoint, ids, ids, {}, {newest.batch_id: newest}, {}, {"sql": {"kind": "sql"}})
    check = Check("receipts")
    ReceiptCheck(contents, "sql", "the table").compare(check, receipts)
    return check


def of(batch_id: int, nonce: str = "a") -> StagedReceipt:
    return StagedReceipt(Attempt(1, batch_id, nonce))


def test_those_of_the_newest_batch() -> None:
    checkpoint = fresh_checkpoint()
    check = found_of(checkpoint, decided(checkpoint, range(3)), {0: of(2), 1: of(2)})
    assert (check.examined, check.faults, check.notes) == (2, [], [])


def test_a_batch_that_is_being_published_is_noted() -> None:
    checkpoint = fresh_checkpoint()
    check = found_of(checkpoint, decided(checkpoint, range(3)), {0: of(2), 1: of(1)})
    assert check.faults == []
    assert check.notes == [
        "batch 2 is decided and not published yet in shard 1: its driver, or the next start, does it."
    ]


def test_the_first_batch_before_it_is_published() -> None:
    checkpoint = fresh_checkpoint()
    check = found_of(checkpoint, decided(checkpoint, range(1)), {})
    assert (check.faults, len(check.notes)) == ([], 1)


def test_a_driver_that_has_gone_on_since_is_clean() -> None:
    checkpoint = fresh_checkpoint()
    newest = decided(checkpoint, range(3))
    checkpoint.create_marker(marker(3))
    assert found_of(checkpoint, newest, {0: of(3), 1: of(2)}).faults == []


@pytest.mark.parametrize(
    ("receipt", "message"),
    [
        (None, "shard 1, has no receipt, where the checkpoint has decided batch 2 of attempt a"),
        (of(0), "shard 1, holds batch 0 of attempt a, where the checkpoint has decided batch 2"),
        (of(2, "other"), "shard 1, holds batch 2 of attempt other, where the checkpoint has decided batch 2"),
        (of(7), "shard 1, holds batch 7 of attempt a, which the checkpoint has not decided"),
    ],
)
def test_others_are_faults(receipt: Receipt | None, message: str) -> None:
    checkpoint = fresh_checkpoint()
    receipts: dict[int, Receipt] = {0: of(2)} if receipt is None else {0: of(2), 1: receipt}
    (fault,) = found_of(checkpoint, decided(checkpoint, range(3)), receipts).faults
    assert message in fault.message


def direct(batch_id: int, rows: RowsDigest = ROWS) -> DirectReceipt:
    return DirectReceipt(9, batch_id, plan(batch_id).digest, rows)


def test_a_direct_sink_may_be_a_batch_ahead_and_must_hold_the_rows_of_the_marker() -> None:
    checkpoint = fresh_checkpoint()
    staged = tuple({"shard": shard, "rows": ROWS.rows, "digest": ROWS.digest, "size_bytes": 1} for shard in range(2))
    newest = decided(checkpoint, range(3), committables={"sql": staged})
    checkpoint.create_plan(plan(3))
    assert found_of(checkpoint, newest, {0: direct(2), 1: direct(3)}).faults == []
    (fault,) = found_of(checkpoint, newest, {0: direct(2), 1: direct(2, RowsDigest(18, "b" * 32))}).faults
    assert "shard 1, holds batch 2 of plan" in fault.message
    assert len(found_of(checkpoint, newest, {0: direct(2), 1: direct(4)}).faults) == 1
