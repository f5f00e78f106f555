"""Keys as bytes: what state is sorted, looked up and grouped by.

A key is None, a bool, an int, a str, bytes, or a tuple of such, also nested. Keys are compared by their bytes alone, never by
Python's ``==``, for which ``1``, ``True`` and ``1.0`` are one key. Hence exact types: a key of a subclass would come back plain.
:mod:`beam_exactly_once.state.tagged` says what the bytes are. They never change: state of all streams is found by them.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.errors import CorruptObject, UnfitRow
from beam_exactly_once.state import tagged

KEY_MAX_BYTES = 1 << 16
"""Of an encoded key."""
FEW_OF_SAMPLED = 0.75
SAMPLED_ROWS = 4096
"""By so many rows it is judged whether keys repeat."""
SAMPLES: tuple[Any, ...] = (None, True, 0, -1, 1 << 63, "", "wörd", b"\x00\xff", (), ("a", (1, None), b"b"))
"""Keys whose bytes a definition keeps, to find out a version of this library that would no longer find old keys."""

_KINDS = "None, a bool, an int, a str, bytes or a tuple of these"
_KEY_COLUMNS = (
    pa.types.is_null,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
)
_DIGEST_BYTES = 8


def encode_key(key: Any, *, operator: str = "") -> bytes:
    """The bytes of a key. Different keys have different bytes, of whatever types they are.

    Args:
        key: None, a bool, an int, a str, bytes, or a tuple of these.
        operator: whose key it is, for messages.

    Raises:
        UnfitRow: it is of another type, or its bytes are more than :data:`KEY_MAX_BYTES`.
    """
    try:
        encoded = tagged.encode(key, tagged.KEYS)
    except tagged.Unstorable as error:
        raise UnfitRow(_refusal(error, operator)) from None
    if len(encoded) > KEY_MAX_BYTES:
        raise UnfitRow(_too_long(encoded, operator))
    return encoded


def decode_key(data: bytes) -> Any:
    """The key that has these bytes, with the types that it had.

    Raises:
        CorruptObject: no key has them.
    """
    try:
        return tagged.decode(data)
    except ValueError:
        raise CorruptObject(
            f"{len(data)} bytes of state are not a key. Restore its objects from a copy; `beam-exactly-once verify` names them."
        ) from None


def encode_keys(keys: Sequence[Any], *, operator: str = "") -> pa.LargeBinaryArray:
    """The bytes of each of many keys; fastest where all are of one type, and all tuples of one length.

    Raises:
        UnfitRow: as :func:`encode_key` does.
    """
    try:
        return _checked(tagged.encode_column(keys, tagged.KEYS), operator)
    except tagged.Unstorable as error:
        raise UnfitRow(_refusal(error, operator)) from None


def encode_key_columns(
    columns: Mapping[str, pa.Array], *, operator: str = ""
) -> pa.LargeBinaryArray | pa.DictionaryArray:
    """The bytes of the keys of an Arrow batch: those of the value of one column, or of the tuple of the values of several.

    Args:
        columns: the key columns, by name, all of one length.
        operator: whose keys they are, for messages.

    Returns:
        one a row, or a dictionary of different ones.

    Raises:
        UnfitRow: a column is of a type that no key has, or as :func:`encode_key` does.
    """
    encoded = [_encode_column(name, column, operator) for name, column in columns.items()]
    if len(encoded) > 1:
        return _checked(tagged.join_items([_one_a_row(one) for one in encoded]), operator)
    (one,) = encoded
    _checked(one.dictionary if pa.types.is_dictionary(one.type) else one, operator)
    return one


def repeating(column: pa.Array) -> pa.Array:
    """The same column, as a dictionary of different values if few have most rows: what is done once each is done less often."""
    if pa.types.is_dictionary(column.type):
        return column
    sample = column.slice(0, SAMPLED_ROWS)
    return column.dictionary_encode("encode") if len(sample.unique()) <= FEW_OF_SAMPLED * len(sample) else column


def decode_keys(column: pa.Array) -> list[Any]:
    """The keys that :func:`encode_keys` was given."""
    return tagged.decode_column(column)


def _encode_column(name: str, column: pa.Array, operator: str) -> pa.LargeBinaryArray | pa.DictionaryArray:
    column = _one_a_row(column)  # the dictionary of others may have a value twice
    if not any(is_kind(column.type) for is_kind in _KEY_COLUMNS):
        raise UnfitRow(
            f"{_of(operator)}column {name!r} is of type {column.type}, which a key is not made of. Cast it to an integer, "
            "a string, a boolean or binary first."
        )
    found = repeating(column)
    is_dictionary = pa.types.is_dictionary(found.type)
    each = found.dictionary if is_dictionary else found
    try:
        each.validate(full=True)  # a string that is no UTF-8 would not come back
    except pa.ArrowInvalid:
        raise UnfitRow(f"{_of(operator)}column {name!r} is not valid {column.type}. Cast it to binary.") from None
    encoded = tagged.encode_arrow(each)
    return pa.DictionaryArray.from_arrays(found.indices, encoded) if is_dictionary else encoded


def _one_a_row(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _checked(encoded: pa.LargeBinaryArray, operator: str) -> pa.LargeBinaryArray:
    lengths = pc.binary_length(encoded)
    longest = pc.max(lengths).as_py()
    if longest is not None and longest > KEY_MAX_BYTES:
        raise UnfitRow(_too_long(encoded[pc.index(lengths, longest).as_py()].as_py(), operator))
    return encoded


def _refusal(error: tagged.Unstorable, operator: str) -> str:
    kind = error.kind
    if error.why and kind is str:
        return f"{_of(operator)}a str is no key: {error.why}. Use bytes: key.encode('utf-8', 'surrogatepass')."
    if error.why:
        return f"{_of(operator)}a {kind.__name__} is no key: {error.why}. Use a flat tuple."
    return (
        f"{_of(operator)}a key has a value of type {kind.__name__}; it is made of {_KINDS}, exactly. {_way_out(kind)}"
    )


def _way_out(kind: type) -> str:
    if issubclass(kind, enum.Enum):
        return "Use its .value."
    for plain in (str, bytes, int, tuple):
        if issubclass(kind, plain):
            return f"Use {plain.__name__}(key): as state keeps it, it would come back as a {plain.__name__}."
    if issubclass(kind, float):
        return "Use an int, or str(key): nearly equal floats are different keys."
    if issubclass(kind, np.generic):
        return "Use key.item()."
    if issubclass(kind, list) or dataclasses.is_dataclass(kind):
        return "Use a tuple of what it holds."
    return "Use what tells it from the others."


def _too_long(encoded: bytes, operator: str) -> str:
    digest = hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).hexdigest()
    return (
        f"{_of(operator)}a key of {len(encoded)} bytes (digest {digest}) is longer than {KEY_MAX_BYTES}. Use a digest of it as "
        "the key, and keep the rest in the value."
    )


def _of(operator: str) -> str:
    return f"operator {operator!r}: " if operator else ""
