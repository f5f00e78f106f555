"""Values as tagged bytes: what keys and accumulators are stored as. Never pickle.

Each value is one byte that says its type, then the value::

    n            None            i  8 bytes       int of 64 bits      s  UTF-8         str
    F, T         False, True     I  n bytes       any other int       b  bytes         bytes
    d  8 bytes   float           D, M, Y  text    Decimal, datetime, date
    t, l, m, S, Z                tuple, list, dict (key, value, …), set, frozenset:
                                 number of items (4 bytes), length of each (4 bytes each), the items

Numbers are little-endian, ints in two's complement; sets are sorted by the bytes of their items, dicts keep their order. Values
of different types never have the same bytes: ``1``, ``True`` and ``1.0`` are three. Only exact types are taken: what a subclass
adds would be lost.

Whole columns go through :func:`encode_column` and :func:`decode_column`, which give the same as value by value, faster.
"""

from __future__ import annotations

import datetime
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.state.hashing import offsets_of

MOST_NESTED = 64
"""Levels of tuples, lists, dicts and sets in each other. A value that holds itself has no end."""

_UINT = struct.Struct("<I")
_INT64 = struct.Struct("<cq")
_FLOAT64 = struct.Struct("<cd")
_NOTHING = pa.scalar(b"", pa.large_binary())

Encoder: TypeAlias = "Callable[[Any, Kinds, int], bytes]"
Kinds: TypeAlias = Mapping[type, Encoder]
"""The types that are taken, with their encoders. Those of an item are those of what holds it."""


class Unstorable(ValueError):
    """A value that has no such bytes. The message has no value in it."""

    def __init__(self, kind: type, why: str = "") -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why


def encode(value: Any, kinds: Kinds, room: int = MOST_NESTED) -> bytes:
    """``value`` as bytes.

    Args:
        value: of one of ``kinds``, like all that it holds.
        kinds: what is taken.
        room: how many levels it may have.

    Raises:
        Unstorable: it is, or holds, something else.
    """
    encoder = kinds.get(type(value))
    if encoder is None:
        raise Unstorable(type(value))
    return encoder(value, kinds, room)


def decode(data: bytes) -> Any:
    """What :func:`encode` has made.

    Raises:
        ValueError: it has not made these bytes.
    """
    try:
        return _decode(data)
    except (LookupError, ArithmeticError, TypeError, struct.error):
        raise ValueError("these bytes are no value") from None


def _decode(data: bytes) -> Any:
    return _DECODERS[data[0]](data)


def encode_column(values: Sequence[Any], kinds: Kinds) -> pa.LargeBinaryArray:
    """Each of ``values`` as bytes.

    Raises:
        Unstorable: one is, or holds, something that is not taken.
    """
    types = set(map(type, values))
    if not kinds.keys() >= types:
        return _one_by_one(values, kinds)
    present = types - {type(None)}
    kind = present.pop() if len(present) == 1 else type(None)
    arrow_type = _ARROW_TYPES.get(kind)
    if arrow_type is not None:
        try:
            return encode_arrow(pa.array(values, arrow_type))
        except (OverflowError, UnicodeEncodeError, pa.ArrowInvalid):
            pass  # an int of more bits, or what is to be refused by its name
    elif len(types) == 1 and kind in _TAGS and values[0] and len(set(map(len, values))) == 1:
        return join_items([_items_column(items, kinds) for items in zip(*values, strict=True)], _TAGS[kind])
    return _one_by_one(values, kinds)


def encode_arrow(column: pa.Array) -> pa.LargeBinaryArray:
    """Each value of an Arrow column as the bytes that the same Python value has; null is None.

    Raises:
        TypeError: columns of this type hold other values than None, bool, int, float, str and bytes.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return encode_arrow(column.dictionary_decode())
    if pa.types.is_null(kind):
        return pa.array([b"n"] * len(column), pa.large_binary())
    if pa.types.is_boolean(kind):
        encoded = pc.if_else(column, pa.scalar(b"T", pa.large_binary()), pa.scalar(b"F", pa.large_binary()))
    elif kind == pa.uint64() and (pc.max(column).as_py() or 0) >= 1 << 63:
        return pa.array([encode(value, PLAIN) for value in column.to_pylist()], pa.large_binary())
    elif pa.types.is_integer(kind):
        encoded = _fixed(b"i", column.cast(pa.int64()), "<i8")
    elif kind == pa.float64():
        encoded = _fixed(b"d", column, "<f8")
    elif pa.types.is_large_string(kind) or pa.types.is_string(kind):
        encoded = _joined(b"s", column)
    elif pa.types.is_large_binary(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind):
        encoded = _joined(b"b", column)
    else:
        raise TypeError(str(kind))
    return pc.fill_null(encoded, pa.scalar(b"n", pa.large_binary())) if encoded.null_count else encoded


def join_items(columns: Sequence[pa.LargeBinaryArray], tag: bytes = b"t") -> pa.LargeBinaryArray:
    """Tuples, or lists, of as many items as there are ``columns``, each of which has the bytes of one item of all of them."""
    count = len(columns[0])
    heads = np.empty((count, len(columns) + 1), "<u4")
    heads[:, 0] = len(columns)
    for number, column in enumerate(columns, 1):
        heads[:, number] = pc.binary_length(column).to_numpy()
    tagged = np.empty((count, 1 + heads.itemsize * heads.shape[1]), np.uint8)
    tagged[:, 0] = ord(tag)
    tagged[:, 1:] = heads.view(np.uint8)
    return pc.binary_join_element_wise(of_rows(tagged), *columns, _NOTHING)


def decode_column(column: pa.Array) -> list[Any]:
    """What :func:`encode_column` was given.

    Raises:
        ValueError: bytes that it has not made.
    """
    lengths = pc.unique(pc.binary_length(column))
    if len(column) and len(lengths) == 1 and lengths[0].as_py():
        values = _decode_rows(rows_of(column, lengths[0].as_py()))
        if values is not None:
            return values
    texts = _decode_texts(column)
    return list(map(decode, column.to_pylist())) if texts is None else texts


def _items_column(items: Sequence[Any], kinds: Kinds) -> pa.LargeBinaryArray:
    """Of items of tuples or lists. What holds items itself goes one by one, which counts the levels."""
    holds_none = _ARROW_TYPES.keys() >= set(map(type, items)) - {type(None)}
    return encode_column(items, kinds) if holds_none else _one_by_one(items, kinds, MOST_NESTED - 1)


def _one_by_one(values: Sequence[Any], kinds: Kinds, room: int = MOST_NESTED) -> pa.LargeBinaryArray:
    return pa.array([encode(value, kinds, room) for value in values], pa.large_binary())


def _joined(tag: bytes, column: pa.Array) -> pa.LargeBinaryArray:
    return pc.binary_join_element_wise(pa.scalar(tag, pa.large_binary()), column.cast(pa.large_binary()), _NOTHING)


def _fixed(tag: bytes, column: pa.Array, numpy_type: str) -> pa.LargeBinaryArray:
    present = column.is_valid() if column.null_count else None
    numbers = (column.fill_null(0) if column.null_count else column).to_numpy().astype(numpy_type)
    tagged = np.empty((len(numbers), 1 + numbers.itemsize), np.uint8)
    tagged[:, 0] = ord(tag)
    tagged[:, 1:] = numbers.view(np.uint8).reshape(len(numbers), numbers.itemsize)
    encoded = of_rows(tagged)
    return encoded if present is None else pc.if_else(present, encoded, pa.scalar(None, pa.large_binary()))


def of_rows(rows: np.ndarray[Any, np.dtype[np.uint8]]) -> pa.LargeBinaryArray:
    """A matrix of bytes as a column: a value a row, all of one length."""
    count, width = rows.shape
    offsets = pa.py_buffer(np.arange(0, (count + 1) * width, width, dtype=np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), count, [None, offsets, pa.py_buffer(rows)])


def rows_of(column: pa.Array, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The values of a column whose values are all of one length, as a matrix of bytes."""
    first = column.cast(pa.large_binary()).cast(pa.binary(width))
    data = np.frombuffer(first.buffers()[1], np.uint8, len(column) * width, first.offset * width)
    return data.reshape(len(column), width)


def _decode_rows(rows: np.ndarray[Any, np.dtype[np.uint8]]) -> list[Any] | None:
    """What rows of bytes hold, if they are numbers, or tuples of numbers, of one shape; else None."""
    tag = bytes(rows[:1, 0])
    if not (rows[:, 0] == rows[0, 0]).all():
        return None
    if tag in (b"i", b"d"):
        numbers = np.ascontiguousarray(rows[:, 1:]).view("<i8" if tag == b"i" else "<f8")
        values: list[Any] = numbers.ravel().tolist()
        return values
    if tag not in _FACTORIES:
        return None
    start, lengths = _head(bytes(rows[0]))
    if not lengths or not (rows[:, 1:start] == rows[0, 1:start]).all():
        return None
    columns = []
    for length in lengths:
        items = _decode_rows(rows[:, start : start + length])
        if items is None:
            return None
        columns.append(items)
        start += length
    return list(map(_FACTORIES[tag], zip(*columns, strict=True)))


def _decode_texts(column: pa.LargeBinaryArray) -> list[Any] | None:
    """What a column holds, if that is all str or all bytes; else None."""
    offsets = offsets_of(column)
    if not len(column) or not (offsets[1:] > offsets[:-1]).all():
        return None
    data = np.frombuffer(column.buffers()[2], np.uint8, int(offsets[-1] - offsets[0]), int(offsets[0]))
    tags_at = offsets[:-1] - offsets[0]
    tag = bytes(data[:1])
    if tag not in _TEXTS or not (data[tags_at] == data[0]).all():
        return None
    is_text = np.ones(len(data), np.bool_)
    is_text[tags_at] = False
    ends = pa.py_buffer(offsets - offsets[0] - np.arange(len(offsets)))
    texts = pa.Array.from_buffers(_TEXTS[tag], len(column), [None, ends, pa.py_buffer(data[is_text])])
    values: list[Any] = texts.to_pylist()
    return values


def _head(data: bytes) -> tuple[int, tuple[int, ...]]:
    """Where the items of a container begin, and their lengths."""
    (count,) = _UINT.unpack_from(data, 1)
    return 5 + 4 * count, struct.unpack_from(f"<{count}I", data, 5)


def _encode_int(value: int, kinds: Kinds, room: int) -> bytes:
    try:
        return _INT64.pack(b"i", value)
    except struct.error:
        return b"I" + value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)


def _encode_str(value: str, kinds: Kinds, room: int) -> bytes:
    try:
        return b"s" + value.encode()
    except UnicodeEncodeError:
        raise Unstorable(str, "it has half of a surrogate pair, which UTF-8 cannot say") from None


def _encode_datetime(value: datetime.datetime, kinds: Kinds, room: int) -> bytes:
    if (value.tzinfo is not None and value.tzinfo is not datetime.timezone.utc) or value.fold:
        raise Unstorable(
            datetime.datetime, "only those in UTC, or without a time zone, and with fold=0 come back as they were"
        )
    return b"M" + value.isoformat().encode()


def _encoder_of(tag: bytes, items_of: Callable[[Any, Kinds, int], Iterable[bytes]]) -> Encoder:
    def encode_container(value: Any, kinds: Kinds, room: int) -> bytes:
        if not room:
            raise Unstorable(type(value), f"it has more than {MOST_NESTED} levels, or holds itself")
        items = list(items_of(value, kinds, room - 1))
        return struct.pack(f"<c{len(items) + 1}I", tag, len(items), *map(len, items)) + b"".join(items)

    return encode_container


def _items(value: Iterable[Any], kinds: Kinds, room: int) -> list[bytes]:
    return [encode(item, kinds, room) for item in value]


def _sorted_items(value: Iterable[Any], kinds: Kinds, room: int) -> list[bytes]:
    return sorted(_items(value, kinds, room))


def _pairs(value: Mapping[Any, Any], kinds: Kinds, room: int) -> list[bytes]:
    return [encode(one, kinds, room) for pair in value.items() for one in pair]


def _decode_items(data: bytes) -> list[Any]:
    start, lengths = _head(data)
    items = []
    for length in lengths:
        items.append(_decode(data[start : start + length]))
        start += length
    return items


def _decode_dict(data: bytes) -> dict[Any, Any]:
    items = _decode_items(data)
    return dict(zip(items[::2], items[1::2], strict=True))


def _decode_int(data: bytes) -> int:
    return int.from_bytes(data[1:], "little", signed=True)


KEYS: Kinds = {
    type(None): lambda value, kinds, room: b"n",
    bool: lambda value, kinds, room: b"T" if value else b"F",
    int: _encode_int,
    str: _encode_str,
    bytes: lambda value, kinds, room: b"b" + value,
    tuple: _encoder_of(b"t", _items),
}
"""What a key is made of."""
PLAIN: Kinds = {
    **KEYS,
    float: lambda value, kinds, room: _FLOAT64.pack(b"d", value),
    Decimal: lambda value, kinds, room: b"D" + str(value).encode(),
    datetime.datetime: _encode_datetime,
    datetime.date: lambda value, kinds, room: b"Y" + value.isoformat().encode(),
    list: _encoder_of(b"l", _items),
    dict: _encoder_of(b"m", _pairs),
    set: _encoder_of(b"S", _sorted_items),
    frozenset: _encoder_of(b"Z", _sorted_items),
}
"""What an accumulator is made of."""

_TEXTS = {b"s": pa.large_string(), b"b": pa.large_binary()}
_TAGS: dict[type, bytes] = {tuple: b"t", list: b"l"}
_FACTORIES: dict[bytes, Callable[[Any], Any]] = {b"t": tuple, b"l": list}
_ARROW_TYPES = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.large_string(),
    bytes: pa.large_binary(),
}
_DECODERS: dict[int, Callable[[bytes], Any]] = {
    ord("n"): lambda data: None,
    ord("F"): lambda data: False,
    ord("T"): lambda data: True,
    ord("i"): _decode_int,
    ord("I"): _decode_int,
    ord("d"): lambda data: _FLOAT64.unpack(data)[1],
    ord("s"): lambda data: data[1:].decode(),
    ord("b"): lambda data: data[1:],
    ord("D"): lambda data: Decimal(data[1:].decode()),
    ord("M"): lambda data: datetime.datetime.fromisoformat(data[1:].decode()),
    ord("Y"): lambda data: datetime.date.fromisoformat(data[1:].decode()),
    ord("t"): lambda data: tuple(_decode_items(data)),
    ord("l"): _decode_items,
    ord("m"): _decode_dict,
    ord("S"): lambda data: set(_decode_items(data)),
    ord("Z"): lambda data: frozenset(_decode_items(data)),
}
