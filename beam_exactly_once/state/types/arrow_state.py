"""`ArrowState`: state as typed columns."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.state.types.contract import (
    VALUE_MAX_BYTES,
    Json,
    StoredValues,
    Versioned,
    Versions,
    refuse_size,
    unfit,
)

_WAY_OUT = "Give a dict with all fields of the schema, None where there is nothing, in the types of their columns."


@dataclass(frozen=True)
class ArrowState(Versioned):
    """State as dicts whose fields have Arrow types: one column of structs.

    A value comes back as it was, or is refused: a field too many or too few, and numbers, times or texts that their column would
    change, such as 0.1 as float32.

    A version may add and drop fields, not change their types. Each change of the schema is a new version. An upgrade sees the
    fields of its own version and of the newest, None where its own had none, and what it leaves out becomes None.

    Args:
        schema: the fields. All of them may be None.
        version: of the values that this code writes, 1 to 255.
        upgrades: from a version to a function that makes a dict of the next one.

    Raises:
        ConfigurationError: not a schema, or an upgrade is missing.
    """

    schema: pa.Schema

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.schema, pa.Schema) or not self.schema.names:
            raise ConfigurationError(
                f"ArrowState: schema={type(self.schema).__name__} must be a pyarrow.Schema with fields."
            )
        if len(set(self.schema.names)) < len(self.schema.names):
            raise ConfigurationError(f"ArrowState: schema= names a field twice ({self.schema.names}); name each once.")
        required = [one.name for one in self.schema if not one.nullable]
        if required:
            raise ConfigurationError(
                f"ArrowState: {', '.join(required)} of schema= has nullable=False, which is not kept. Leave it out."
            )

    @property
    def kind(self) -> str:
        """The word that is stored for it."""
        return "arrow"

    @property
    def arrow_type(self) -> pa.DataType:
        """Of the column."""
        return pa.struct(list(self.schema))

    def to_definition(self) -> Json:
        """What the checkpoint keeps of this version: the schema as Arrow writes it, in base64; its text is for people."""
        plain = self.schema.remove_metadata()
        schema = base64.b64encode(plain.serialize().to_pybytes()).decode()
        return {
            "kind": self.kind,
            "version": self.version,
            "schema": schema,
            "fields": {one.name: str(one.type) for one in plain},
        }

    def difference(self, stored: Json) -> str:
        """Why values of a stored version cannot be read, as the schema is now."""
        then = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(stored["schema"])))
        for one in then:
            if one.name in self.schema.names and self.schema.field(one.name).type != one.type:
                now = self.schema.field(one.name).type
                return f"field {one.name!r} was {one.type}, and is {now}. Give it another name, and fill that by an upgrade"
        if stored["version"] == self.version and set(then.names) != set(self.schema.names):
            changed = ", ".join(sorted(set(then.names) ^ set(self.schema.names)))
            return f"its fields were others ({changed}). Raise version= and give upgrades={{{self.version}: …}}"
        return ""

    def encode(self, values: Sequence[Any], *, operator: str) -> StoredValues:
        """Values as a column of structs, and as they come back.

        Raises:
            UnfitRow: one would come back otherwise, or is too large.
        """
        try:
            column = pa.array(values, self.arrow_type)
            read = column.to_pylist()
            is_same = not column.null_count and (read == list(values) or all(map(_is_same, read, values)))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            is_same = False
        if not is_same:
            raise self._unfit(values, operator)
        _refuse_large(column, operator)
        return StoredValues(column, read)

    def decode(self, column: pa.Array, versions: Versions, *, operator: str) -> list[Any]:
        """What a column of values says; it may have the fields of several versions.

        Raises:
            PipelineChanged: this code cannot read one.
        """
        values: list[Any] = column.to_pylist()
        if column.type == self.arrow_type and (versions == self.version).all():
            return values
        names = self.schema.names
        values = self.upgraded([{**dict.fromkeys(names), **value} for value in values], versions, operator)
        return [{name: value.get(name) for name in names} for value in values]

    def _unfit(self, values: Sequence[Any], operator: str) -> UnfitRow:
        for value in values:
            if type(value) is not dict:
                return unfit(operator, type(value), "it is not a dict", _WAY_OUT)
            for one in self.schema:
                if one.name not in value:
                    return unfit(operator, dict, f"it has no field {one.name!r}", _WAY_OUT)
                if not _comes_back(value[one.name], one.type):
                    kind = type(value[one.name]).__name__
                    return unfit(
                        operator,
                        dict,
                        f"field {one.name!r} is of type {kind}, and {one.type} would change it",
                        _WAY_OUT,
                    )
            if len(value) > len(self.schema):
                return unfit(operator, dict, f"the schema has {', '.join(self.schema.names)} only", _WAY_OUT)
        return unfit(operator, dict, "a column would change it", _WAY_OUT)


def joined(columns: Sequence[pa.Array]) -> pa.Array:
    """Columns of values of one operator as one; null stays null. Structs of several versions get the fields of all of them.

    Args:
        columns: at least one.
    """
    fields = {one.name: one for column in columns if pa.types.is_struct(column.type) for one in column.type}
    whole = pa.struct(list(fields.values()))
    return pa.concat_arrays([_widened(column, whole) if fields else column for column in columns])


def _widened(column: pa.StructArray, arrow_type: pa.StructType) -> pa.StructArray:
    if column.type == arrow_type:
        return column
    present = dict(zip((one.name for one in column.type), column.flatten(), strict=True))
    arrays = [present.get(one.name, pa.nulls(len(column), one.type)) for one in arrow_type]
    return pa.StructArray.from_arrays(arrays, fields=list(arrow_type), mask=column.is_null())


def _comes_back(value: Any, arrow_type: pa.DataType) -> bool:
    try:
        return _is_same(pa.array([value], arrow_type).to_pylist()[0], value)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal, NaN with NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return bool(one == other) or (one != one and other != other)


def _refuse_large(column: pa.Array, operator: str) -> None:
    """Halves, as long as one may hold a value that is too large."""
    if column.nbytes <= VALUE_MAX_BYTES:
        return
    if len(column) == 1:
        refuse_size(column.nbytes, operator)
    middle = len(column) // 2
    _refuse_large(column.slice(0, middle), operator)
    _refuse_large(column.slice(middle), operator)
