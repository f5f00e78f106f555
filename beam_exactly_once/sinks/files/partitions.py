"""Rows into folders by the values of columns, as Hive names them: ``country=DE/day=2026-01-31``.

Spark, DuckDB and Arrow datasets read such folders as columns. A name holds any text: what is no letter, digit, ``_``,
``.``, ``-``, ``~`` or beyond ASCII stands as ``%`` and two digits, so no value leaves its folder.
"""

from __future__ import annotations

import datetime
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once import arguments
from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.sinks.files.types import refuse_years

NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
"""What stands for null in a folder's name."""
MAX_FOLDER_NAME_BYTES = 255
"""What file systems take."""

_COLUMN = re.compile(r"[^\W_][\w.~-]*")
# Beyond ASCII as it is: Spark would read its UTF-8 in percent signs as other letters. But XML, and so S3, knows no U+FFFE.
_ENCODED = re.compile(r"[^A-Za-z0-9_.~\-\u0080-\ufffd\U00010000-\U0010ffff]")


def checked_columns(names: Sequence[str]) -> tuple[str, ...]:
    """``partition_by`` as columns.

    Raises:
        ConfigurationError: it is not a list of names that readers take for columns.
    """
    columns = arguments.names("partition_by", names)
    for name in columns:
        if not _COLUMN.fullmatch(name):
            raise ConfigurationError(
                f"partition_by names the column {name!r}, and readers would not take its folders for a column. Use a name of "
                "letters, digits, _, . and -, that begins with a letter or digit."
            )
    return columns


def columns_in_files(schema: pa.Schema, partition_by: Sequence[str]) -> pa.Schema:
    """``schema`` without the columns that are folders.

    Raises:
        ConfigurationError: it lacks one, has one of a type that no folder can have, or has no other column.
    """
    for name in partition_by:
        index = schema.get_field_index(name)
        if index < 0:
            raise ConfigurationError(
                f"partition_by={list(partition_by)}, and the rows have no column {name!r}: they have "
                f"{', '.join(schema.names)}. Name a column of the schema, or of the Arrow batches."
            )
        _refuse_type(schema.field(index))
    rest = pa.schema([field for field in schema if field.name not in partition_by])
    if not rest.names:
        raise ConfigurationError("partition_by names every column, which leaves nothing for the files.")
    return rest


def split_batch(batch: pa.RecordBatch, partition_by: Sequence[str]) -> list[tuple[str, pa.RecordBatch]]:
    """The rows of each folder, in their order, without the columns that make it. They share the memory of one batch.

    Raises:
        UnfitRow: a value cannot be a folder's name.
        ConfigurationError: as :func:`columns_in_files`.
    """
    files_schema = columns_in_files(batch.schema, partition_by)
    rest = batch.select(files_schema.names)
    codes, folders = _folders_of_rows(batch, partition_by)
    if len(folders) == 1:
        return [(folders[0], rest)]
    by_folder = rest.take(pc.array_sort_indices(codes))
    # Codes are given in the order of first appearance, which is also how they are counted.
    counts = pc.value_counts(codes).field("counts").to_pylist()
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    return [
        (folder, by_folder.slice(start, count)) for folder, start, count in zip(folders, starts, counts, strict=False)
    ]


def values_of_folders(key: str) -> dict[str, str | None]:
    """The columns that the folders of a file's name stand for, with their values as text."""
    named = (folder.partition("=") for folder in key.split("/")[:-1])
    return {name: None if text == NULL_FOLDER else urllib.parse.unquote(text) for name, _, text in named}


def folder_of_values(values: Iterator[tuple[str, Any]]) -> str:
    """The folder of one row, by the values of its columns.

    Raises:
        UnfitRow: a value cannot be a folder's name.
    """
    return "/".join(_folder_name(name, _text_of(name, value)) for name, value in values)


def _folders_of_rows(batch: pa.RecordBatch, partition_by: Sequence[str]) -> tuple[pa.Array, list[str]]:
    """A number for each row, and the folder of each number."""
    codes, folders = None, [""]
    for name in partition_by:
        column_codes, names = _folders_of_column(batch.column(name), name)
        if codes is None:
            codes, folders = column_codes, names
        elif len(names) == 1:
            folders = [f"{folder}/{names[0]}" for folder in folders]
        else:
            pairs = pc.add(pc.multiply(codes.cast(pa.int64()), len(names)), column_codes.cast(pa.int64()))
            found = pairs.dictionary_encode()
            codes = found.indices
            numbers = found.dictionary.to_pylist()
            folders = [f"{folders[number // len(names)]}/{names[number % len(names)]}" for number in numbers]
    return codes, folders


def _folders_of_column(column: pa.Array, name: str) -> tuple[pa.Array, list[str]]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    refuse_years(column, name)
    found = pc.dictionary_encode(column, null_encoding="encode")
    texts = found.dictionary.cast(pa.string()).to_pylist()
    return found.indices, [_folder_name(name, text) for text in texts]


def _refuse_type(field: pa.Field) -> None:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_date)
    if not any(is_kind(kind) for is_kind in kinds):
        raise ConfigurationError(
            f"cannot partition by column {field.name!r} of type {field.type}: a folder is named by a string, an "
            "integer, a date or a boolean. Add such a column before the sink, as the date of a timestamp."
        )


def _text_of(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.isoformat()
    raise UnfitRow(
        f"cannot partition by column {name!r} with a value of type {type(value).__name__}: a folder is named by a "
        "string, an integer, a date or a boolean. Convert it before the sink."
    )


def _folder_name(name: str, text: str | None) -> str:
    if text is None:
        return f"{name}={NULL_FOLDER}"
    if text in ("", NULL_FOLDER):
        raise UnfitRow(
            f"cannot partition by {name}: its value is an empty text, or the name of the folder of null, and readers would take "
            "it for null. Replace it before the sink, by null or by another text."
        )
    folder = f"{name}={_ENCODED.sub(_percent, text)}"
    try:
        is_short = len(folder.encode()) <= MAX_FOLDER_NAME_BYTES
    except UnicodeEncodeError:
        raise UnfitRow(f"cannot partition by {name}: its value is not Unicode text.") from None
    if not is_short:
        raise UnfitRow(
            f"cannot partition by {name}: the folder's name would have "
            f"{len(folder.encode())} bytes, and {MAX_FOLDER_NAME_BYTES} is the most. Partition by a shorter column, such as "
            "a hash or a prefix of it."
        )
    return folder


def _percent(letter: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in letter[0].encode())
