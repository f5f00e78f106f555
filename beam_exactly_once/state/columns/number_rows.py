"""Accumulators that are numbers, as columns: the bytes that :mod:`beam_exactly_once.state.tagged` gives each of them. Pure.

All values of one shape have one length, so they are a table of bytes, and a step of numpy writes or reads a column of it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from beam_exactly_once.state.hashing import offsets_of

Shape: TypeAlias = "tuple[bytes, tuple[Shape, ...]] | None"
"""None for a number; else the tag of a list or tuple, and the shapes of its items."""
Column: TypeAlias = "np.ndarray[Any, np.dtype[np.int64] | np.dtype[np.float64]]"

_TAGS = {np.dtype(np.int64): b"i", np.dtype(np.float64): b"d"}
_TYPES = {b"i": "<i8", b"d": "<f8"}
_NUMBER_BYTES = 9


def encode_numbers(shape: Shape, columns: Sequence[Column]) -> pa.LargeBinaryArray:
    """Values of one shape.

    Args:
        shape: that they have.
        columns: the first number of each of them, the second, …, all of int64 or float64.
    """
    rows = np.empty(len(columns[0]), _row_type(shape, [_TYPES[_TAGS[column.dtype]] for column in columns]))
    left = list(columns)
    for name, literal in _literals(shape):
        if literal is None:
            column = left.pop(0)
            rows[name]["tag"], rows[name]["number"] = _TAGS[column.dtype], column
        else:
            rows[name] = np.void(literal)
    width = rows.dtype.itemsize
    offsets = pa.py_buffer(np.arange(0, (len(rows) + 1) * width, width, dtype=np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(rows), [None, offsets, pa.py_buffer(rows)])


def decode_numbers(shape: Shape, column: pa.LargeBinaryArray) -> list[Column] | None:
    """The columns that :func:`encode_numbers` was given; None if one value has another shape, or numbers of another type."""
    offsets = offsets_of(column)
    parts = _literals(shape)
    width = sum(_NUMBER_BYTES if literal is None else len(literal) for _, literal in parts)
    if not len(column) or not (np.diff(offsets) == width).all():
        return None
    data = np.frombuffer(column.buffers()[2], np.uint8, len(column) * width, int(offsets[0]))
    as_bytes = data.view(_row_type(shape, ["<i8"] * len(parts)))
    columns = []
    for name, literal in parts:
        if literal is not None:
            if not (as_bytes[name] == np.void(literal)).all():
                return None
            continue
        tag = bytes(as_bytes[name]["tag"][0])
        if tag not in _TYPES or not (as_bytes[name]["tag"] == tag).all():
            return None
        numbers = np.ascontiguousarray(as_bytes[name]["number"])
        columns.append(numbers.view(np.float64) if tag == b"d" else numbers)
    return columns


def _literals(shape: Shape) -> list[tuple[str, bytes | None]]:
    """A name for each part of a value: bytes that all have, or None for a number."""
    return [(f"f{number}", part) for number, part in enumerate(_parts(shape))]


def _parts(shape: Shape) -> list[bytes | None]:
    if shape is None:
        return [None]
    tag, items = shape
    of_items = [_parts(item) for item in items]
    lengths = [sum(_NUMBER_BYTES if one is None else len(one) for one in parts) for parts in of_items]
    head = struct.pack(f"<c{len(items) + 1}I", tag, len(items), *lengths)
    return [head, *(part for parts in of_items for part in parts)]


def _row_type(shape: Shape, number_types: Sequence[str]) -> np.dtype[Any]:
    left = list(number_types)
    return np.dtype(
        [
            (name, [("tag", "S1"), ("number", left.pop(0))] if literal is None else f"V{len(literal)}")
            for name, literal in _literals(shape)
        ]
    )
