"""State types: how the values of an operator are stored, and how values of earlier versions of the code are read."""

from beam_exactly_once.state.types.accumulators import AccumulatorState
from beam_exactly_once.state.types.arrow_state import ArrowState
from beam_exactly_once.state.types.coder_state import CoderState
from beam_exactly_once.state.types.contract import VALUE_MAX_BYTES, StateType, StoredValues
from beam_exactly_once.state.types.json_state import JsonState

__all__ = [
    "VALUE_MAX_BYTES",
    "AccumulatorState",
    "ArrowState",
    "CoderState",
    "JsonState",
    "StateType",
    "StoredValues",
]
