"""What a system must do for a sink whose shards keep receipts: write rows and a receipt in one transaction."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pyarrow as pa

from beam_exactly_once.sinks.receipts import Receipt


@dataclass(frozen=True, slots=True)
class ShardWrite:
    """One transaction: the rows that a batch has for one shard, and the receipt."""

    stream_id: str
    shard: int
    batch_id: int
    receipt: Callable[[], Receipt]
    """The receipt to write. Asked for late, where rows can be on their way meanwhile: it may have to be computed."""
    is_to_write: Callable[[Receipt | None], bool]
    """Told the receipt that was found; raises unless it is the batch's turn."""
    rows: Callable[[], Iterable[pa.RecordBatch]]
    """May be asked for again, where a transaction is tried again."""


class ShardWriter(abc.ABC):
    """Writes to the shards of one sink. Pickled into the graph; runs on workers, never opened before use."""

    shards: int
    where: str
    """The sink and its place, for messages."""

    @abc.abstractmethod
    def write(self, write: ShardWrite) -> None:
        """Write the rows and the receipt in one transaction, unless the receipt that is found in it says otherwise. May be
        called again, at the same time elsewhere, or hundreds of batches late.

        Raises:
            SinkAhead, SinkBehind, ReplayDiffers: by ``write.is_to_write``.
        """

    @abc.abstractmethod
    def check_place(self) -> None:
        """See :meth:`Publisher.check_place`."""

    @abc.abstractmethod
    def prepare(self, stream_id: str) -> None:
        """See :meth:`Publisher.prepare`."""

    @abc.abstractmethod
    def check_start(self, stream_id: str, next_batch_id: int) -> None:
        """See :meth:`Publisher.check_start`."""
