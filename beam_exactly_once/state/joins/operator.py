"""``JoinEach``: what ``JoinWithinInterval`` keeps of each row, and how its rows travel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.rows.event_times import By, times_of_rows
from beam_exactly_once.state import tagged
from beam_exactly_once.state.joins.interval import LEFT, RIGHT, Interval
from beam_exactly_once.state.joins.subkeys import encoded, places_of
from beam_exactly_once.state.keyed_chunk import Sorted, grouped_rows
from beam_exactly_once.state.keys import encode_keys
from beam_exactly_once.state.ordering import Flags
from beam_exactly_once.state.types import AccumulatorState
from beam_exactly_once.state.types.contract import refuse_large
from beam_exactly_once.state.updates import as_it_is, whatever_its_time

How: TypeAlias = Literal["inner", "left", "right", "full"]

_ALONE: dict[How, tuple[int, ...]] = {"inner": (), "left": (LEFT,), "right": (RIGHT,), "full": (LEFT, RIGHT)}
_NOTHING = pa.scalar(b"", pa.large_binary())


@dataclass(frozen=True)
class JoinEach:
    """``JoinWithinInterval``: rows of two sides, each remembered until nothing can match it any more."""

    interval: Interval
    how: How
    by_sides: tuple[By, By]
    """When a row of each side happened."""
    kind: str = field(default="join_within_interval", init=False)
    adds_up: bool = field(default=False, init=False)
    ttl_ms: None = field(default=None, init=False)
    by: None = field(default=None, init=False)
    folds: None = field(default=None, init=False)
    arrow: None = field(default=None, init=False)

    lifted = staticmethod(as_it_is)
    in_time = staticmethod(whatever_its_time)  # it is known which rows are late before they are grouped

    @property
    def state_type(self) -> AccumulatorState:
        """Plain values by exact type, as accumulators are."""
        return AccumulatorState("rows")

    @property
    def gives_alone(self) -> tuple[int, ...]:
        """The sides whose rows are given without a match, if none comes."""
        return _ALONE[self.how]

    def to_json(self) -> Json:
        """As a definition holds it: rows are remembered for this."""
        return {**self.interval.to_json(), "how": self.how}

    def sorted_out(
        self,
        side: int,
        keys: Sequence[Any],
        values: Sequence[Any],
        *,
        hash_seed: str,
        late_ms: int | None,
        latest_ms: int,
        operator: str,
    ) -> Sorted:
        """Rows of one side by key, without those that come too late.

        Args:
            side: of the rows.
            keys: of them.
            values: as many.
            hash_seed: of the operator.
            late_ms: rows that happened before are late; None if none is.
            latest_ms: rows that happened later are from the future, and match nothing.
            operator: its name.

        Raises:
            UnfitRow: a key or a row cannot be stored, or a row has no time.
        """
        times_ms = times_of_rows(self.by_sides[side], values, step=operator)
        in_time: Flags = times_ms <= latest_ms
        if late_ms is not None:
            in_time &= times_ms >= late_ms
        late_rows = np.flatnonzero(~in_time)
        if len(late_rows):
            rows = np.flatnonzero(in_time)
            keys, values = ([given[row] for row in rows.tolist()] for given in (keys, values))
            times_ms = times_ms[rows]
        places = encoded(places_of(np.full(len(times_ms), side), times_ms))
        entries = pc.binary_join_element_wise(places, _stored(values, operator), _NOTHING)
        chunk = grouped_rows(encode_keys(keys, operator=operator), hash_seed, values=entries.to_pylist)
        return Sorted(chunk, late_rows)


def _stored(values: Sequence[Any], operator: str) -> pa.LargeBinaryArray:
    """
    Raises:
        UnfitRow: one has a value of a type that is not taken, or is too large.
    """
    try:
        return refuse_large(tagged.encode_column(values, tagged.PLAIN), operator)
    except tagged.Unstorable as error:
        why = f": {error.why}" if error.why else ""
        raise UnfitRow(
            f"operator {operator!r}: a row with a value of type {error.kind.__name__} cannot be remembered{why}. A row of a "
            "join is None, bool, int, float, str, bytes, Decimal, date, datetime (UTC or without zone), or tuples, lists, dicts, "
            "sets, frozensets of such, exactly. Make one of it before the join, such as row._asdict()."
        ) from None
