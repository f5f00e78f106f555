"""Rows as JSON lines. Bytes become text where they are text, and base64 where they are not."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any

import orjson
import pyarrow as pa

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.kafka import Record
from beam_exactly_once.rows.fields import KINDS, fields_of
from beam_exactly_once.rows.json_values import (
    ASKING,
    in_json,
    known_with_numpy,
    named,
    refuse_null_numbers,
)
from beam_exactly_once.rows.python_values import python_values
from beam_exactly_once.rows.rejected import Rejected

BASE64_SUFFIX = "_base64"
"""Bytes of field ``key`` that are not UTF-8 stand as base64 under ``key_base64``."""

_OPTIONS = orjson.OPT_APPEND_NEWLINE | ASKING
_dumps = orjson.dumps


class _NotText(Exception):
    """Bytes that are not UTF-8, where no name can say so; the enclosing field gets the suffix."""


def json_lines(rows: Iterable[Any]) -> bytes:
    """One line a row, each with its newline.

    Args:
        rows: mappings, NamedTuples, dataclasses or ``beam.Row``, whose values JSON knows, or bytes, dates, decimals.

    Raises:
        UnfitRow: a row is none of these, or has a value that JSON cannot hold.
    """
    # Appended one by one: orjson gives each line a page of memory at first, and a list of them is ten times as slow.
    lines = bytearray()
    for row in rows:
        lines += _record_line(row) if type(row) is Record else _line(row)
    return bytes(lines)


def json_lines_of_batch(batch: pa.RecordBatch) -> bytes:
    """The rows of an Arrow batch, one line each.

    Raises:
        UnfitRow: as :func:`json_lines`.
    """
    columns = []
    for column, name in zip(batch.columns, batch.schema.names, strict=True):
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            with suppress(pa.ArrowInvalid):  # no text: row by row, then
                column = column.cast(pa.large_string())
        columns.append(python_values(column, name))
    names = batch.schema.names
    return json_lines(dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _record_line(record: Record) -> bytes:
    """The short way for the common record, whose key, value and headers are text or null."""
    topic, partition, offset, timestamp_ms, timestamp_type, key, value, headers = record
    try:
        return _dumps(
            {
                "topic": topic,
                "partition": partition,
                "offset": offset,
                "timestamp_ms": timestamp_ms,
                "timestamp_type": timestamp_type,
                "key": None if key is None else key.decode(),
                "value": None if value is None else value.decode(),
                "headers": [
                    {"key": name, "value": None if content is None else content.decode()} for name, content in headers
                ],
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
    except (UnicodeDecodeError, AttributeError, TypeError):
        return _line(record)


def json_fields(row: Any) -> Mapping[str, Any]:
    """A row's fields by their names, headers of a Kafka record as objects.

    Raises:
        UnfitRow: it has none.
    """
    fields = _fields_of(row)
    if fields is None:
        raise UnfitRow(
            f"got a row of type {type(row).__name__}, which has no fields to write as JSON. Give it {KINDS}."
        )
    return fields


def _line(row: Any) -> bytes:
    fields = json_fields(row)
    try:
        return _dumped(fields)
    except (TypeError, ValueError):  # bytes, decimals and the like: rare after json.loads
        pass
    try:
        return _dumped(_object(fields))
    except (TypeError, ValueError, _NotText) as error:
        raise UnfitRow(_unwritable(fields, error)) from None


def _dumped(plain: Mapping[str, Any]) -> bytes:
    line = _dumps(plain, known_with_numpy, _OPTIONS)
    refuse_null_numbers(line, plain)
    return line


def _fields_of(row: Any) -> Mapping[str, Any] | None:
    if type(row) is dict:
        return row
    fields = fields_of(row)
    if isinstance(row, Record | Rejected):
        headers = [{"key": name, "value": value} for name, value in row.headers]
        return {**(fields or {}), "headers": headers}
    return fields if fields is None or type(fields) is dict else dict(fields)


def _object(fields: Mapping[Any, Any]) -> dict[str, Any]:
    values = named(fields)
    plain: dict[str, Any] = {}
    for name, value in values.items():
        try:
            final_name, final_value = name, _plain(value)
        except _NotText:
            final_name, final_value = f"{name}{BASE64_SUFFIX}", _base64(value)
            if final_name in values:
                raise
        plain[final_name] = final_value
    return plain


def _plain(value: Any) -> Any:
    """``value`` in terms that orjson knows."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError:
            raise _NotText from None
    value = in_json(value)
    if not isinstance(value, (str, int, float, type(None))):
        fields = _fields_of(value)
        if fields is not None:
            return _object(fields)
        if isinstance(value, (list, tuple, set, frozenset)):
            return [_plain(item) for item in value]
    return value


def _base64(value: Any) -> Any:
    """The bytes in ``value``, a list of them perhaps, as base64."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, Iterable) and not isinstance(value, (str, Mapping)):
        return [_base64(item) for item in value]
    return _plain(value)


def _unwritable(fields: Mapping[Any, Any], error: Exception) -> str:
    for name, value in fields.items():
        try:
            _dumped(_object({name: value}))
        except (TypeError, ValueError, _NotText) as field_error:
            return (
                f"a row has a value in field {str(name)[:100]!r} of type {type(value).__name__} that "
                f"JSON cannot hold: {str(field_error)[:100] or 'bytes that are not text'}. Convert it before the sink."
            )
    if isinstance(error, ValueError):
        return f"a row has keys that JSON cannot hold together: {error}. Rename one before the sink."
    return (
        f"a row has bytes that are not text in a field, and another field with the name of "
        f"their base64 ({BASE64_SUFFIX} added): rename one before the sink. {str(error)[:100]}"
    )
