"""The two ways of a sink whose shards keep receipts.

*Staged*: rows wait in the checkpoint location, and the sink writes them once the marker names them. Any pipeline.
*Direct*: the sink has written when the marker comes. One sink, and a pipeline that makes the same rows again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import pyarrow as pa

from beam_exactly_once.errors import OutputNotWritable
from beam_exactly_once.rows.digests import RowsDigest, digest_of
from beam_exactly_once.sinks.contract import Part, Publisher, is_to_write
from beam_exactly_once.sinks.direct_receipts import direct_receipt, is_at_batch_before, is_to_write_directly
from beam_exactly_once.sinks.receipts import Receipt
from beam_exactly_once.sinks.refused_rows import RefusedRows
from beam_exactly_once.sinks.staged_rows import StagedRows
from beam_exactly_once.sinks.transactional import Delivery, TransactionalSink


@dataclass(frozen=True, slots=True)
class ShardedSink:
    """A sink in a stream: under its name, with its shards."""

    name: str
    sink: TransactionalSink
    shards: int

    @property
    def where(self) -> str:
        """The sink and its place, for messages."""
        return f"sink {self.name!r}, {self.sink.location}"

    def delivery(
        self,
        part: Part,
        receipt: Callable[[], Receipt],
        is_due: Callable[[Receipt | None], bool],
        rows: Callable[[], Iterable[pa.RecordBatch]],
    ) -> Delivery:
        """What the sink writes for a part, unless the receipt that it finds says otherwise."""
        return Delivery(part.stream_id, self.name, part.shard, part.attempt.batch_id, receipt, is_due, rows)

    def deliver_directly(self, part: Part, batches: list[pa.RecordBatch]) -> RowsDigest:
        """Let the sink write all rows of a shard before the marker, unless an earlier run has; returns what they are."""
        digest = cache(lambda: digest_of(batches))
        delivery = self.delivery(
            part,
            lambda: direct_receipt(part, digest()),
            lambda found: is_to_write_directly(part, digest, found, self.where),
            lambda: batches,
        )
        self.sink.write(delivery)
        return digest()


class StagedPublisher(Publisher):
    """Writes what waits in the checkpoint location."""

    def __init__(self, sharded: ShardedSink, staged: StagedRows) -> None:
        self.sharded = sharded
        self.shards = sharded.shards
        self._staged = staged

    def publish(self, part: Part) -> None:
        """Write the rows of a part unless its receipt says that they are there.

        Rows that its system refuses are left out once an operator has said so.

        Raises:
            RowsRefused: nobody has.
        """
        refused = RefusedRows(self.sharded.name, self._staged, part)
        delivery = self.sharded.delivery(
            part, lambda: part.receipt, lambda found: is_to_write(part, found, self.sharded.where), refused.kept
        )
        while True:
            try:
                self.sharded.sink.write(delivery)
            except OutputNotWritable as error:
                if not self._left_out(delivery, refused, error):
                    raise
            else:
                return

    def _left_out(self, delivery: Delivery, refused: RefusedRows, error: OutputNotWritable) -> bool:
        """Whether rows were found that are to be left out from now on."""
        found: list[bool] = []

        def decide(positions: Mapping[int, str]) -> None:
            if positions:
                refused.decide(positions, error)
                found.append(True)

        self.sharded.sink.find_refused(delivery, decide)
        return bool(found)

    def sweep(self, published_batch_id: int) -> None:
        """Remove staged rows that are written."""
        self._staged.sweep(published_batch_id)


class DirectPublisher(Publisher):
    """Has nothing to write when the marker comes, but the receipts of a batch that an operator skipped."""

    is_direct = True

    def __init__(self, sharded: ShardedSink) -> None:
        self.sharded = sharded
        self.shards = sharded.shards

    def publish(self, part: Part) -> None:
        """Receipt a shard of a batch that was skipped, so that the next batch finds it where it must be."""
        if part.committables:
            return  # a run that commits has written every shard, and its receipt
        delivery = self.sharded.delivery(
            part,
            lambda: direct_receipt(part, digest_of(())),
            lambda found: is_at_batch_before(part, found, self.sharded.where),
            lambda: (),
        )
        self.sharded.sink.write(delivery)
