"""What tells two sets of rows apart, whatever their order: their number, and a digest. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

_DIGESTS = 1 << 128
_NULL = -1
_NOTHING = pa.scalar(b"", pa.large_binary())


@dataclass(frozen=True, slots=True)
class RowsDigest:
    """Rows without their order. Two that are equal are of the same rows, but for chances of 1 in 2**64 and less."""

    rows: int
    digest: str
    """The sum of the rows' 128-bit hashes, as 32 hexadecimal digits: a row that is there twice counts twice."""


def digest_of(batches: Iterable[pa.RecordBatch]) -> RowsDigest:
    """Of all rows of ``batches``, which may be cut anyhow."""
    rows, total = 0, 0
    for batch in batches:
        rows += batch.num_rows
        total += sum(map(xxhash.xxh3_128_intdigest, row_bytes(batch).to_pylist()))
    return RowsDigest(rows, f"{total % _DIGESTS:032x}")


def row_bytes(batch: pa.RecordBatch) -> pa.Array:
    """Each row as bytes that no other row has: the lengths of its values, then the values."""
    columns = [_as_bytes(column) for column in batch.columns]
    lengths = np.empty((batch.num_rows, len(columns)), np.int32)
    for number, column in enumerate(columns):
        lengths[:, number] = pc.fill_null(pc.cast(pc.binary_length(column), pa.int32()), _NULL)
    of_row = pa.binary(lengths.itemsize * len(columns))  # a fixed width
    heads = pa.Array.from_buffers(of_row, batch.num_rows, [None, pa.py_buffer(lengths)]).cast(pa.large_binary())
    return pc.binary_join_element_wise(heads, *columns, _NOTHING, null_handling="replace", null_replacement=b"")


def _as_bytes(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _as_bytes(column.dictionary_decode())
    if pa.types.is_boolean(kind):
        column, kind = column.cast(pa.uint8()), pa.uint8()
    if pa.types.is_primitive(kind) or pa.types.is_decimal(kind):
        fixed = pa.binary(kind.bit_width // 8)
        column = pa.Array.from_buffers(fixed, len(column), column.buffers(), offset=column.offset)
    elif pa.types.is_nested(kind):
        # Few columns are, and most of them are empty; a text of them costs what it costs.
        texts = (None if value is None else repr(value).encode() for value in _values(column))
        return pa.array(texts, pa.large_binary(), size=len(column))
    return column.cast(pa.large_binary())


def _values(column: pa.Array) -> list[object]:
    return [None] * len(column) if column.null_count == len(column) else column.to_pylist()
