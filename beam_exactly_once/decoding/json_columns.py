"""JSON objects as columns of a schema: what ``json.loads`` and the exact columns of rows make of them, many at once. Pure.

Stricter than these where numbers are read as others: what is written with a point or an exponent is no whole number, digits
beyond 64 bits are not cut, nothing becomes zero, and a decimal has the digits of its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.decoding.documents import with_all_digits
from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.rows.columns import column_of
from beam_exactly_once.rows.exact import values_within
from beam_exactly_once.rows.fields import columns_of

_IS_MOMENT = r"^[12]\d{3}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?$"
_IS_DAY = r"^[12]\d{3}-\d\d-\d\d$"
_READ_OTHERWISE = re.compile(rb"\d{19}|[eE]-\d{3}")
"""In what orjson reads as another number: whole ones beyond 64 bits, and those that it makes zero."""
_BEYOND_64_BITS = 2.0**63


def columns_of_documents(texts: Sequence[bytes], documents: list[dict[str, Any]], schema: pa.Schema) -> list[pa.Array]:
    """One array for each column.

    Fields that ``schema`` does not name are left out; a missing one is null.

    Args:
        texts: of the documents.
        documents: what :func:`~beam_exactly_once.decoding.documents.documents_of` made of them, at least one.
        schema: columns and types.

    Raises:
        UnfitRow: a value does not fit. The message names the column, its type and the value's type.
    """
    columns = _read(documents, schema)
    decimals = [_has_decimals(field.type) for field in schema]
    if any(decimals):
        of_decimals = _read([with_all_digits(text) for text in texts], schema)
        for number, field in enumerate(schema):
            if decimals[number]:
                columns[number] = [_rounded(value, field.type) for value in of_decimals[number]]
    arrays = [_array(values, field) for values, field in zip(columns, schema, strict=True)]
    if any(map(_may_be_otherwise, arrays)) and any(map(_READ_OTHERWISE.search, texts)):
        columns = _read([_as_written(*both) for both in zip(texts, documents, strict=True)], schema)
        for number, field in enumerate(schema):
            if not decimals[number]:
                arrays[number] = _array([_rounded(value, field.type) for value in columns[number]], field)
    return arrays


def _read(documents: list[dict[str, Any]], schema: pa.Schema) -> list[Any]:
    columns = columns_of(documents, schema.names)
    assert columns is not None  # of mappings there always are
    return columns


def _as_written(text: bytes, document: dict[str, Any]) -> Any:
    return with_all_digits(text) if _READ_OTHERWISE.search(text) else document


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    read = _moments(values, field.type)
    if read is not None and (field.nullable or not read.null_count):
        return read
    column = column_of(values, field, dict)
    for kind, inner in _leaves(values, field.type):
        if _counts(kind) and not {float, Decimal}.isdisjoint(map(type, inner)):
            raise UnfitRow(
                f"a row does not fit its schema: column {field.name!r} is {field.type}, and a value is a number with a point, an "
                "exponent, or more than 64 bits. Change the schema, or mend the producer."
            )
    return column


def _moments(values: Sequence[Any], kind: pa.DataType) -> pa.Array | None:
    """Texts of moments and days as Arrow reads them, many times faster, where it certainly reads the same; else None."""
    is_moment = pa.types.is_timestamp(kind)
    if not (is_moment or pa.types.is_date32(kind)) or set(map(type, values)) - {str, type(None)}:
        return None
    texts = pa.array(values, pa.string())
    if pc.all(pc.match_substring_regex(texts, _IS_MOMENT if is_moment else _IS_DAY)).as_py() is False:
        return None
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:  # a zone in a column without, or the other way round; or no such day
        return None


def _counts(kind: pa.DataType) -> bool:
    """Whether Arrow takes a whole number for a value of a column, and a floating one, too."""
    return bool(pa.types.is_integer(kind) or pa.types.is_temporal(kind))


def _leaves(values: Sequence[Any], kind: pa.DataType) -> Iterator[tuple[pa.DataType, Sequence[Any]]]:
    if not pa.types.is_nested(kind) and not pa.types.is_dictionary(kind):
        yield kind, values
        return
    for inner_kind, inner in values_within([value for value in values if value is not None], kind):
        yield from _leaves(inner, inner_kind)


def _may_be_otherwise(column: pa.Array) -> bool:
    """Whether orjson may have read another number than the text has: an enormous one, or zero."""
    return any(
        bool(((numbers == 0) | (numbers >= _BEYOND_64_BITS)).any()) for numbers in map(_sizes, _floating(column))
    )


def _sizes(column: pa.Array) -> Any:
    return np.abs(np.asarray(column.drop_null().to_numpy(zero_copy_only=False), np.float64))


def _floating(column: pa.Array) -> Iterator[pa.Array]:
    kind = column.type
    if pa.types.is_floating(kind):
        yield column
    elif pa.types.is_dictionary(kind):
        yield from _floating(column.dictionary)
    elif pa.types.is_map(kind):
        yield from _floating(column.items)
    elif pa.types.is_struct(kind):
        for inner in column.flatten():
            yield from _floating(inner)
    elif pa.types.is_nested(kind):
        yield from _floating(pc.list_flatten(column))


def _has_decimals(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind)) or any(
        _has_decimals(kind.field(number).type) for number in range(kind.num_fields)
    )


def _rounded(value: Any, kind: pa.DataType) -> Any:
    """A value with decimals, with floating numbers where its column has such. What would be zero stays, and fits no column."""
    if type(value) is Decimal and pa.types.is_floating(kind):
        number = float(value)
        return number if number or not value else value
    if type(value) is list and hasattr(kind, "value_type"):
        return [_rounded(one, kind.value_type) for one in value]
    if isinstance(value, Mapping) and pa.types.is_map(kind):
        return {key: _rounded(one, kind.item_type) for key, one in value.items()}
    if isinstance(value, Mapping) and pa.types.is_struct(kind):
        return {field.name: _rounded(value[field.name], field.type) for field in kind if field.name in value}
    return value
