"""The contract of a sink that can write rows and a receipt in one transaction; ``WriteToSql`` and ``WriteToKafka`` keep it, too.

    class CrmSink(TransactionalSink):
        kind, location = "crm", "crm://orders"

        def write(self, delivery):
            with crm.transaction() as transaction:
                if delivery.is_due(transaction.read("receipt", delivery.key)):
                    for batch in delivery.rows():
                        transaction.insert("orders", batch.to_pylist())
                    transaction.write("receipt", delivery.key, delivery.receipt)

``orders | WriteTo(CrmSink(), schema=ORDERS)`` writes every row of a committed batch exactly once, whatever crashes.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from beam_exactly_once.sinks.contract import DriverSide
from beam_exactly_once.sinks.receipts import Receipt, receipt_text, text_receipt


@dataclass(frozen=True, slots=True)
class Delivery:
    """All rows that a batch has for one shard of a sink, and the receipt to store with them. Streams make it, sinks get it.

    Attributes:
        stream_id: of the checkpoint.
        sink: name of the sink in its stream.
        shard: counted from 0.
        batch_id: number of the batch.
    """

    stream_id: str
    sink: str
    shard: int
    batch_id: int
    _receipt: Callable[[], Receipt]
    """Asked for late, where rows can be on their way meanwhile: it may have to be computed."""
    _is_due: Callable[[Receipt | None], bool]
    _rows: Callable[[], Iterable[pa.RecordBatch]]

    @property
    def key(self) -> str:
        """The key of the receipt: stream, sink and shard. The same for every batch, and for nothing else."""
        return f"{self.stream_id}/{self.sink}/{self.shard}"

    @property
    def receipt(self) -> str:
        """The receipt to store under :attr:`key`, in the place of the one before; at most 250 letters of ASCII."""
        return receipt_text(self._receipt())

    def is_due(self, found: str | None) -> bool:
        """Whether to write: True, write the rows and the receipt; False, both are there, so write nothing.

        Args:
            found: the receipt that is stored under :attr:`key`, read within the transaction that writes; None if there is none.

        Raises:
            SinkAhead: the shard holds a batch that this checkpoint does not know. Let it pass, and write nothing.
            SinkBehind: the shard lost a batch that this checkpoint has published. Let it pass, and write nothing.
            ReplayDiffers: with ``direct=True``, an earlier run of the batch wrote other rows.
            CorruptObject: ``found`` is not a receipt.
        """
        return self._is_due(None if found is None else text_receipt(found, self.key))

    def rows(self) -> Iterator[pa.RecordBatch]:
        """The rows, many at a time. May be called again, where a transaction is tried again.

        Staged rows are read while they are iterated over: at most about 32 MiB are in memory. With ``direct=True`` all rows of
        the shard are. Errors of reading must end the transaction without a commit.

        Raises:
            StagedOutputMissing, CorruptObject, StoreUnavailable: the staged rows cannot be read.
        """
        yield from self._rows()


class TransactionalSink(DriverSide):
    """Writes the rows of a batch and a receipt to a system that has transactions. Pickled into the graph; runs on workers.

    **What you provide.** A transaction that reads one text, and writes rows and that text, all or nothing. Two transactions that
    read the same :attr:`Delivery.key` must not both commit: lock the text, or compare it when it is set. A connection is opened
    in :meth:`write`, or kept by the process, since an open one cannot be pickled.

    **What you get.** Every row of a committed batch once, and each shard's batches in order, whatever crashes, whoever writes,
    and however late. A batch is delivered to every shard, also without rows, since the next one must find its receipt.

    **What a crash leaves.** Before the commit of your transaction: nothing, and the next start writes. After it: rows and
    receipt, so :meth:`Delivery.is_due` says False to the next start. If nobody knows whether the commit was carried out, raise
    ``SinkUnavailable``: the next start reads the receipt, and knows.

    Errors that you raise end the stream. The batch stays committed, and the next start delivers it first.

    Attributes:
        kind: what kind of sink it is, such as ``"crm"``; its name unless ``name=`` is given.
        location: where it writes, without a secret. The checkpoint keeps both: a sink that changed them is ``PipelineChanged``.
    """

    kind: str
    location: str

    @abc.abstractmethod
    def write(self, delivery: Delivery) -> None:
        """Write the rows and the receipt in one transaction, if they are due.

        It may be called again, at the same time elsewhere, or hundreds of batches late. In one transaction: read the receipt
        under ``delivery.key``, ask ``delivery.is_due(…)``, and if so write ``delivery.rows()`` and ``delivery.receipt``.

        Raises:
            SinkAhead, SinkBehind, ReplayDiffers: by ``delivery.is_due``.
        """

    def find_refused(self, delivery: Delivery, decide: Callable[[Mapping[int, str]], None]) -> None:
        """Find the rows that make :meth:`write` end with ``OutputNotWritable``; write nothing. Left as it is, it finds none.

        In one transaction, to be rolled back: read the receipt as :meth:`write` does, and return if the delivery is not due. Try
        the rows one by one, each upon those that were taken. Before the transaction ends, call ``decide`` with the rows that
        are refused by themselves, counted from 0 in the order of ``delivery.rows()``, and why, without their values.
        """
