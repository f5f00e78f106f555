"""What ``beam-exactly-once verify`` checks of the receipts of a sink, wherever it keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from beam_exactly_once.checkpoint import Marker
from beam_exactly_once.checkpoint.findings import Check, listed
from beam_exactly_once.checkpoint.verification import Contents
from beam_exactly_once.rows.digests import RowsDigest
from beam_exactly_once.sinks.contract import Part, parts_of
from beam_exactly_once.sinks.receipts import DirectReceipt, Receipt, StagedReceipt


@dataclass(frozen=True, slots=True)
class ReceiptCheck:
    """Compares the receipts of one sink with the newest marker.

    A driver may work meanwhile: a shard may be at a batch that was decided since the checkpoint was listed.

    Args:
        contents: of the checkpoint.
        sink: name of the sink.
        where: the sink and its place, for messages.
    """

    contents: Contents
    sink: str
    where: str

    def compare(self, check: Check, found: Mapping[int, Receipt]) -> None:
        """Look at every shard that must have a receipt; ``found`` has those that are there."""
        newest = self.contents.markers.get(self.contents.newest_id)
        if newest is None:
            return
        waiting = []
        for part in parts_of(self.contents.checkpoint.stream_id, newest, self.sink):
            check.examined += 1
            receipt = found.get(part.shard)
            if not (self._is_of(part, receipt) or self._is_of_later(newest.batch_id, receipt)):
                if self._is_of_predecessor(part, receipt):
                    waiting.append(part.shard)
                else:
                    check.fault(f"{self.where}, shard {part.shard}", self._fault(newest, part, receipt))
        if waiting:
            check.notes.append(
                f"batch {newest.batch_id} is decided and not published yet in shard {listed(waiting)}: its driver, or the next "
                "start, does it."
            )

    def _is_of(self, part: Part, receipt: Receipt | None) -> bool:
        if not isinstance(receipt, DirectReceipt):
            return receipt == part.receipt
        # A skipped batch has no committables: whatever rows a shard has of it stay.
        rows = [RowsDigest(int(one["rows"]), str(one["digest"])) for one in part.committables] or [receipt.rows]
        place = (receipt.batch_id, receipt.plan_digest)
        return place == (part.attempt.batch_id, part.plan_digest) and receipt.rows == rows[0]

    def _is_of_predecessor(self, part: Part, receipt: Receipt | None) -> bool:
        if isinstance(receipt, DirectReceipt) or part.predecessor is None:
            return receipt is None and part.predecessor is None
        return receipt == StagedReceipt(part.predecessor)

    def _is_of_later(self, newest_id: int, receipt: Receipt | None) -> bool:
        """Whether a driver has gone on since, or a direct sink has written what is not committed yet."""
        if receipt is None or receipt.batch_id <= newest_id:
            return False
        checkpoint = self.contents.checkpoint
        if isinstance(receipt, DirectReceipt):
            plan = checkpoint.read_plan(receipt.batch_id)
            return plan is not None and plan.digest == receipt.plan_digest
        marker = checkpoint.read_marker(receipt.batch_id)
        return marker is not None and marker.attempt == receipt.attempt

    def _fault(self, newest: Marker, part: Part, receipt: Receipt | None) -> str:
        expected = f"batch {newest.batch_id} of attempt {newest.attempt.nonce}"
        if receipt is None:
            return (
                f"{self.where}, shard {part.shard}, has no receipt, where the checkpoint has decided {expected}: the sink was "
                "restored from an older copy, or its receipts were removed. Restore it; a start refuses to guess what it holds."
            )
        if receipt.batch_id > newest.batch_id:
            return (
                f"{self.where}, shard {part.shard}, holds batch {receipt.batch_id} of {receipt.of}, which the checkpoint has not "
                "decided: it was restored from an older copy, or lost its newest markers. Restore the newer checkpoint; a start "
                "refuses to write twice what is there."
            )
        return (
            f"{self.where}, shard {part.shard}, holds batch {receipt.batch_id} of {receipt.of}, where the checkpoint has decided "
            f"{expected}. One of the two was restored from another copy: restore the one that belongs to the other."
        )
