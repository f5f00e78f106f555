"""Rows that wait for their batch's commit, in the checkpoint location.

    StagedRows("orders", checkpoint).read(part) -> the rows of a shard

They wait below ``staging/rows/<sink>/`` as Arrow streams, under names that no other execution of a bundle uses. A sink
reads them when it publishes, and sweeps them afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pyarrow as pa

from beam_exactly_once.checkpoint import Attempt, layout
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import CorruptObject, StagedOutputMissing
from beam_exactly_once.object_store import ObjectStore, Taken
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.sinks.contract import Part

_COMPRESSION = pa.ipc.IpcWriteOptions(compression="zstd")


class StagedRows:
    """The staged rows of one sink.

    Args:
        sink: name of the sink.
        checkpoint: the stream's checkpoint location.
    """

    def __init__(self, sink: str, checkpoint: StoreLocation) -> None:
        self._sink = sink
        self._checkpoint = checkpoint

    @property
    def store(self) -> ObjectStore:
        """The checkpoint location's."""
        return self._checkpoint.store

    def stage(self, attempt: Attempt, token: str, number: int, shard: int, batches: list[pa.RecordBatch]) -> Json:
        """Write rows of one shard, all of one schema; returns their committable."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batches[0].schema, options=_COMPRESSION) as writer:
            for batch in batches:
                writer.write_batch(batch)
        body = sink.getvalue().to_pybytes()
        key = layout.rows_key(self._sink, attempt.batch_id, attempt.nonce, token, number)
        store = self._checkpoint.store
        if isinstance(store.put_if_absent(key, body), Taken):
            raise CorruptObject(f"{store.uri}/{key} exists with other rows, although its name is random. Start again.")
        return {
            "shard": shard,
            "key": key,
            "rows": sum(batch.num_rows for batch in batches),
            "size_bytes": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }

    def read(self, part: Part) -> Iterator[pa.RecordBatch]:
        """The rows of a part; those of one bundle in their order, bundles in no order that means anything.

        Raises:
            StagedOutputMissing: an object is gone.
            CorruptObject: an object is not what the marker names.
        """
        store = self._checkpoint.store
        for committable in sorted(part.committables, key=lambda one: str(one["key"])):
            key = committable["key"]
            body = store.get(key)
            if body is None:
                raise StagedOutputMissing(
                    f"{store.uri}/{key}, {committable['rows']} rows of batch {part.attempt.batch_id} for sink {self._sink!r}, is "
                    "gone and not published. Restore it from a copy; nothing else holds these rows but Kafka."
                )
            if hashlib.sha256(body).hexdigest() != committable["sha256"]:
                raise CorruptObject(f"{store.uri}/{key} is not what the marker names. Restore it from a copy.")
            with pa.ipc.open_stream(body) as reader:
                yield from reader

    def sweep(self, published_batch_id: int) -> None:
        """Remove what was staged for batches up to ``published_batch_id``: all of them are published."""
        store = self._checkpoint.store
        old = []
        for entry in store.list(layout.rows_prefix(self._sink)):
            batch_id = layout.rows_batch_id(entry.key)
            if batch_id is not None and batch_id <= published_batch_id:
                old.append(entry.key)
        store.delete(old)
