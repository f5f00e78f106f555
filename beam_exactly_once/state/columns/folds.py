"""``sum``, ``min``, ``max``, ``len`` and mean on whole columns of numbers: what they give is what value by value gives. Pure.

All here is a faster way to the accumulators of a ``CombineFn``, and to the same stored bytes. Where a column cannot give them (an
int of more than 64 bits, ints among floats, NaN where an order is asked for), the answer is None, and the caller goes value by
value. Only the last digits of a sum of floats may differ, since they depend on the order in which it is made, and the sign of a
zero among minima and maxima.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from beam_exactly_once.state.columns.number_rows import Column, Shape, decode_numbers, encode_numbers
from beam_exactly_once.state.hashing import Numbers

Columns: TypeAlias = tuple[Column, ...]
"""One number of each of many accumulators, and maybe another one."""
FoldName: TypeAlias = Literal["sum", "min", "max", "count", "mean"]

_LIST, _PAIR = (b"l", (None,)), (b"t", (None, None))
_SHAPES: dict[FoldName, Shape] = {"sum": _LIST, "min": _LIST, "max": _LIST, "count": None, "mean": _PAIR}
_UFUNCS: dict[FoldName, tuple[np.ufunc, ...]] = {
    "sum": (np.add,),
    "min": (np.minimum,),
    "max": (np.maximum,),
    "count": (np.add,),
    "mean": (np.add, np.add),
}
_LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Folds:
    """Functions of columns: one, whose accumulator stands alone, or one a column of a batch, with a tuple of accumulators."""

    names: tuple[FoldName, ...]
    is_tuple: bool = False

    @property
    def shape(self) -> Shape:
        """Of an accumulator."""
        shapes = tuple(_SHAPES[name] for name in self.names)
        return (b"t", shapes) if self.is_tuple else shapes[0]

    @property
    def _ufuncs(self) -> list[np.ufunc]:
        return [ufunc for name in self.names for ufunc in _UFUNCS[name]]

    def lifted(self, values: Sequence[Sequence[Any]]) -> Columns | None:
        """An accumulator of each value.

        Args:
            values: of each function: Python values, or a column.
        """
        columns: list[Column] = []
        for name, of_column in zip(self.names, values, strict=True):
            if name != "count":
                numbers = _numbers(of_column)
                if numbers is None or (name in ("min", "max") and _has_nan(numbers)):
                    return None
                columns.append(_from_zero(numbers) if name in ("sum", "mean") else numbers)
            if name in ("count", "mean"):
                columns.append(np.ones(len(of_column), np.int64))
        return tuple(columns)

    def reduced(self, columns: Columns, places: Numbers, count: int) -> Columns | None:
        """One accumulator of many; None if that must go value by value.

        Args:
            columns: of the many.
            places: of which key each of them is.
            count: how many keys there are, none of them without an accumulator.
        """
        most = int(np.bincount(places, minlength=1).max())
        if not all(map(_has_room, self._ufuncs, columns, [most] * len(columns))):
            return None
        return tuple(_reduced(ufunc, one, places, count) for ufunc, one in zip(self._ufuncs, columns, strict=True))

    def merged(self, columns: Columns, others: Columns) -> Columns | None:
        """Accumulators, two by two."""
        if [one.dtype for one in columns] != [one.dtype for one in others]:
            return None
        every = list(zip(self._ufuncs, columns, others, strict=True))
        if not all(_has_room(ufunc, one, 2) and _has_room(ufunc, other, 2) for ufunc, one, other in every):
            return None
        with np.errstate(all="ignore"):
            return tuple(ufunc(one, other) for ufunc, one, other in every)

    def after(self, columns: Columns, places: Numbers, stored: pa.LargeBinaryArray | None) -> Columns | None:
        """The accumulators of a batch merged into those that were kept; None if that must go value by value.

        Args:
            columns: of the batch.
            places: of which keys there are accumulators already.
            stored: these.
        """
        if stored is None or not len(stored):
            return columns
        before = self.decoded(stored)
        merged = None if before is None else self.merged(tuple(column[places] for column in columns), before)
        if merged is None:
            return None
        after = tuple(column.copy() for column in columns)
        for column, of_places in zip(after, merged, strict=True):
            column[places] = of_places
        return after

    def encoded(self, columns: Columns) -> pa.LargeBinaryArray:
        """As they are stored."""
        return encode_numbers(self.shape, columns)

    def decoded(self, column: pa.LargeBinaryArray) -> Columns | None:
        """What is stored."""
        found = decode_numbers(self.shape, column)
        if found is None or any(
            ufunc is not np.add and _has_nan(one) for ufunc, one in zip(self._ufuncs, found, strict=True)
        ):
            return None
        return tuple(found)

    def accumulators(self, columns: Columns) -> list[Any]:
        """As a ``CombineFn`` has them."""
        left = [one.tolist() for one in columns]
        of_names = []
        for name in self.names:
            first = left.pop(0)
            if name == "count":
                of_names.append(first)
            elif name == "mean":
                of_names.append(list(zip(first, left.pop(0), strict=True)))
            else:
                of_names.append([[one] for one in first])
        return list(zip(*of_names, strict=True)) if self.is_tuple else of_names[0]

    def results(self, columns: Columns) -> list[Column]:
        """What each function gives."""
        left = list(columns)
        with np.errstate(all="ignore"):
            return [_quotient(left.pop(0), left.pop(0)) if name == "mean" else left.pop(0) for name in self.names]


def _reduced(ufunc: np.ufunc, numbers: Column, places: Numbers, count: int) -> Column:
    reduced: Column = np.zeros(count, numbers.dtype)
    if ufunc is not np.add:
        reduced[places] = numbers  # any of them to begin with
    with np.errstate(all="ignore"):
        ufunc.at(reduced, places, numbers)
    return reduced


def _numbers(values: Sequence[Any] | pa.Array) -> Column | None:
    """Values that are all of type int, or all of type float; None if they are not, or too large for 64 bits."""
    if isinstance(values, pa.Array):
        return _of_arrow(values)
    types = set(map(type, values))
    if types not in ({int}, {float}):
        return None
    try:
        return np.array(values, np.int64) if types == {int} else np.array(values, np.float64)
    except OverflowError:
        return None


def _of_arrow(values: pa.Array) -> Column | None:
    if values.null_count or not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return None
    try:
        wide = values.cast(pa.int64() if pa.types.is_integer(values.type) else pa.float64())
    except pa.ArrowInvalid:
        return None
    numbers: Column = wide.to_numpy()
    return numbers


def _from_zero(numbers: Column) -> Column:
    """As sum() begins with 0, that of -0.0 is 0.0."""
    summed: Column = np.add(numbers, 0)
    return summed


def _quotient(totals: Column, counts: Column) -> Column:
    quotients: Column = np.true_divide(totals, counts)
    return quotients


def _has_nan(numbers: Column) -> bool:
    return numbers.dtype == np.float64 and bool(np.isnan(numbers).any())


def _has_room(ufunc: np.ufunc, numbers: Column, times: int) -> bool:
    """Whether so many of these numbers can be added without more than 64 bits."""
    if ufunc is not np.add or numbers.dtype != np.int64 or not len(numbers):
        return True
    return max(int(numbers.max()), -int(numbers.min())) * times <= _LARGEST
