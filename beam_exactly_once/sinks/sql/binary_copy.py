"""Arrow columns as the rows of PostgreSQL's binary COPY, whole columns at once. Pure.

In the binary form nothing is cast: the bytes of a value are those of the column's own type, or the server refuses them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)
END = b"\xff\xff"
"""The first and the last bytes that are sent."""

_NULL = b"\xff\xff\xff\xff"
_NO_UUID = "0" * 32
_EPOCH_DAYS = 10_957
_EPOCH_US = 946_684_800_000_000
"""From 1970 to 2000, where PostgreSQL begins to count."""
_GROUP_DIGITS = 4
_GROUP = 10**_GROUP_DIGITS
"""A digit of PostgreSQL's NUMERIC."""
_LIMB_BITS = 32
_LIMBS = 5
"""Enough for 38 digits and for those that make the last group whole."""
_SHORT_DIGITS = 19
"""Two limbs are enough for them."""

Matrix = np.ndarray[Any, np.dtype[np.uint8]]


class _Kind(NamedTuple):
    """How the values of an Arrow type are sent to a type of PostgreSQL."""

    takes: Callable[[pa.DataType], bool]
    fixed: Callable[[pa.Array], Matrix] | None = None
    """The bytes of values that all have as many, one row each; those of nulls mean nothing."""
    version: bytes = b""
    """Without ``fixed``: what is sent before the bytes of a value."""


def is_known(arrow_type: pa.DataType, of_database: str) -> bool:
    """Whether values of an Arrow type can be sent to a column of a type, by PostgreSQL's own name of it."""
    kind = _KINDS.get(of_database)
    return kind is not None and kind.takes(arrow_type)


def binary_rows(batch: pa.RecordBatch, types: Mapping[str, str]) -> memoryview:
    """The rows of a batch, between :data:`BEGIN` and :data:`END`.

    Args:
        batch: whose columns are all known.
        types: of PostgreSQL, by the names of the columns.
    """
    pieces: list[Any] = [pa.scalar(batch.num_columns.to_bytes(2, "big"), pa.large_binary())]
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        pieces += _pieces(column, _KINDS[types[name]])
    rows = pc.binary_join_element_wise(*pieces, pa.scalar(b"", pa.large_binary()))
    first, last = np.frombuffer(rows.buffers()[1], np.int64)[[rows.offset, rows.offset + len(rows)]]
    return memoryview(rows.buffers()[2])[first:last]


def _pieces(column: pa.Array, kind: _Kind) -> Sequence[pa.Array]:
    if kind.fixed is not None:
        values = kind.fixed(column)
        lengths = np.full(len(column), values.shape[1], ">i4").view(np.uint8).reshape(-1, 4)
        sent = _of_matrix(np.hstack([lengths, values]))
        return [pc.if_else(column.is_valid(), sent, pa.scalar(_NULL, pa.large_binary())) if column.null_count else sent]
    texts = column.cast(pa.large_binary())
    counts = pc.add(pc.binary_length(texts), len(kind.version)).fill_null(-1)
    lengths = counts.to_numpy().astype(">i4").view(np.uint8).reshape(-1, 4)
    if kind.version:
        version = np.tile(np.frombuffer(kind.version, np.uint8), (len(column), 1))
        begun = _of_matrix(np.hstack([lengths, version]))
        return [pc.if_else(column.is_valid(), begun, pa.scalar(_NULL, pa.large_binary())), texts.fill_null(b"")]
    return [_of_matrix(lengths), texts.fill_null(b"")]


def _of_matrix(rows: Matrix) -> pa.Array:
    count, width = rows.shape
    offsets = np.arange(count + 1, dtype=np.int64) * width
    data = np.ascontiguousarray(rows)
    return pa.Array.from_buffers(pa.large_binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def _big_endian(numbers: Any, kind: str) -> Matrix:
    big = np.ascontiguousarray(numbers.astype(kind))
    return big.view(np.uint8).reshape(len(big), -1)


def _numbers(kind: str) -> Callable[[pa.Array], Matrix]:
    return lambda column: _big_endian(column.fill_null(0).to_numpy(), kind)


def _booleans(column: pa.Array) -> Matrix:
    return _big_endian(column.fill_null(False).cast(pa.uint8()).to_numpy(), "u1")


def _uuids(column: pa.Array) -> Matrix:
    digits = "".join(column.fill_null(_NO_UUID).to_pylist()).replace("-", "")
    return np.frombuffer(bytes.fromhex(digits), np.uint8).reshape(-1, 16)


def _counted(view: pa.DataType, kind: str, epoch: int = 0) -> Callable[[pa.Array], Matrix]:
    """Days, or microseconds, since PostgreSQL's epoch."""
    return lambda column: _big_endian(column.view(view).fill_null(0).to_numpy() - epoch, kind)


def _numerics(column: pa.Array) -> Matrix:
    """Groups of four digits, as many for each value; PostgreSQL drops those that are zero before and behind."""
    scale = column.type.scale
    behind = -(-scale // _GROUP_DIGITS)
    before = max(1, -(-(column.type.precision - scale) // _GROUP_DIGITS))
    is_negative, limbs = _magnitudes(column)
    digits_behind = behind * _GROUP_DIGITS - scale
    if column.type.precision + digits_behind <= _SHORT_DIGITS:
        limbs = limbs[:2]
    _multiply(limbs, 10**digits_behind)
    sent = np.zeros((len(column), 4 + before + behind), ">i2")
    sent[:, 0], sent[:, 1], sent[:, 3] = before + behind, before - 1, scale
    sent[:, 2] = np.where(is_negative, 0x4000, 0)
    for group in reversed(range(before + behind)):
        sent[:, 4 + group] = _divide(limbs)
    return sent.view(np.uint8).reshape(len(column), -1)


def _magnitudes(column: pa.Array) -> tuple[Any, Any]:
    """Whether decimals are negative, and their digits without sign or point, the lowest 32 bits first."""
    halves = np.frombuffer(column.buffers()[1], np.uint64).reshape(-1, 2)[column.offset : column.offset + len(column)]
    is_negative = halves[:, 1] >> np.uint64(63) == 1
    low = np.where(is_negative, ~halves[:, 0] + np.uint64(1), halves[:, 0])
    high = np.where(is_negative, ~halves[:, 1] + (low == 0), halves[:, 1])
    limbs = np.zeros((_LIMBS, len(column)), np.uint64)
    for place, half in enumerate((low, high)):
        limbs[2 * place] = half & np.uint64(2**_LIMB_BITS - 1)
        limbs[2 * place + 1] = half >> np.uint64(_LIMB_BITS)
    return is_negative, limbs


def _multiply(limbs: Any, factor: int) -> None:
    carry = np.zeros(limbs.shape[1], np.uint64)
    for limb in limbs:
        carry += limb * np.uint64(factor)
        limb[:] = carry & np.uint64(2**_LIMB_BITS - 1)
        carry >>= np.uint64(_LIMB_BITS)


def _divide(limbs: Any) -> Any:
    """Divide by 10,000 in place; gives what is left."""
    rest = np.zeros(limbs.shape[1], np.uint64)
    for limb in limbs[::-1]:
        limb[:], rest = np.divmod((rest << np.uint64(_LIMB_BITS)) | limb, np.uint64(_GROUP))
    return rest


def _moments(zone: bool) -> Callable[[pa.DataType], bool]:
    return lambda kind: pa.types.is_timestamp(kind) and kind.unit == "us" and (kind.tz is not None) == zone


def _only(*types: pa.DataType) -> Callable[[pa.DataType], bool]:
    return lambda kind: kind in types


def _takes_numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal128(kind)) and 0 <= kind.scale <= kind.precision


_TEXT = _Kind(_only(pa.string()))

_KINDS: dict[str, _Kind] = {
    "bool": _Kind(_only(pa.bool_()), _booleans),
    "int2": _Kind(_only(pa.int16()), _numbers(">i2")),
    "int4": _Kind(_only(pa.int32()), _numbers(">i4")),
    "int8": _Kind(_only(pa.int64()), _numbers(">i8")),
    "float4": _Kind(_only(pa.float64()), _numbers(">f4")),
    "float8": _Kind(_only(pa.float64()), _numbers(">f8")),
    "numeric": _Kind(_takes_numeric, _numerics),
    "date": _Kind(_only(pa.date32()), _counted(pa.int32(), ">i4", _EPOCH_DAYS)),
    "time": _Kind(_only(pa.time64("us")), _counted(pa.int64(), ">i8")),
    "timestamp": _Kind(_moments(zone=False), _counted(pa.int64(), ">i8", _EPOCH_US)),
    "timestamptz": _Kind(_moments(zone=True), _counted(pa.int64(), ">i8", _EPOCH_US)),
    "bytea": _Kind(_only(pa.binary())),
    "text": _TEXT,
    "varchar": _TEXT,
    "bpchar": _TEXT,
    "json": _TEXT,
    "uuid": _Kind(_only(pa.string()), _uuids),
    "jsonb": _Kind(_only(pa.string()), version=b"\1"),
}
"""By the names that PostgreSQL's catalogue has for its own types."""
