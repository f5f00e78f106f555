"""The contract of all sinks: *stage* in the graph under names that no other execution uses, *publish* by the marker alone.

A sink without shards publishes each committable by itself, and finds out from what it published whether it has.

A sink with shards publishes all that a batch has for one shard in one transaction, together with a **receipt**:
``(stream id, sink, shard) -> attempt``. The receipt is compared and set: equal, the batch is there; the predecessor's, write;
anything else stops. So a shard has every batch once and in order, whoever publishes it, however often and however late.
Every batch leaves a receipt in every shard, also in one without rows, since the next batch must find it.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from dataclasses import dataclass

from beam_exactly_once.checkpoint import Attempt, Marker, Predecessor
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import SinkAhead, SinkBehind
from beam_exactly_once.sinks.receipts import Receipt, StagedReceipt


@dataclass(frozen=True, slots=True)
class Part:
    """What is published as one: a committable, or all that a batch has for one shard."""

    stream_id: str
    attempt: Attempt
    """Of the marker: the one that won."""
    predecessor: Attempt | None
    """Whose receipt to find in the shard; None while it has none."""
    shard: int
    committables: tuple[Json, ...]
    plan_digest: str = ""
    """Of the plan that the marker decided."""
    predecessor_plan_digest: str = ""
    """Of the plan before it."""

    @property
    def receipt(self) -> StagedReceipt:
        """What the shard holds once this part is written behind its marker."""
        return StagedReceipt(self.attempt)

    def to_json(self) -> Json:
        """As it travels to the worker that publishes it."""
        return {
            "stream_id": self.stream_id,
            "attempt": self.attempt.to_json(),
            "predecessor": None if self.predecessor is None else self.predecessor.to_json(),
            "shard": self.shard,
            "committables": list(self.committables),
            "plan_digest": self.plan_digest,
            "predecessor_plan_digest": self.predecessor_plan_digest,
        }

    @classmethod
    def from_json(cls, sent: Json) -> Part:
        """From what travelled."""
        predecessor = sent["predecessor"]
        return cls(
            sent["stream_id"],
            Attempt.from_json(sent["attempt"]),
            None if predecessor is None else Attempt.from_json(predecessor),
            sent["shard"],
            tuple(sent["committables"]),
            sent["plan_digest"],
            sent["predecessor_plan_digest"],
        )


class DriverSide(abc.ABC):  # noqa: B024 (a sink without a place of its own has nothing to do here)
    """What the driver does with a sink at each start, before anything runs; in this order."""

    def check_place(self) -> None:  # noqa: B027
        """Prove, without writing, that the place answers and can be written. Called before the driver claims the stream: a
        wrong address or password must not fence a driver that works.

        Raises:
            OutputNotWritable, UnsuitableStore, Retryable: the place refuses, or does not answer.
        """

    def check_known_place(self) -> None:
        """As :meth:`check_place`, called instead of it where the checkpoint knows the sink: what an earlier start has proved of
        the place need not be proved again."""
        self.check_place()

    def prepare(self, stream_id: str) -> None:  # noqa: B027
        """Create what the sink needs at its place, unless it exists. Called as long as the checkpoint does not know the sink:
        what is missing later was lost.

        Raises:
            OutputNotWritable: the place refuses.
        """

    def check_start(self, stream_id: str, next_batch_id: int) -> None:  # noqa: B027
        """Take the place for this stream, or prove that it is this stream's; and that it holds no batch from
        ``next_batch_id`` on.

        Raises:
            SinkAhead: it holds batches of another stream, or batches that the checkpoint does not know.
        """


class Publisher(abc.ABC):
    """Makes visible what a marker names. Pickled into the graph; runs on workers, never opened before use.

    Every method may run again, at the same time elsewhere, or hundreds of batches late, and must then do no
    harm: what is published is skipped.
    """

    shards: int = 0
    """How many shards the rows are staged for; 0 for a sink that publishes each committable by itself. A sink with shards gives
    each committable its ``shard``, counted from 0."""
    asks_newest: bool = False
    """Whether one GET a part first makes sure that no newer driver exists: for a sink that has no receipt to look at."""
    is_direct: bool = False
    """Whether the rows are written before the marker, so that each run of a batch must make the same ones."""

    @abc.abstractmethod
    def publish(self, part: Part) -> None:
        """Make one part of the winning attempt visible.

        Raises:
            StagedOutputMissing: it is neither staged nor published.
            SinkAhead, SinkBehind: the receipt of its shard is neither its own nor its predecessor's.
        """

    def finish(self, stream_id: str, attempt: Attempt, committables: tuple[Json, ...]) -> None:  # noqa: B027
        """Called once every part of the batch is visible, also for an empty batch. Receipts leave nothing to do here."""

    def sweep(self, published_batch_id: int) -> None:  # noqa: B027
        """Remove what was staged and is not needed: of losing attempts, and of batches that are published, up to
        ``published_batch_id``. Called by the driver."""


def parts_of(stream_id: str, marker: Marker, sink: str) -> Iterator[Part]:
    """What is to be published of a batch for one sink. Pure."""
    committables = marker.committables.get(sink, ())
    shards = marker.shards.get(sink, 0)
    if not shards:
        for committable in committables:
            yield Part(stream_id, marker.attempt, None, 0, (committable,))
        return
    for shard in range(shards):
        of_shard = tuple(committable for committable in committables if committable["shard"] == shard)
        yield part_of_shard(stream_id, marker.attempt, marker.plan_digest, marker.predecessor, sink, shard, of_shard)


def part_of_shard(
    stream_id: str,
    attempt: Attempt,
    plan_digest: str,
    before: Predecessor | None,
    sink: str,
    shard: int,
    committables: tuple[Json, ...] = (),
) -> Part:
    """What ``attempt`` has for one shard, behind ``before``. Pure."""
    if before is None:
        return Part(stream_id, attempt, None, shard, committables, plan_digest, "")
    has_receipt = shard < before.shards.get(sink, 0)
    receipt = before.attempt if has_receipt else None
    return Part(stream_id, attempt, receipt, shard, committables, plan_digest, before.plan_digest)


def is_to_write(part: Part, found: Receipt | None, where: str) -> bool:
    """What the receipt of a shard says of ``part``: False, it is there; True, write it, and set :attr:`Part.receipt`.
    Pure.

    Args:
        part: what is to be published.
        found: the receipt, read in the transaction that will write; None when there is none.
        where: the sink and its place, for the message.

    Raises:
        SinkAhead: the shard holds a batch that this checkpoint does not know, or decided otherwise.
        SinkBehind: the shard lost a batch that this checkpoint has published.
    """
    if found == part.receipt:
        return False
    if found == (None if part.predecessor is None else StagedReceipt(part.predecessor)):
        return True
    raise out_of_turn(where, part.shard, part.attempt.batch_id, part.predecessor, found)


def out_of_turn(
    where: str, shard: int, batch_id: int, predecessor: Attempt | None, found: Receipt | None
) -> SinkAhead | SinkBehind:
    """The error of a shard whose receipt is neither that of ``batch_id`` nor of the batch before. Pure."""
    if found is not None and (predecessor is None or found.batch_id >= predecessor.batch_id):
        return SinkAhead(
            f"{where}, shard {shard}, holds batch {found.batch_id} of {found.of} of this stream, which does "
            f"not go before batch {batch_id} of the checkpoint: the checkpoint was restored from an older copy, or is used "
            "twice. Nothing was written. Restore the newest checkpoint, or start a new one with continue_from=CheckpointAt(…)."
        )
    holds = "no batch" if found is None else f"batch {found.batch_id}"
    expected = "none" if predecessor is None else f"batch {predecessor.batch_id}"
    return SinkBehind(
        f"{where}, shard {shard}, holds {holds} of this stream, where batch {batch_id} must find {expected}: the sink was "
        "restored from an older copy, or its receipts were removed. Nothing was written. Restore the sink, or start a new "
        "checkpoint_location with continue_from=CheckpointAt(…) at the last batch that it holds."
    )
