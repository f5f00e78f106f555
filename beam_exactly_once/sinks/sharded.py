"""The two ways of a sink whose shards keep receipts.

*Staged*: rows wait in the checkpoint location, and the sink's writer writes them once the marker names them. Any pipeline.
*Direct*: the writer has written when the marker comes. One sink, and a pipeline that makes the same rows again.
"""

from __future__ import annotations

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.rows.digests import digest_of
from beam_exactly_once.sinks.contract import Part, Publisher, is_to_write
from beam_exactly_once.sinks.direct_receipts import direct_receipt, is_at_batch_before
from beam_exactly_once.sinks.shard_writer import ShardWrite, ShardWriter
from beam_exactly_once.sinks.staged_rows import StagedRows


class _ShardPublisher(Publisher):
    """What both ways share."""

    def __init__(self, writer: ShardWriter) -> None:
        self.writer = writer
        self.shards = writer.shards

    def finish(self, stream_id: str, attempt: Attempt, committables: tuple[Json, ...]) -> None:
        """Nothing is left to do: the receipts say all."""

    def check_place(self) -> None:
        """As the writer says."""
        self.writer.check_place()

    def prepare(self, stream_id: str) -> None:
        """As the writer says."""
        self.writer.prepare(stream_id)


class StagedPublisher(_ShardPublisher):
    """Writes what waits in the checkpoint location."""

    def __init__(self, writer: ShardWriter, staged: StagedRows) -> None:
        super().__init__(writer)
        self._staged = staged

    def publish(self, part: Part) -> None:
        """Write the rows of a part unless its receipt says that they are there."""
        self.writer.write(
            ShardWrite(
                part.stream_id,
                part.shard,
                part.attempt.batch_id,
                lambda: part.receipt,
                lambda found: is_to_write(part, found, self.writer.where),
                lambda: self._staged.read(part),
            )
        )

    def check_start(self, stream_id: str, next_batch_id: int) -> None:
        """As the writer says."""
        self.writer.check_start(stream_id, next_batch_id)

    def sweep(self, published_batch_id: int) -> None:
        """Remove staged rows that are written."""
        self._staged.sweep(published_batch_id)


class DirectPublisher(_ShardPublisher):
    """Has nothing to write when the marker comes, but the receipts of a batch that an operator skipped."""

    is_direct = True

    def publish(self, part: Part) -> None:
        """Receipt a shard of a batch that was skipped, so that the next batch finds it where it must be."""
        if part.committables:
            return  # a run that commits has written every shard, and its receipt
        self.writer.write(
            ShardWrite(
                part.stream_id,
                part.shard,
                part.attempt.batch_id,
                lambda: direct_receipt(part, digest_of(())),
                lambda found: is_at_batch_before(part, found, self.writer.where),
                lambda: (),
            )
        )

    def check_start(self, stream_id: str, next_batch_id: int) -> None:
        """As the writer says; the next batch may be there, if a driver died before it was committed."""
        self.writer.check_start(stream_id, next_batch_id + 1)

    def sweep(self, published_batch_id: int) -> None:
        """Nothing is staged."""
