"""How the values of this library travel between workers. Most stay in one fused stage, and are never encoded."""

from __future__ import annotations

import pickle
from typing import Any, ClassVar

import apache_beam as beam
import orjson
import pyarrow as pa

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.kafka import Chunk
from beam_exactly_once.transforms.batch_task import BatchTask


class JsonCoder(beam.coders.Coder):
    """Values that have ``to_json`` and ``from_json``. Wire shape: ``[1, JSON]``; the 1 is its version."""

    VERSION = 1
    value_type: ClassVar[Any]

    def encode(self, value: Any) -> bytes:
        """The value as JSON."""
        return orjson.dumps([self.VERSION, value.to_json()])

    def decode(self, encoded: bytes) -> Any:
        """The inverse of :meth:`encode`."""
        version, sent = orjson.loads(encoded)
        if version != self.VERSION:
            raise ValueError(
                f"cannot decode a {self.value_type.__name__} of version {version}: workers and driver must run one version"
            )
        return self.value_type.from_json(sent)

    def is_deterministic(self) -> bool:
        """The same value may have its fields in another order."""
        return False

    def to_type_hint(self) -> Any:
        """What this encodes."""
        return self.value_type


class TaskCoder(JsonCoder):
    """Tasks between workers."""

    value_type = BatchTask


class AttemptCoder(JsonCoder):
    """Attempts between workers."""

    value_type = Attempt


class OneOfCoder(beam.coders.Coder):
    """A value of one of several types. Wire shape: the number of the type in one byte, then as its own coder has it."""

    value_type: ClassVar[Any]
    members: ClassVar[tuple[tuple[Any, beam.coders.Coder], ...]]

    def encode(self, value: Any) -> bytes:
        """The value behind its type."""
        for number, (member, coder) in enumerate(self.members):
            if type(value) is member:
                encoded: bytes = coder.encode(value)
                return bytes([number]) + encoded
        raise TypeError(f"{type(value).__name__} is not a {self.value_type.__name__}")

    def decode(self, encoded: bytes) -> Any:
        """The inverse of :meth:`encode`."""
        return self.members[encoded[0]][1].decode(encoded[1:])

    def is_deterministic(self) -> bool:
        """As its members."""
        return False

    def to_type_hint(self) -> Any:
        """What this encodes."""
        return self.value_type


class ChunkCoder(beam.coders.Coder):
    """Chunks, which fusion keeps from ever being encoded; pickled between workers if a runner does not fuse.

    Its size estimate is cheap: runners sample sizes, and pickling a chunk for a sample would cost more than reading it.
    """

    def encode(self, value: Chunk) -> bytes:
        """A pickle: for our own worker, never stored."""
        return pickle.dumps(value, protocol=5)

    def decode(self, encoded: bytes) -> Chunk:
        """The inverse of :meth:`encode`."""
        return pickle.loads(encoded)  # type: ignore[no-any-return] # noqa: S301

    def is_deterministic(self) -> bool:
        """Nobody groups by a chunk."""
        return False

    def estimate_size(self, value: Chunk) -> int:
        """Bytes of keys and values."""
        return value.bytes

    def to_type_hint(self) -> type[Chunk]:
        """Chunks are what this encodes."""
        return Chunk


class RecordBatchCoder(beam.coders.Coder):
    """Arrow's own stream format."""

    def encode(self, value: pa.RecordBatch) -> bytes:
        """Schema and batch."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_batch(value)
        return bytes(sink.getvalue())

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        """The inverse of :meth:`encode`."""
        with pa.ipc.open_stream(encoded) as reader:
            return reader.read_next_batch()

    def estimate_size(self, value: pa.RecordBatch) -> int:
        """Bytes of its buffers."""
        return int(value.nbytes)

    def is_deterministic(self) -> bool:
        """Dictionaries and padding may differ."""
        return False

    def to_type_hint(self) -> type[pa.RecordBatch]:
        """Record batches are what this encodes."""
        return pa.RecordBatch  # type: ignore[no-any-return]


beam.coders.registry.register_coder(Attempt, AttemptCoder)
beam.coders.registry.register_coder(BatchTask, TaskCoder)
beam.coders.registry.register_coder(Chunk, ChunkCoder)
beam.coders.registry.register_coder(pa.RecordBatch, RecordBatchCoder)
