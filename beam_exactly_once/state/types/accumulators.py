"""How accumulators of a ``CombineFn`` are stored: plain values by exact type, however nested. Never pickle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from beam_exactly_once.errors import PipelineChanged
from beam_exactly_once.state import tagged
from beam_exactly_once.state.types.contract import Json, StoredValues, Versions, refuse_large, unfit

_WAY_OUT = (
    "An accumulator is None, bool, int, float, str, bytes, Decimal, date, datetime (UTC or without zone), or tuples, lists, "
    "dicts, sets, frozensets of such, exactly. Let compact() of the CombineFn return one, or use UpdateStateByKey."
)


@dataclass(frozen=True)
class AccumulatorState:
    """State that is an accumulator, as :mod:`beam_exactly_once.state.tagged` has it.

    What a ``CombineFn`` keeps there is its own matter, so it has no versions: one with other accumulators needs another operator.

    Args:
        fn: the name of the ``CombineFn``, for messages and for people.
    """

    fn: str
    version: int = 1

    @property
    def kind(self) -> str:
        """The word that is stored for it."""
        return "accumulator"

    @property
    def arrow_type(self) -> pa.DataType:
        """Of the column."""
        return pa.large_binary()

    def to_definition(self) -> Json:
        """What the checkpoint keeps of this version."""
        return {"kind": self.kind, "version": self.version, "fn": self.fn}

    def difference(self, stored: Json) -> str:
        """Why accumulators of another ``CombineFn`` cannot be read: they would be taken for its own."""
        return "" if stored["fn"] == self.fn else f"its CombineFn was {stored['fn']}, and is {self.fn}"

    def refuse_version(self, version: int, operator: str) -> None:
        """Refuse accumulators of a newer version of this library.

        Raises:
            PipelineChanged: they are.
        """
        if version != self.version:
            raise PipelineChanged(
                f"operator {operator!r}: its accumulators have version {version}, and this library knows {self.version}. Install "
                "the beam_exactly_once that wrote them."
            )

    def encode(self, values: Sequence[Any], *, operator: str) -> StoredValues:
        """Accumulators as bytes.

        Raises:
            UnfitRow: one has a value of a type that is not taken, or is too large.
        """
        try:
            column = tagged.encode_column(values, tagged.PLAIN)
        except tagged.Unstorable as error:
            why = error.why or f"the accumulator of {self.fn} has one"
            raise unfit(operator, error.kind, why, _WAY_OUT) from None
        return StoredValues(refuse_large(column, operator), list(values))

    def decode(self, column: pa.Array, versions: Versions, *, operator: str) -> list[Any]:
        """The accumulators.

        Raises:
            PipelineChanged: a newer version of this library has written one.
        """
        for version in set(versions.tolist()):
            self.refuse_version(version, operator)
        return tagged.decode_column(column)
