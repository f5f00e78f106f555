"""Batches of Arrow as rows of an operator: their keys, the columns that it combines, and what it emits. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.rows.event_times import By, times_of_batch
from beam_exactly_once.state.columns.folds import Columns, Folds
from beam_exactly_once.state.keyed_chunk import KeyedChunk, grouped_rows
from beam_exactly_once.state.keys import encode_key_columns


@dataclass(frozen=True)
class ArrowRows:
    """Which columns an operator takes.

    Args:
        key_columns: that make a key: the value of one, or the tuple of the values of several.
        value_columns: that are combined, one by each fold. What is emitted has the results under the same names.
        folds: what combines them.
        by: when a row happened, where that matters.
        keeps_all: whether somebody wants rows as they came.
    """

    key_columns: tuple[str, ...]
    value_columns: tuple[str, ...]
    folds: Folds
    by: By | None = None
    keeps_all: bool = False

    def needed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch without columns that nobody reads."""
        if self.keeps_all or callable(self.by):
            return batch
        needed = dict.fromkeys((*self.key_columns, *self.value_columns, *([] if self.by is None else [self.by])))
        return batch.select([name for name in needed if batch.schema.names.count(name) == 1])

    def columns(self, batch: pa.RecordBatch, operator: str) -> tuple[dict[str, pa.Array], list[pa.Array]]:
        """The key columns of a batch, and those that are combined.

        Raises:
            UnfitRow: a column is missing, or is of a type that it cannot be, or there are nulls where numbers are combined.
        """
        if not isinstance(batch, pa.RecordBatch):
            kind = type(batch).__name__
            raise UnfitRow(
                f"operator {operator!r} has key_columns=, so it takes a pyarrow.RecordBatch, and got a {kind}."
            )
        keys = {name: _column(batch, name, operator) for name in self.key_columns}
        values = [_column(batch, name, operator) for name in self.value_columns]
        for name, fold, column in zip(self.value_columns, self.folds.names, values, strict=True):
            if fold != "count":
                _refuse_other_than_numbers(name, fold, column, operator)
        return keys, values

    def grouped(self, batch: pa.RecordBatch, hash_seed: str, operator: str) -> KeyedChunk:
        """The rows of a batch, by key.

        Raises:
            UnfitRow: as of :meth:`columns`; or a row has no time.
        """
        keys, values = self.columns(batch, operator)
        return grouped_rows(
            encode_key_columns(keys, operator=operator),
            hash_seed,
            values=lambda: tuples_of(values),
            columns=self.folds.lifted(values),
            folds=self.folds,
            shown_keys=pa.RecordBatch.from_arrays(list(keys.values()), names=list(keys)),
            times_ms=None if self.by is None else times_of_batch(self.by, batch, step=operator),
        )

    def key_arrays(self, keys: Sequence[Any]) -> dict[str, pa.Array]:
        """Keys that were remembered, as columns again: integers and strings of any width as those of 64 bits."""
        columns = [keys] if len(self.key_columns) == 1 else zip(*keys, strict=True)
        return {name: pa.array(list(column)) for name, column in zip(self.key_columns, columns, strict=True)}

    def shown(self, keys: pa.RecordBatch, results: Sequence[Any], operator: str) -> pa.RecordBatch:
        """What is emitted.

        Args:
            keys: as they came.
            results: of each value column.
            operator: for messages.

        Raises:
            UnfitRow: a sum has more than 64 bits.
        """
        columns = [_result(name, one, operator) for name, one in zip(self.value_columns, results, strict=True)]
        return pa.RecordBatch.from_arrays([*keys.columns, *columns], names=[*keys.schema.names, *self.value_columns])

    def shown_columns(self, keys: pa.RecordBatch, columns: Columns, operator: str) -> pa.RecordBatch:
        """As :meth:`shown`, of accumulators."""
        return self.shown(keys, self.folds.results(columns), operator)


def tuples_of(columns: Sequence[pa.Array]) -> list[tuple[Any, ...]]:
    """The values of each row."""
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


@dataclass(frozen=True)
class EachColumn:
    """Several ``CombineFn`` as one, each for one item of the tuples that are combined."""

    fns: tuple[Any, ...]

    def create_accumulator(self) -> tuple[Any, ...]:
        """One of each."""
        return tuple(fn.create_accumulator() for fn in self.fns)

    def add_inputs(self, accumulators: tuple[Any, ...], rows: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        """Column by column."""
        columns = zip(*rows, strict=True)
        return tuple(fn.add_inputs(*of_fn) for fn, *of_fn in zip(self.fns, accumulators, columns, strict=True))

    def merge_accumulators(self, every: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        """Those of each function together."""
        return tuple(
            fn.merge_accumulators(list(of_fn)) for fn, of_fn in zip(self.fns, zip(*every, strict=True), strict=True)
        )

    def compact(self, accumulators: tuple[Any, ...]) -> tuple[Any, ...]:
        """Each."""
        return tuple(fn.compact(one) for fn, one in zip(self.fns, accumulators, strict=True))

    def extract_output(self, accumulators: tuple[Any, ...]) -> tuple[Any, ...]:
        """The result of each."""
        return tuple(fn.extract_output(one) for fn, one in zip(self.fns, accumulators, strict=True))


def _column(batch: pa.RecordBatch, name: str, operator: str) -> pa.Array:
    if name not in batch.schema.names:
        raise UnfitRow(
            f"operator {operator!r}: a batch has not exactly one column {name!r}. Give each those that "
            "are named to the step."
        )
    column = batch.column(name)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _refuse_other_than_numbers(name: str, fold: str, column: pa.Array, operator: str) -> None:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise UnfitRow(
            f"operator {operator!r}: column {name!r} is of type {column.type}, and {fold} takes integers and floats. Cast it "
            "first, or give pairs of key and value."
        )
    if column.null_count:
        raise UnfitRow(
            f"operator {operator!r}: column {name!r} has {column.null_count} nulls, and {fold} takes none. Fill or "
            "drop them first."
        )


def _result(name: str, values: Any, operator: str) -> pa.Array:
    if not isinstance(values, list):
        return pa.array(values)
    try:
        if float not in set(map(type, values)):
            return pa.array(values, pa.int64())
        floats = list(map(float, values))  # some batches had ints, others floats
        if all(one == value or math.isnan(one) for one, value in zip(floats, values, strict=True)):
            return pa.array(floats, pa.float64())
    except (OverflowError, pa.ArrowInvalid):
        pass
    raise UnfitRow(
        f"operator {operator!r}: a result of column {name!r} has more digits than its type holds. Cast the column to float64 "
        "first, or give pairs of key and value, where an int has any size."
    )
