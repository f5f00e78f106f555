"""A section: one run as bytes. A state object is sections one behind the other, and nothing else.

Where a section lies, how long it is and its checksum stand in the list that names it, so a reader needs one ranged read. What it
reads is exactly what was written, or an error that says where: a section that is missing is never taken for an empty one.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from beam_exactly_once.errors import CheckpointHole, CorruptObject, NewerFormat
from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.state.ordering import rises
from beam_exactly_once.state.run import NEVER, Run
from beam_exactly_once.state.state_list import Section, Slice

FORMAT = b"1"
DIGEST_DIGITS = 32
THREADS_FROM_BYTES = 1 << 20
"""To compress or decompress less than that by many threads costs more than to do it by one."""

Fetch: TypeAlias = Callable[[str, int, int], bytes]
"""Key of an object, first byte, number of bytes."""

_FORMAT_KEY = b"beam_exactly_once.section"
_SIMPLE = (
    *(pa.types.is_primitive, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null),
    *(pa.types.is_string, pa.types.is_large_string),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary),
)
_NESTED = (
    *(pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
    *(pa.types.is_struct, pa.types.is_map),
)


def pack(object_key: str, runs: Iterable[Run]) -> tuple[bytes, list[Section]]:
    """The bytes of a state object that holds these runs in their order, and where each of them lies.

    Raises:
        ValueError: a section cannot hold values of their type.
    """
    bodies, refs, offset = [], [], 0
    for run in runs:
        body = _encoded(run)
        refs.append(Section(object_key, offset, len(body), _digest(body), len(run), run.tombstones))
        bodies.append(body)
        offset += len(body)
    return b"".join(bodies), refs


def fetch_from(store: ObjectStore) -> Fetch:
    """Reads the bytes of sections from a store.

    What it returns raises ``CheckpointHole`` for an object that is gone.
    """

    def fetch(object_key: str, offset: int, size_bytes: int) -> bytes:
        body = store.get_range(object_key, offset, size_bytes)
        if body is None:
            raise CheckpointHole(
                f"{store.uri}/{object_key} does not exist, and a commit marker names the {size_bytes} bytes of state in it from "
                f"byte {offset} on. Restore it from a copy."
            )
        return body

    return fetch


def read_section(ref: Section, body: bytes) -> Run:
    """The run in ``body``.

    Raises:
        CorruptObject: it is not what ``ref`` names.
        NewerFormat: a newer version of this library wrote it.
    """
    if len(body) != ref.size_bytes:
        raise _corrupt(ref, f"ends after {len(body)} of {ref.size_bytes} bytes")
    if _digest(body) != ref.digest:
        raise _corrupt(ref, "does not match its checksum")
    try:
        batch = _only_batch(ref, body)
        batch.validate(full=True)
        run = run_in(batch)
        _check(run)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _corrupt(ref, f"is not a section ({error})") from None
    if (len(run), run.tombstones) != (ref.rows, ref.tombstones):
        raise _corrupt(ref, f"has {len(run)} rows and {run.tombstones} tombstones, not {ref.rows} and {ref.tombstones}")
    return run


def batch_of(run: Run) -> pa.RecordBatch:
    """The columns of a run.

    Raises:
        ValueError: a section cannot hold values of this type.
    """
    columns = [run.hashes, run.keys, run.subkeys, run.values, run.expiry_ms, run.versions]
    columns += [] if run.by_expiry is None else [run.by_expiry]
    schema = _schema(run.values.type, expires=run.by_expiry is not None)
    return pa.RecordBatch.from_arrays(
        [pa.array(column) if isinstance(column, np.ndarray) else column for column in columns], schema=schema
    )


def run_in(batch: pa.RecordBatch) -> Run:
    """The run that has these columns, without a copy.

    Raises:
        ValueError: they are not those of a section.
    """
    names = batch.schema.names
    value_type = batch.schema.field("value").type if "value" in names else pa.large_binary()
    if not batch.schema.equals(_schema(value_type, expires="by_expiry" in names), check_metadata=True):
        raise ValueError(f"its columns are {names}, or their types are others")
    if any(batch.column(name).null_count for name in names if name != "value"):
        raise ValueError("there are nulls where none can be")
    hashes, expiry_ms, versions = (batch.column(name).to_numpy() for name in ("hash", "expiry_ms", "version"))
    by_expiry = batch.column("by_expiry").to_numpy() if "by_expiry" in names else None
    keys, subkeys, values = (batch.column(name) for name in ("key", "subkey", "value"))
    return Run(hashes, keys, subkeys, values, expiry_ms, versions, by_expiry)


def runs_of(one: Slice, fetch: Fetch) -> list[Run]:
    """All that is remembered of a slice, the newest run first, without rows of other slices.

    Raises:
        CheckpointHole, CorruptObject: as of :func:`read_section`, and where the object is gone.
    """
    sections = ((ref, fetch(ref.object_key, ref.offset, ref.size_bytes)) for ref in one.sections)
    return [read_section(ref, body).slice(one.first_hash, one.end_hash) for ref, body in sections]


def _schema(value_type: pa.DataType, *, expires: bool) -> pa.Schema:
    _check_type(value_type)
    columns = [
        *[("hash", pa.uint64()), ("key", pa.large_binary()), ("subkey", pa.large_binary()), ("value", value_type)],
        *[("expiry_ms", pa.int64()), ("version", pa.uint8())],
    ]
    return pa.schema(columns + ([("by_expiry", pa.uint32())] if expires else []), {_FORMAT_KEY: FORMAT})


def _check_type(value_type: pa.DataType) -> None:
    """Refuse types that are more than their bytes: extensions, dictionaries, unions, views."""
    if any(is_simple(value_type) for is_simple in _SIMPLE) and not isinstance(value_type, pa.BaseExtensionType):
        return
    if not any(is_nested(value_type) for is_nested in _NESTED):
        raise ValueError(f"state cannot be of type {value_type}")
    for number in range(value_type.num_fields):
        _check_type(value_type.field(number).type)


def _encoded(run: Run) -> bytes:
    batch = batch_of(run)
    sink = io.BytesIO()  # a buffer of Arrow would be copied
    options = ipc.IpcWriteOptions(compression="zstd", use_threads=run.size_bytes >= THREADS_FROM_BYTES)
    with ipc.new_stream(pa.PythonFile(sink, "w"), batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _only_batch(ref: Section, body: bytes) -> pa.RecordBatch:
    options = ipc.IpcReadOptions(use_threads=len(body) >= THREADS_FROM_BYTES)
    with ipc.open_stream(pa.py_buffer(body), options=options) as reader:
        written = (reader.schema.metadata or {}).get(_FORMAT_KEY, b"")
        if written != FORMAT and written.isdigit():
            raise NewerFormat(
                f"{ref.object_key} has a section of format {written.decode()} at byte {ref.offset}; this version reads format "
                f"{FORMAT.decode()}. Install the newer beam_exactly_once that wrote it."
            )
        batches = list(reader)
    if len(batches) != 1:
        raise ValueError(f"it has {len(batches)} batches of rows")
    return batches[0]


def _check(run: Run) -> None:
    if not rises(run.hashes, run.keys, run.subkeys):
        raise ValueError("its rows are not sorted")
    if run.by_expiry is None:
        if len(run) and run.expiry_ms.min() < NEVER:
            raise ValueError("its rows expire in no order")
        return
    seen = np.zeros(len(run), np.bool_)
    if len(run) and run.by_expiry.max() < len(run):
        seen[run.by_expiry] = True
    if not seen.all() or (np.diff(run.expiry_ms[run.by_expiry]) < 0).any():
        raise ValueError("its rows expire in another order")


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:DIGEST_DIGITS]


def _corrupt(ref: Section, what: str) -> CorruptObject:
    return CorruptObject(f"{ref.object_key}: the section at byte {ref.offset} {what}. Restore the object from a copy.")
