"""What receipts decide, and what is published of a batch."""

from __future__ import annotations

import pytest

from beam_exactly_once.checkpoint import Attempt, Marker, Predecessor
from beam_exactly_once.errors import SinkAhead, SinkBehind
from beam_exactly_once.rows.digests import RowsDigest
from beam_exactly_once.sinks.contract import Part, is_to_write, parts_of
from beam_exactly_once.sinks.receipts import DirectReceipt, Receipt, StagedReceipt, receipt_of, stored_receipt

SEVENTH, EIGHTH, NINTH = (Attempt(1, batch_id, f"n{batch_id}") for batch_id in (7, 8, 9))
OTHER_EIGHTH = Attempt(2, 8, "0ther")


def part(predecessor: Attempt | None) -> Part:
    return Part("5eed", NINTH, predecessor, 3, ())


class TestReceipt:
    def test_of_the_batch_itself_says_that_it_is_there(self) -> None:
        assert is_to_write(part(EIGHTH), StagedReceipt(NINTH), "the ledger") is False

    def test_of_the_batch_before_says_write(self) -> None:
        assert is_to_write(part(EIGHTH), StagedReceipt(EIGHTH), "the ledger") is True

    def test_may_be_missing_in_a_shard_that_no_batch_has_written(self) -> None:
        assert is_to_write(part(None), None, "the ledger") is True

    @pytest.mark.parametrize("found", [Attempt(1, 10, "later"), Attempt(3, 9, "0ther"), OTHER_EIGHTH])
    def test_that_the_checkpoint_does_not_know_is_ahead(self, found: Attempt) -> None:
        with pytest.raises(
            SinkAhead, match=rf"the ledger, shard 3, holds batch {found.batch_id} of attempt {found.nonce}"
        ):
            is_to_write(part(EIGHTH), StagedReceipt(found), "the ledger")

    def test_in_a_shard_that_must_have_none_is_ahead(self) -> None:
        with pytest.raises(SinkAhead, match="holds batch 7"):
            is_to_write(part(None), StagedReceipt(SEVENTH), "the ledger")

    @pytest.mark.parametrize(("found", "words"), [(StagedReceipt(SEVENTH), "holds batch 7"), (None, "holds no batch")])
    def test_of_an_older_batch_is_behind(self, found: Receipt | None, words: str) -> None:
        with pytest.raises(SinkBehind, match=rf"{words} of this stream, where batch 9 must find batch 8"):
            is_to_write(part(EIGHTH), found, "the ledger")


def marker(predecessor: Predecessor | None, shards: dict[str, int], *committables: dict[str, int]) -> Marker:
    staged = {"ledger": tuple(committables), "files": ({"final_key": 1}, {"final_key": 2})}
    return Marker(9, "committed", NINTH, {}, staged, 1).following(predecessor, shards)


def test_without_shards_every_committable_is_a_part() -> None:
    parts = list(parts_of("5eed", marker(None, {}), "files"))
    assert [one.committables for one in parts] == [({"final_key": 1},), ({"final_key": 2},)]


def test_every_shard_is_a_part_also_one_without_rows() -> None:
    rows = [{"shard": 2, "n": 1}, {"shard": 0, "n": 2}, {"shard": 2, "n": 3}]
    parts = list(parts_of("5eed", marker(None, {"ledger": 3}, *rows), "ledger"))
    assert [(one.shard, one.predecessor, len(one.committables)) for one in parts] == [
        (0, None, 1),
        (1, None, 0),
        (2, None, 2),
    ]


def test_more_shards_begin_without_a_receipt() -> None:
    parts = parts_of("5eed", marker(Predecessor(EIGHTH, {"ledger": 2}), {"ledger": 3}), "ledger")
    assert [one.predecessor for one in parts] == [EIGHTH, EIGHTH, None]


def test_fewer_shards_leave_none_behind() -> None:
    decided = marker(Predecessor(EIGHTH, {"ledger": 3}), {"ledger": 1})
    assert [one.predecessor for one in parts_of("5eed", decided, "ledger")] == [EIGHTH, EIGHTH, EIGHTH]
    assert decided.as_predecessor == Predecessor(NINTH, {"ledger": 3})


def test_a_part_travels_as_json() -> None:
    for one in (part(EIGHTH), part(None), Part("5eed", NINTH, EIGHTH, 0, ({"shard": 0, "rows": 1},))):
        assert Part.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    "receipt", [StagedReceipt(NINTH), DirectReceipt(2, 9, "8c51f3c1d0a9b7e2", RowsDigest(17, "0" * 31 + "a"))]
)
def test_a_receipt_is_stored_as_three_values(receipt: Receipt) -> None:
    stored = stored_receipt(receipt)
    assert list(stored) == ["writer_epoch", "batch_id", "nonce"]
    assert receipt_of(stored) == receipt
