"""What every state type owes: values as a column, as they will be read, by the version that wrote each of them.

A version is that of the user's code, 1 to 255, and is stored with each value. Code of a lower version refuses the value, and
code of a higher one upgrades it when it is read: ``upgrades[1]`` makes a value of version 2 out of one of version 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.arguments import whole_number
from beam_exactly_once.errors import ConfigurationError, PipelineChanged, UnfitRow

VALUE_MAX_BYTES = 16 << 20
"""Of one stored value."""
VERSION_MAX = 255
"""A version is one byte; 0 says that a key is gone."""

Json: TypeAlias = dict[str, Any]
Versions: TypeAlias = npt.NDArray[np.uint8]


class StoredValues(NamedTuple):
    """Values as a column, and as every later batch will read it: what an operator shows of them, in this batch, too."""

    column: pa.Array
    values: list[Any]


class StateType(Protocol):
    """How the values of one operator are stored."""

    @property
    def version(self) -> int:
        """That is stored with each value."""

    @property
    def kind(self) -> str:
        """The word that is stored for it."""

    @property
    def arrow_type(self) -> pa.DataType:
        """Of the column."""

    def to_definition(self) -> Json:
        """What the checkpoint keeps of this version: ``kind``, ``version``, and what :meth:`difference` looks at."""

    def difference(self, stored: Json) -> str:
        """Why values of the version that ``stored`` defines cannot be read, as this type is now; empty if they can."""

    def encode(self, values: Sequence[Any], *, operator: str) -> StoredValues:
        """Values as a column of this version.

        Raises:
            UnfitRow: one would come back otherwise, or is larger than :data:`VALUE_MAX_BYTES`.
        """

    def decode(self, column: pa.Array, versions: Versions, *, operator: str) -> list[Any]:
        """What a column of values says, tombstones left out.

        Args:
            column: the values.
            versions: that wrote each of them.
            operator: whose values they are.

        Raises:
            PipelineChanged: this code cannot read one.
        """

    def refuse_version(self, version: int, operator: str) -> None:
        """Refuse a version that this code cannot read.

        Raises:
            PipelineChanged: it is newer, or there is no upgrade from it.
        """


@dataclass(frozen=True)
class Versioned:
    """Base of the state types that users declare: their version, and the way to it."""

    _: KW_ONLY
    version: int = 1
    upgrades: Mapping[int, Callable[[Any], Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole_number("version", self.version, most=VERSION_MAX)
        is_mapping = isinstance(self.upgrades, Mapping) and all(type(one) is int for one in self.upgrades)
        if not is_mapping or not all(map(callable, self.upgrades.values())):
            raise ConfigurationError("upgrades= must map versions to functions: upgrades={1: from_1_to_2}.")
        given = sorted(self.upgrades)
        if given != list(range(self.version - len(given), self.version)) or 0 in given:
            raise ConfigurationError(
                f"upgrades= has {given}, with version={self.version}. Each makes a value of the next version: give them without "
                f"a hole, the last one from {self.version - 1}."
            )

    @property
    def oldest(self) -> int:
        """The oldest version that can be read."""
        return self.version - len(self.upgrades)

    def refuse_version(self, version: int, operator: str) -> None:
        """Refuse a version that this code cannot read.

        Raises:
            PipelineChanged: it is newer, or there is no upgrade from it.
        """
        if version > self.version:
            raise PipelineChanged(
                f"operator {operator!r}: its state has values of version {version}, and this code has version="
                f"{self.version}. Start the code of version {version} again; it alone knows them."
            )
        if version < self.oldest:
            raise PipelineChanged(
                f"operator {operator!r}: its state has values of version {version}, and this code has version={self.version}, "
                f"with upgrades from {sorted(self.upgrades)}. Give upgrades= from {version} on; `lambda value: value` is one "
                "that changes nothing."
            )

    def upgraded(self, values: list[Any], versions: Versions, operator: str) -> list[Any]:
        """Values of the versions that wrote them, as those of this version.

        Raises:
            PipelineChanged: there is no way from one of these versions.
        """
        if (versions == self.version).all():
            return values
        for version in np.unique(versions).tolist():
            self.refuse_version(version, operator)
        for position in np.flatnonzero(versions < self.version).tolist():
            for version in range(int(versions[position]), self.version):
                values[position] = self.upgrades[version](values[position])
        return values


def refuse_large(column: pa.LargeBinaryArray, operator: str) -> pa.LargeBinaryArray:
    """``column``, if no value of it is larger than :data:`VALUE_MAX_BYTES`.

    Raises:
        UnfitRow: one is.
    """
    if column.nbytes > VALUE_MAX_BYTES:
        refuse_size(pc.max(pc.binary_length(column)).as_py(), operator)
    return column


def refuse_size(size: int, operator: str) -> None:
    """Refuse a value of more bytes than :data:`VALUE_MAX_BYTES`.

    Raises:
        UnfitRow: it has more.
    """
    if size > VALUE_MAX_BYTES:
        raise UnfitRow(
            f"operator {operator!r}: the state of one key has {size} bytes; {VALUE_MAX_BYTES} is the most. It is written whole "
            "whenever its key is touched: keep less of it, or use finer keys."
        )


def unfit(operator: str, kind: type, why: str, way_out: str) -> UnfitRow:
    """The error for a value that would not come back as it is. It has no value in it."""
    return UnfitRow(f"operator {operator!r}: a state of type {kind.__name__} cannot be stored: {why}. {way_out}")
