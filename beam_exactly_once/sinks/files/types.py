"""Arrow types that a format of files lacks, refused where they are named; and values of which it has none."""

from __future__ import annotations

import functools

import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.errors import ConfigurationError, UnfitRow

_NAMES = {"parquet": "Parquet", "json": "JSON", "csv": "CSV"}
_SECONDS_OF_YEARS = -62_135_596_800, 253_402_300_799
"""From year 1 to 9999: what texts of dates and times say in a way that all read."""
_DAY_S = 86_400
"""No zone is further from UTC."""
_WHOLE_MINUTES_SINCE_S = 63_676_800
"""From January 8, 1972 on, all zones are whole minutes from UTC."""
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@functools.lru_cache(maxsize=256)
def refuse_types(schema: pa.Schema, format: str) -> None:
    """Refuse columns of a type that files of ``format`` cannot hold.

    Raises:
        ConfigurationError: there is one. The message names it.
    """
    for field in schema if format in _NAMES else ():
        if _lacks(field.type, format):
            raise ConfigurationError(
                f"{_NAMES[format]} cannot hold column {field.name!r} of type {field.type}. Leave it out (schema= names the "
                "columns to write), or make another type of it before the sink"
                + ("." if format == "parquet" else ', or use format="parquet" or "json".')
            )


def written_as_parquet(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch as Parquet takes it.

    Raises:
        UnfitRow: no reader of Arrow would read it again.
    """
    columns = [_readable(column, name) for column, name in zip(batch.columns, batch.schema.names, strict=True)]
    if all(new is old for new, old in zip(columns, batch.columns, strict=True)):
        return batch
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def refuse_years(column: pa.Array, name: str) -> None:
    """Refuse dates and moments that a text says in no common way.

    Raises:
        UnfitRow: one is not within the years 1 to 9999, in UTC and in its zone.
    """
    kind = column.type
    if pa.types.is_date32(kind):
        counts, per_second = column.view(pa.int32()), 1 / 86_400
    elif pa.types.is_date64(kind):
        counts, per_second = column.view(pa.int64()), 1000
    elif pa.types.is_timestamp(kind):
        counts, per_second = column.view(pa.int64()), _PER_SECOND[kind.unit]
    else:
        return
    is_within = _is_within(counts, per_second)
    if is_within and pa.types.is_timestamp(kind) and kind.tz is not None and not _is_within(counts, per_second, _DAY_S):
        is_within = _is_within(pc.local_timestamp(column).view(pa.int64()), per_second)
    if not is_within:
        raise UnfitRow(
            f"a row has a date in column {name!r} that is not within the years 1 to 9999: as text, or as a folder, it would not "
            "be read again. Correct it before the sink."
        )


def refuse_cut_zones(column: pa.Array, name: str) -> None:
    """Refuse moments whose zone is seconds apart from UTC, as local times of old are: texts cut them, and say another moment.

    Raises:
        UnfitRow: there is one.
    """
    kind = column.type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        return
    counts, minute = column.view(pa.int64()), 60 * _PER_SECOND[kind.unit]
    if not pc.any(pc.less(counts, _WHOLE_MINUTES_SINCE_S * _PER_SECOND[kind.unit])).as_py():
        return
    offsets = pc.subtract(pc.local_timestamp(column).view(pa.int64()), counts)
    if pc.any(pc.not_equal(pc.multiply(pc.divide(offsets, minute), minute), offsets)).as_py():
        raise UnfitRow(
            f"a row has a moment in column {name!r} at which {kind.tz} was not a whole number of minutes apart from UTC, which "
            "CSV cannot hold. Cast the column to UTC before the sink."
        )


def _is_within(counts: pa.Array, per_second: float, margin_s: int = 0) -> bool:
    """Whether dates or moments are within the years that texts say."""
    first, last = _SECONDS_OF_YEARS
    ends = pc.min_max(counts).as_py()
    if ends["min"] is None:
        return True
    return bool((first + margin_s) * per_second <= ends["min"] and ends["max"] < (last + 1 - margin_s) * per_second)


def _readable(column: pa.Array, name: str) -> pa.Array:
    if pa.types.is_fixed_size_list(column.type) and column.null_count:
        raise UnfitRow(
            f"a row has null in column {name!r} of type {column.type}: Arrow would not read the Parquet file again. Declare "
            "it as a list without a size, or give each row one."
        )
    if pa.types.is_dictionary(column.type) and column.dictionary.null_count:
        return column.dictionary_decode().dictionary_encode().cast(column.type)
    return column


def _lacks(kind: pa.DataType, format: str, *, is_inner: bool = False) -> bool:
    kinds = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return format == "csv" or _lacks(kind.storage_type, format, is_inner=is_inner)
    if kinds.is_interval(kind) or kinds.is_union(kind):
        return True
    if kinds.is_timestamp(kind):
        return format != "parquet" and not _knows_zone(kind)
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    if kinds.is_dictionary(kind) or kinds.is_run_end_encoded(kind):
        inner = [kind.value_type]
    if format == "csv":
        is_missing = kinds.is_nested(kind) or kinds.is_run_end_encoded(kind)
        is_missing = is_missing or (kinds.is_dictionary(kind) and kinds.is_dictionary(kind.value_type))
    elif kinds.is_struct(kind):
        names = [kind.field(number).name for number in range(kind.num_fields)]
        is_missing = len(set(names)) < len(names) or (format == "parquet" and not names)
    else:
        is_missing = format == "parquet" and _parquet_lacks(kind, is_inner)
    return is_missing or any(_lacks(one, format, is_inner=True) for one in inner)


def _parquet_lacks(kind: pa.DataType, is_inner: bool) -> bool:
    kinds = pa.types
    if kinds.is_dictionary(kind):
        value = kind.value_type
        # Inside of others a null among its values would hide, which Parquet is not written with.
        return bool(is_inner or kinds.is_nested(value) or kinds.is_dictionary(value) or kinds.is_null(value))
    return bool(
        kinds.is_run_end_encoded(kind)
        or (kinds.is_decimal(kind) and kind.scale < 0)
        or (kinds.is_fixed_size_list(kind) and is_inner)  # where a null in it would hide
    )


def _knows_zone(kind: pa.DataType) -> bool:
    try:
        if kind.tz is not None:
            pc.local_timestamp(pa.array([0], kind))
    except pa.ArrowInvalid:
        return False
    return True
