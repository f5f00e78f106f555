"""What the receipts of direct sinks decide. Pure.

A replay of the same plan that makes the same rows finds them there; one that makes others stops.
"""

from __future__ import annotations

from collections.abc import Callable

from beam_exactly_once.errors import ReplayDiffers
from beam_exactly_once.rows.digests import RowsDigest
from beam_exactly_once.sinks.contract import Part, out_of_turn
from beam_exactly_once.sinks.receipts import DirectReceipt, Receipt


def direct_receipt(part: Part, rows: RowsDigest) -> DirectReceipt:
    """The receipt of ``rows``, all that the batch of ``part`` has for its shard."""
    return DirectReceipt(part.attempt.writer_epoch, part.attempt.batch_id, part.plan_digest, rows)


def is_to_write_directly(part: Part, digest: Callable[[], RowsDigest], found: Receipt | None, where: str) -> bool:
    """What the receipt of a shard says of the rows that a run made: False, they are there; True, write them.

    Args:
        part: the batch and the shard.
        digest: of what this run made for the shard; only asked for if the shard has the batch.
        found: the receipt, read in the transaction that will write; None when there is none.
        where: the sink and its place, for the message.

    Raises:
        ReplayDiffers: an earlier run of the batch wrote other rows.
        SinkAhead, SinkBehind: the shard is not at the batch before.
    """
    if is_at_batch_before(part, found, where):
        return True
    assert isinstance(found, DirectReceipt)
    rows = digest()
    if found.rows == rows:
        return False
    batch_id = part.attempt.batch_id
    raise ReplayDiffers(
        f"{where}, shard {part.shard}, holds {found.rows.rows} rows of batch {batch_id} from an earlier run, and this run made "
        f"{rows.rows}{' others' if found.rows.rows == rows.rows else ''}: with direct=True each run of a batch must make the "
        "same rows. The pipeline uses a clock, random numbers, a look-up or an order that changes, its code was changed, or "
        "Kafka compacted or deleted records of the batch since. Nothing was written by this run. Start the code that wrote the "
        "rows again; or, after a look at them, pass the batch, which leaves them and writes no others of it: "
        f"`beam-exactly-once resolve <location> --batch {batch_id} --skip`."
    )


def is_at_batch_before(part: Part, found: Receipt | None, where: str) -> bool:
    """Whether a shard is at the batch before that of ``part`` (True), or at it already, with any rows (False).

    Raises:
        SinkAhead, SinkBehind: it is neither.
    """
    place = (found.batch_id, found.plan_digest) if isinstance(found, DirectReceipt) else None
    if place == (part.attempt.batch_id, part.plan_digest):
        return False
    before = part.predecessor
    is_first = before is None and found is None
    if is_first or (before is not None and place == (before.batch_id, part.predecessor_plan_digest)):
        return True
    raise out_of_turn(where, part.shard, part.attempt.batch_id, before, found)
