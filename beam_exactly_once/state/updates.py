"""What operators do with the state of a key, and what they emit. Pure, but for the functions of users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Protocol

from beam_exactly_once.rows.event_times import By, times_of_rows
from beam_exactly_once.state.arrow_rows import ArrowRows
from beam_exactly_once.state.columns.folds import Folds
from beam_exactly_once.state.garbage import no_collection
from beam_exactly_once.state.keyed_chunk import KeyedChunk, grouped_rows
from beam_exactly_once.state.keys import encode_keys
from beam_exactly_once.state.types import AccumulatorState, StateType

UNCHANGED = object()
"""A new state that says that the old one stays."""
MISSING = object()
"""An old state that is not there."""


def as_it_is(chunk: KeyedChunk) -> KeyedChunk:
    """What travels in the place of a chunk where only a function of the user knows its values: all of them."""
    return chunk


class Operator(Protocol):
    """What one operator keeps, and how its rows travel. It travels to workers itself, so it is pickled with the graph."""

    @property
    def kind(self) -> str:
        """The word for it in a definition."""

    @property
    def state_type(self) -> StateType:
        """How states are stored."""

    @property
    def adds_up(self) -> bool:
        """Whether the same value, given twice, changes what is remembered; and a key is emitted again when it changes."""

    @property
    def ttl_ms(self) -> int | None:
        """How long a key is remembered after its last change; None: for ever."""

    @property
    def by(self) -> By | None:
        """When a value happened, if times to live, timeouts and windows go by event time."""

    @property
    def folds(self) -> Folds | None:
        """What does the same on columns of numbers, if there is something."""

    @property
    def arrow(self) -> ArrowRows | None:
        """How it takes batches of Arrow, if it takes them instead of pairs."""

    def lifted(self, chunk: KeyedChunk) -> KeyedChunk:
        """What travels in the place of a chunk of values, fewer if they can be combined where they are."""

    def in_time(self, chunk: KeyedChunk, fired_ms: int | None) -> KeyedChunk:
        """The keys of a chunk that are taken, though the batch before has come to ``fired_ms``."""


class Update(Operator, Protocol):
    """What one operator does with the states of many keys at once."""

    def new_states(self, groups: Sequence[list[Any]], states: Sequence[Any]) -> list[Any]:
        """The state of each key behind the batch.

        Args:
            groups: what came for each key, lifted.
            states: the states before it; :data:`MISSING` where there is none.

        Returns:
            None where a key is forgotten, :data:`UNCHANGED` where nothing is to be stored.
        """

    def outputs(
        self, keys: Sequence[Any], groups: Sequence[list[Any]], states: Sequence[Any], shown: Sequence[Any]
    ) -> list[Any]:
        """What is emitted.

        Args:
            keys: of the batch.
            groups: as above.
            states: before the batch.
            shown: behind it, as the next batch will read them; None where a key is forgotten.
        """


def whatever_its_time(chunk: KeyedChunk, fired_ms: int | None) -> KeyedChunk:
    """Every row is taken."""
    return chunk


@dataclass(frozen=True)
class UpdateEach:
    """``UpdateStateByKey``: a function of the new values and the old state."""

    fn: Callable[[list[Any], Any], Any]
    state_type: StateType
    ttl_ms: int | None
    by: By | None = None
    kind: str = field(default="update_state_by_key", init=False)
    adds_up: bool = field(default=True, init=False)
    folds: None = field(default=None, init=False)
    arrow: None = field(default=None, init=False)

    lifted = staticmethod(as_it_is)
    in_time = staticmethod(whatever_its_time)

    def new_states(self, groups: Sequence[list[Any]], states: Sequence[Any]) -> list[Any]:
        """One call a key."""
        fn = self.fn
        return [fn(values, None if state is MISSING else state) for values, state in zip(groups, states, strict=True)]

    def outputs(
        self, keys: Sequence[Any], groups: Sequence[list[Any]], states: Sequence[Any], shown: Sequence[Any]
    ) -> list[Any]:
        """``(key, state)`` of each key; the state is None where the key is forgotten."""
        return list(zip(keys, shown, strict=True))


@dataclass(frozen=True)
class CombineEach:
    """``StatefulCombinePerKey``: a ``CombineFn`` whose accumulators stay."""

    fn: Any
    """A ``CombineFn`` of Beam, or what has its methods."""
    ttl_ms: int | None
    name: str = ""
    """Of the function, as the definition keeps it."""
    folds: Folds | None = None
    """The same function on columns of numbers, if there is one."""
    arrow: ArrowRows | None = None
    """Where rows are batches of Arrow."""
    by: By | None = None
    kind: str = field(default="stateful_combine_per_key", init=False)
    adds_up: bool = field(default=True, init=False)

    in_time = staticmethod(whatever_its_time)

    @property
    def state_type(self) -> StateType:
        """Accumulators, without pickle."""
        return AccumulatorState(self.name or type(self.fn).__qualname__)

    def accumulator(self, values: list[Any]) -> Any:
        """Of values of one key."""
        return self.fn.add_inputs(self.fn.create_accumulator(), values)

    def lifted(self, chunk: KeyedChunk) -> KeyedChunk:
        """One accumulator a key."""
        return chunk.lifted(self.accumulator)

    def new_states(self, groups: Sequence[list[Any]], states: Sequence[Any]) -> list[Any]:
        """The accumulators of the batch merged into the one that was kept."""
        merge, compact = self.fn.merge_accumulators, self.fn.compact
        with no_collection():
            return [
                compact(merge(accumulators if state is MISSING else [state, *accumulators]))
                for accumulators, state in zip(groups, states, strict=True)
            ]

    def outputs(
        self, keys: Sequence[Any], groups: Sequence[list[Any]], states: Sequence[Any], shown: Sequence[Any]
    ) -> list[Any]:
        """``(key, result)`` of each key."""
        extract = self.fn.extract_output
        return [(key, extract(accumulator)) for key, accumulator in zip(keys, shown, strict=True)]


def combine_fn_of(operator: Any) -> Any | None:
    """The ``CombineFn`` that an operator has of its user, to be set up and torn down; None if it has none."""
    combine = getattr(operator, "combine", operator)
    return combine.fn if isinstance(combine, CombineEach) and combine.arrow is None else None


@dataclass(frozen=True)
class FirstOfEach:
    """``DeduplicateByKey``: remembers that a key was there."""

    ttl_ms: int | None
    by: By | None = None
    kind: str = field(default="deduplicate_by_key", init=False)
    adds_up: bool = field(default=False, init=False)
    folds: None = field(default=None, init=False)
    arrow: None = field(default=None, init=False)

    @property
    def state_type(self) -> StateType:
        """True for each key."""
        return AccumulatorState("seen")

    def lifted(self, chunk: KeyedChunk) -> KeyedChunk:
        """The first of each key; the others of one bundle are duplicates wherever they go."""
        return chunk if chunk.has_one_each else chunk.lifted(itemgetter(0))

    def in_time(self, chunk: KeyedChunk, fired_ms: int | None) -> KeyedChunk:
        """Those that may not have been forgotten: of others nobody knows whether they are new."""
        if chunk.times_ms is None or self.ttl_ms is None or fired_ms is None:
            return chunk
        may_be_known = chunk.times_ms > fired_ms - self.ttl_ms
        return chunk if may_be_known.all() else chunk.only(may_be_known)

    def new_states(self, groups: Sequence[list[Any]], states: Sequence[Any]) -> list[Any]:
        """A key that is known stays as it is: its time to live counts from its first pair."""
        return [True if state is MISSING else UNCHANGED for state in states]

    def outputs(
        self, keys: Sequence[Any], groups: Sequence[list[Any]], states: Sequence[Any], shown: Sequence[Any]
    ) -> list[Any]:
        """``(key, value)`` of each key that is new."""
        return [(key, values[0]) for key, values, state in zip(keys, groups, states, strict=True) if state is MISSING]


def grouped(update: Operator, rows: Any, hash_seed: str, operator: str) -> KeyedChunk:
    """Rows in any order, by key.

    Args:
        update: of the operator.
        rows: a batch of Arrow, or a list of keys and one of as many values.
        hash_seed: of the operator.
        operator: its name.

    Raises:
        UnfitRow: a key or a column is of a type that it cannot be, or a row has no time.
    """
    arrow, folds = update.arrow, update.folds
    if arrow is not None:
        return arrow.grouped(rows, hash_seed, operator)
    keys, values = rows
    times_ms = None if update.by is None else times_of_rows(update.by, values, step=operator)
    columns = None if folds is None else folds.lifted([values])
    encoded = encode_keys(keys, operator=operator)
    return grouped_rows(encoded, hash_seed, values=lambda: values, columns=columns, folds=folds, times_ms=times_ms)


def lifted(update: Operator, chunk: KeyedChunk) -> KeyedChunk:
    """What travels in the place of a chunk."""
    if chunk.columns:
        return chunk
    with no_collection():
        return update.lifted(chunk)
