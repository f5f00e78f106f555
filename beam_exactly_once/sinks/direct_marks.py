"""The marks of direct sinks. Pure.

Rows that are written before the marker may be of an attempt that did not win, so an attempt cannot name them. Their mark
names the batch's plan, and says what was written: how many rows, and their digest. A replay of the same plan that makes the
same rows finds them there; one that makes others stops. A mark is stored as an attempt whose nonce says all this.
"""

from __future__ import annotations

from collections.abc import Callable

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.errors import ReplayDiffers
from beam_exactly_once.rows.digests import RowsDigest
from beam_exactly_once.sinks.contract import Part, out_of_turn


def mark_of(part: Part, rows: RowsDigest) -> Attempt:
    """The mark of ``rows``, all that the batch of ``part`` has for its shard."""
    return Attempt(part.attempt.writer_epoch, part.attempt.batch_id, f"{part.plan_digest}.{rows.rows}.{rows.digest}")


def is_to_write_directly(part: Part, digest: Callable[[], RowsDigest], found: Attempt | None, where: str) -> bool:
    """What the mark of a shard says of the rows that a run made: False, they are there; True, write them.

    Args:
        part: the batch and the shard.
        digest: of what this run made for the shard; only asked for if the shard has the batch.
        found: the mark, read in the transaction that will write; None when there is none.
        where: the sink and its place, for the message.

    Raises:
        ReplayDiffers: an earlier run of the batch wrote other rows.
        SinkAhead, SinkBehind: the shard is not at the batch before.
    """
    if is_at_batch_before(part, found, where):
        return True
    assert found is not None
    rows = digest()
    if found.nonce == mark_of(part, rows).nonce:
        return False
    _, written, _ = found.nonce.split(".")
    batch_id = part.attempt.batch_id
    raise ReplayDiffers(
        f"{where}, shard {part.shard}, holds {written} rows of batch {batch_id} from an earlier run, and this run made "
        f"{rows.rows}{' others' if int(written) == rows.rows else ''}: with direct=True each run of a batch must make the same "
        "rows. The pipeline uses a clock, random numbers, a look-up or an order that changes, its code was changed, or Kafka "
        "compacted or deleted records of the batch since. Nothing was written by this run. Start the code that wrote the rows "
        "again; or, after a look at them, pass the batch, which leaves them and writes no others of it: "
        f"`beam-exactly-once resolve <location> --batch {batch_id} --skip`."
    )


def is_at_batch_before(part: Part, found: Attempt | None, where: str) -> bool:
    """Whether a shard is at the batch before that of ``part`` (True), or at it already, with any rows (False).

    Raises:
        SinkAhead, SinkBehind: it is neither.
    """
    if found is not None and _place(found) == (part.attempt.batch_id, part.plan_digest):
        return False
    before = part.predecessor
    expected = None if before is None else (before.batch_id, part.predecessor_plan_digest)
    if (None if found is None else _place(found)) == expected:
        return True
    raise out_of_turn(where, part.shard, part.attempt.batch_id, before, found)


def _place(mark: Attempt) -> tuple[int, str]:
    return mark.batch_id, mark.nonce.partition(".")[0]
