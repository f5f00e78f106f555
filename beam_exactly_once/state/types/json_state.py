"""`JsonState`: state as JSON, of a declared type or plain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from beam_exactly_once.errors import ConfigurationError, PipelineChanged, UnfitRow
from beam_exactly_once.state.types.contract import Json, StoredValues, Versioned, Versions, refuse_large, unfit
from beam_exactly_once.state.types.declared import Misfit, builder_of, name_of

_UNCHANGED = frozenset({type(None), bool, int, str})
"""Types of values that JSON gives back as they were, or refuses. Not float: NaN becomes null."""
_OPTIONS = orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME
_WAY_OUT = "Use None, bool, int of 64 bits, finite float, str, list, dict by str; or declare JsonState(type); or use CoderState."


@dataclass(frozen=True)
class JsonState(Versioned):
    """State as JSON.

    A value comes back as it was, or is refused: NaN, infinities, ints of more than 64 bits, keys that are not str, bytes, sets,
    and tuples where the type declares none. What a field holds is not checked against its annotation. A member of an IntEnum or
    StrEnum that is not declared comes back as the int or str that it is, from the first batch on.

    A field that a dataclass has and a stored value has not takes its default. A field that a dataclass no longer has is refused,
    since an instance could not keep it: drop it by an upgrade. A TypedDict, or a plain dict, keeps it.

    Args:
        type: a dataclass, TypedDict or Enum, or lists, tuples and dicts of such, as annotations say them; None: plain JSON.
        version: of the values that this code writes, 1 to 255. Raise it with an upgrade when a stored value must be changed.
        upgrades: from a version to a function that makes a value of the next one, both as plain JSON.

    Raises:
        ConfigurationError: JSON has no place for the type, or an upgrade is missing.
    """

    type: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            builder_of(self.type)
        except RecursionError:
            raise ConfigurationError(
                f"JsonState({name_of(self.type)}): it has fields of its own type, without end. Keep a list, or use CoderState."
            ) from None

    @property
    def kind(self) -> str:
        """The word that is stored for it."""
        return "json"

    @property
    def arrow_type(self) -> pa.DataType:
        """Of the column."""
        return pa.large_binary()

    def to_definition(self) -> Json:
        """What the checkpoint keeps of this version. The type's name is for people."""
        return {"kind": self.kind, "version": self.version, "type": None if self.type is None else name_of(self.type)}

    def difference(self, stored: Json) -> str:
        """Why values of a stored version cannot be read; JSON says of itself what it is."""
        return ""

    def encode(self, values: Sequence[Any], *, operator: str) -> StoredValues:
        """Values as JSON, and as they come back.

        Raises:
            UnfitRow: one would come back otherwise, or is too large.
        """
        try:
            # As text: orjson's bytes keep the kilobyte that each was written into, and many of those cost 20 times the time.
            encoded = [orjson.dumps(value, option=_OPTIONS).decode() for value in values]
        except TypeError:
            raise self._unfit(values, operator) from None
        column = refuse_large(pa.array(encoded, pa.large_string()).cast(pa.large_binary()), operator)
        if self.type is None and _UNCHANGED.issuperset(map(type, values)):
            return StoredValues(column, list(values))
        try:
            read = self._built(list(map(orjson.loads, encoded)))
        except Misfit:
            raise self._unfit(values, operator) from None
        if read != list(values):
            raise self._unfit(values, operator)
        return StoredValues(column, read)

    def decode(self, column: pa.Array, versions: Versions, *, operator: str) -> list[Any]:
        """What a column of values says.

        Raises:
            PipelineChanged: this code cannot read one.
        """
        values = self.upgraded(list(map(orjson.loads, column.to_pylist())), versions, operator)
        try:
            return self._built(values)
        except Misfit as misfit:
            raise PipelineChanged(
                f"operator {operator!r}: a stored state is no {name_of(self.type)} as it is now: {misfit}. Give new fields a "
                f"default; for other changes raise version= and give upgrades={{{self.version}: …}}."
            ) from None

    def _built(self, values: list[Any]) -> list[Any]:
        build = builder_of(self.type)
        return values if build is None else list(map(build, values))

    def _unfit(self, values: Sequence[Any], operator: str) -> UnfitRow:
        """Why the first of ``values`` that does not come back as it is does not."""
        for value in values:
            try:
                (read,) = self._built([orjson.loads(orjson.dumps(value, option=_OPTIONS))])
            except (TypeError, Misfit) as error:
                return unfit(operator, type(value), str(error), _WAY_OUT)
            if read != value:
                return unfit(operator, type(value), "JSON would change it", _WAY_OUT)
        return unfit(operator, list, "JSON would change one of them", _WAY_OUT)
