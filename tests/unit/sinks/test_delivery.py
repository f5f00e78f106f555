"""What a sink of one's own is given."""

from __future__ import annotations

import pytest

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.errors import CorruptObject, SinkAhead, SinkBehind
from beam_exactly_once.rows.digests import RowsDigest
from beam_exactly_once.sinks import Delivery
from beam_exactly_once.sinks.contract import Part, is_to_write
from beam_exactly_once.sinks.receipts import DirectReceipt, Receipt, StagedReceipt, receipt_text, text_receipt

BEFORE, WON, LATER = Attempt(1, 7, "before"), Attempt(1, 8, "won"), Attempt(2, 9, "later")
PART = Part("5eed", WON, BEFORE, 3, ())


def delivery() -> Delivery:
    return Delivery(
        "5eed",
        "crm",
        3,
        8,
        lambda: PART.receipt,
        lambda found: is_to_write(PART, found, "sink 'crm', here"),
        lambda: (),
    )


def text(attempt: Attempt) -> str:
    return receipt_text(StagedReceipt(attempt))


def test_the_key_is_of_stream_sink_and_shard() -> None:
    assert delivery().key == "5eed/crm/3"


def test_it_is_due_behind_the_batch_before_and_once() -> None:
    assert delivery().is_due(text(BEFORE)) is True
    assert delivery().is_due(delivery().receipt) is False


@pytest.mark.parametrize(("found", "error"), [(None, SinkBehind), (text(LATER), SinkAhead)])
def test_anything_else_stops(found: str | None, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"sink 'crm', here, shard 3, holds"):
        delivery().is_due(found)


@pytest.mark.parametrize("found", ["", "8", "{}", '{"batch_id": 8}', "x" * 500])
def test_what_is_not_a_receipt_stops(found: str) -> None:
    with pytest.raises(
        CorruptObject, match=r"the receipt under 5eed/crm/3 is '.{0,80}', which this library did not write"
    ):
        delivery().is_due(found)


@pytest.mark.parametrize(
    "receipt", [StagedReceipt(WON), DirectReceipt(2**62, 2**62, "f" * 16, RowsDigest(10**12, "f" * 32))]
)
def test_a_receipt_is_a_short_text(receipt: Receipt) -> None:
    written = receipt_text(receipt)
    assert text_receipt(written, "key") == receipt
    assert written.isascii()
    assert len(written) <= 250
