"""The columns of a Delta table: which Arrow types it takes, and whether rows of one schema fit a table of another. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

from beam_exactly_once.errors import ConfigurationError

_FORBIDDEN_IN_NAMES = re.compile(r"[ ,;{}()\n\t=]")
_AS_THEY_ARE = (
    *(pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    *(pa.float32(), pa.float64(), pa.string(), pa.binary(), pa.date32()),
)
_TEXT = (pa.types.is_large_string, pa.types.is_string_view)
_BYTES = (pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)


def delta_schema(schema: pa.Schema, *, where: str) -> pa.Schema:
    """``schema`` in the types that a Delta table has; values are cast to them without loss, or refused.

    Args:
        schema: of rows, or of a table.
        where: whose it is, for messages.

    Raises:
        ConfigurationError: a name or a type is not possible.
    """
    _refuse_names(schema.names, where)
    return pa.schema([field.with_type(_delta_type(field.type, field.name, where)) for field in schema])


def _refuse_names(names: Sequence[str], where: str) -> None:
    lowered = [name.lower() for name in names]
    for name in names:
        if _FORBIDDEN_IN_NAMES.search(name) or lowered.count(name.lower()) > 1:
            raise ConfigurationError(
                f"{where}: a Delta table takes no column {name!r}: names must differ by more than their case, and have no "
                "space, tab, line end, comma, semicolon, =, brace or parenthesis. Rename it in schema=."
            )


def missing_columns(
    rows: pa.Schema, table: pa.Schema, *, partition_by: Sequence[str], partitioned_by: Sequence[str], where: str
) -> list[pa.Field]:
    """The columns of ``rows`` that ``table`` lacks; everything else fits.

    Args:
        rows: by :func:`delta_schema`.
        table: the same, of the table.
        partition_by: columns that the sink partitions by.
        partitioned_by: columns that the table is partitioned by.
        where: the sink and its table, for messages.

    Raises:
        ConfigurationError: the rows cannot be rows of this table.
    """
    if list(partition_by) != list(partitioned_by):
        raise ConfigurationError(
            f"{where} is partitioned by {list(partitioned_by)}, and the sink has partition_by={list(partition_by)}. A table's "
            "partitioning cannot change: give the sink that of the table."
        )
    missing = []
    of_table = {field.name: field for field in table}
    by_lower_case = {name.lower(): name for name in of_table}
    for field in rows:
        found = of_table.get(field.name)
        if found is None:
            _refuse_other_case(field.name, by_lower_case.get(field.name.lower()), where)
            missing.append(field)
        elif found.type != field.type:
            raise ConfigurationError(
                f"{where} has column {field.name!r} of type {found.type}, and the rows have {field.type}. Change schema=, or "
                "the table."
            )
        elif field.nullable and not found.nullable:
            raise ConfigurationError(
                f"{where} has column {field.name!r} not nullable, and the rows may have null. Declare it not nullable in schema=."
            )
    for name in of_table.keys() - set(rows.names):
        if not of_table[name].nullable:
            raise ConfigurationError(
                f"{where} has column {name!r}, not nullable, which the rows lack. Add it to schema=."
            )
    return missing


def _refuse_other_case(name: str, in_table: str | None, where: str) -> None:
    if in_table is not None:
        raise ConfigurationError(
            f"{where} has column {in_table!r}, and the rows have {name!r}, which is the same to Delta. Rename it in schema=."
        )


def _delta_type(kind: pa.DataType, name: str, where: str) -> pa.DataType:
    if kind in _AS_THEY_ARE or (pa.types.is_decimal128(kind) and kind.scale >= 0):
        return kind
    if any(is_kind(kind) for is_kind in _TEXT):
        return pa.string()
    if any(is_kind(kind) for is_kind in _BYTES):
        return pa.binary()
    if pa.types.is_date64(kind):
        return pa.date32()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us") if kind.tz is None else pa.timestamp("us", "UTC")
    if pa.types.is_dictionary(kind):
        return _delta_type(kind.value_type, name, where)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_delta_field(kind.value_field.with_name("element"), name, where))
    if pa.types.is_map(kind):
        return pa.map_(_delta_type(kind.key_type, name, where), _delta_field(kind.item_field, name, where))
    if pa.types.is_struct(kind) and kind.num_fields:
        _refuse_names([field.name for field in kind], where)
        return pa.struct([_delta_field(kind.field(number), name, where) for number in range(kind.num_fields)])
    raise ConfigurationError(
        f"{where}: column {name!r} is of type {kind}, which a Delta table does not have. It has signed integers, floats, "
        "decimals of up to 38 digits, booleans, strings, bytes, dates, timestamps in microseconds, lists, maps and structs."
    )


def _delta_field(field: pa.Field, name: str, where: str) -> pa.Field:
    return field.with_type(_delta_type(field.type, name, where))
