"""Receipts: what a shard of a sink says of the batch that it holds. Pure.

A staged sink writes what a marker names, so its receipt is the attempt that won. A direct sink writes before the marker, and
its rows may be of an attempt that did not win. So its receipt names the batch's plan, and says what was written. Both are
stored beside the rows as the same three values. This module alone writes and reads them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

import orjson

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import CorruptObject
from beam_exactly_once.rows.digests import RowsDigest

_DIRECT = re.compile(r"([0-9a-f]*)\.(\d+)\.([0-9a-f]+)")
"""A direct receipt in the place of a nonce, which has no dots: digest of the plan, number of rows, digest of the rows."""


@dataclass(frozen=True, slots=True)
class StagedReceipt:
    """The shard holds what this attempt staged."""

    attempt: Attempt

    @property
    def batch_id(self) -> int:
        """The batch that the shard holds."""
        return self.attempt.batch_id

    @property
    def of(self) -> str:
        """What tells it from another receipt of the batch, for messages."""
        return f"attempt {self.attempt.nonce}"


@dataclass(frozen=True, slots=True)
class DirectReceipt:
    """The shard holds these rows of this plan, whichever attempt made them.

    Two runs of one plan that make the same rows differ in ``writer_epoch`` alone: compare ``plan_digest`` and ``rows``.
    """

    writer_epoch: int
    batch_id: int
    plan_digest: str
    rows: RowsDigest

    @property
    def of(self) -> str:
        """What tells it from another receipt of the batch, for messages."""
        return f"plan {self.plan_digest}"


Receipt: TypeAlias = StagedReceipt | DirectReceipt


def stored_receipt(receipt: Receipt) -> Json:
    """The three values that are stored: ``writer_epoch``, ``batch_id``, ``nonce``."""
    if isinstance(receipt, StagedReceipt):
        return receipt.attempt.to_json()
    nonce = f"{receipt.plan_digest}.{receipt.rows.rows}.{receipt.rows.digest}"
    return Attempt(receipt.writer_epoch, receipt.batch_id, nonce).to_json()


def receipt_of(stored: Json) -> Receipt:
    """The inverse of :func:`stored_receipt`.

    Raises:
        KeyError, TypeError, ValueError: it is not a receipt.
    """
    attempt = Attempt.from_json(stored)
    direct = _DIRECT.fullmatch(attempt.nonce)
    if direct is None:
        return StagedReceipt(attempt)
    return DirectReceipt(attempt.writer_epoch, attempt.batch_id, direct[1], RowsDigest(int(direct[2]), direct[3]))


def receipt_text(receipt: Receipt) -> str:
    """A receipt as a sink stores it: its three values, as JSON."""
    return orjson.dumps(stored_receipt(receipt)).decode()


def text_receipt(text: str, key: str) -> Receipt:
    """The inverse of :func:`receipt_text`.

    Raises:
        CorruptObject: it is not a receipt. The message names ``key``, where it was found.
    """
    try:
        return receipt_of(orjson.loads(text))
    except (KeyError, TypeError, ValueError):
        raise CorruptObject(
            f"the receipt under {key} is {text[:80]!r}, which this library did not write. Nothing was written. Restore the "
            "sink, or start a new checkpoint_location with continue_from=CheckpointAt(…) at the last batch that it holds."
        ) from None
