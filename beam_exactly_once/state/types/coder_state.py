"""`CoderState`: state as the bytes of a coder, such as one of Beam's. Knows no Beam: classes are known by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.state.types.contract import Json, StoredValues, Versioned, Versions, refuse_large, unfit

_BEAM = "apache_beam"
_BASES = frozenset({"Coder", "FastCoder", "ListLikeCoder"})
_OF_BEAM = frozenset({
    "BigEndianShortCoder", "BigIntegerCoder", "BooleanCoder", "ByteCoder", "BytesCoder", "DecimalCoder",
    "DeterministicMapCoder", "DeterministicProtoCoder", "FloatCoder", "IntervalWindowCoder", "IterableCoder", "ListCoder",
    "NullableCoder", "ProtoPlusCoder", "StrUtf8Coder", "TimestampCoder", "TupleCoder", "TupleSequenceCoder", "VarInt32Coder",
    "VarIntCoder",
})  # fmt: skip
"""Those that never pickle, if those inside them do not. Beam's fallback for unknown types pickles, and says that it is
deterministic; so what is not named here is refused."""
_WAY_OUT = "Use JsonState, ArrowState, a coder of Beam for one exact type such as VarIntCoder, or one of your own without pickle."


@dataclass(frozen=True)
class CoderState(Versioned):
    """State as the bytes that a coder makes.

    Coders that pickle are refused: to read such state would run what is in it, and its bytes change with the code. Of Beam's
    coders those are taken that never do. A coder of your own must not pickle either; only the coders that it holds are looked at.

    An operator shows what the coder has decoded, from the first batch on.

    Args:
        coder: has ``encode``, ``decode`` and ``is_deterministic``, which must say True.
        version: of the values that this code writes, 1 to 255. Another coder is a new version.
        upgrades: from a version to a function that makes bytes of the next one out of its bytes.

    Raises:
        ConfigurationError: not such a coder, or an upgrade is missing.
    """

    coder: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_coder(self.coder)

    @property
    def kind(self) -> str:
        """The word that is stored for it."""
        return "coder"

    @property
    def arrow_type(self) -> pa.DataType:
        """Of the column."""
        return pa.large_binary()

    def to_definition(self) -> Json:
        """What the checkpoint keeps of this version."""
        return {"kind": self.kind, "version": self.version, "coder": name_of_coder(self.coder)}

    def difference(self, stored: Json) -> str:
        """Why values of a stored version cannot be read."""
        name = name_of_coder(self.coder)
        if stored["version"] == self.version and stored["coder"] != name:
            return f"its coder was {stored['coder']}, and is {name}. Raise version= and give upgrades={{{self.version}: …}}"
        return ""

    def encode(self, values: Sequence[Any], *, operator: str) -> StoredValues:
        """Values as bytes, and as they come back.

        Raises:
            UnfitRow: the coder does not take one, or one is too large.
        """
        encoded = []
        for value in values:
            try:
                encoded.append(self.coder.encode(value))
            except Exception as error:  # whatever a coder raises: its text may hold the value
                why = f"{name_of_coder(self.coder)} does not take it ({type(error).__name__})"
                raise unfit(operator, type(value), why, "Give it what the coder is for, or use another one.") from None
        column = refuse_large(pa.array(encoded, pa.large_binary()), operator)
        return StoredValues(column, list(map(self.coder.decode, encoded)))

    def decode(self, column: pa.Array, versions: Versions, *, operator: str) -> list[Any]:
        """What a column of values says.

        Raises:
            PipelineChanged: this code cannot read one.
        """
        return list(map(self.coder.decode, self.upgraded(column.to_pylist(), versions, operator)))


def refuse_coder(coder: Any) -> None:
    """Refuse what is no coder, or one that may pickle, or is not deterministic, itself or by a coder inside it.

    Raises:
        ConfigurationError: it is.
    """
    if isinstance(coder, type) or not _is_coder(coder):
        given = coder.__name__ if isinstance(coder, type) else type(coder).__name__
        raise ConfigurationError(
            f"CoderState: coder={given} has no encode, decode and is_deterministic. Give it a coder, such as VarIntCoder()."
        )
    for one in _with_inner(coder):
        kind = type(one)
        own = [base.__name__ for base in kind.__mro__ if base.__module__.split(".")[0] == _BEAM]
        named = _OF_BEAM if kind.__module__.split(".")[0] == _BEAM else _OF_BEAM | _BASES
        if own and (own[0] not in named or not (_OF_BEAM | _BASES).issuperset(own)):
            raise ConfigurationError(
                f"CoderState: {kind.__name__} is not one of the coders of Beam that never pickle. {_WAY_OUT}"
            )
    if not coder.is_deterministic():
        raise ConfigurationError(f"CoderState: {type(coder).__name__} is not deterministic. {_WAY_OUT}")


def name_of_coder(coder: Any) -> str:
    """Its class, with the coders inside it."""
    inner = [name_of_coder(one) for one in _inner(coder)]
    return type(coder).__name__ + (f"({', '.join(inner)})" if inner else "")


def _is_coder(value: Any) -> bool:
    return all(callable(getattr(value, name, None)) for name in ("encode", "decode", "is_deterministic"))


def _with_inner(coder: Any) -> Iterator[Any]:
    yield coder
    for one in _inner(coder):
        yield from _with_inner(one)


def _inner(coder: Any) -> list[Any]:
    """The coders that it holds. Some of Beam's coders name none of theirs: so all attributes do."""
    return list(_coders_in(list(getattr(coder, "__dict__", {}).values())))


def _coders_in(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _coders_in(item)
    elif not isinstance(value, type) and _is_coder(value):
        yield value
