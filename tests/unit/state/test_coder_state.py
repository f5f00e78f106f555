"""State as bytes of a coder: coders that may pickle are known by their classes, without Beam."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from beam_exactly_once.errors import ConfigurationError, PipelineChanged, UnfitRow
from beam_exactly_once.state.definition import refuse_changed_state
from beam_exactly_once.state.types import VALUE_MAX_BYTES, CoderState


class Doubles:
    """A coder of a user's own."""

    def encode(self, value: Any) -> bytes:
        return struct.pack("<d", value)

    def decode(self, encoded: bytes) -> Any:
        return struct.unpack("<d", encoded)[0]

    def is_deterministic(self) -> bool:
        return True


class Pairs(Doubles):
    def __init__(self, *inner: Any) -> None:
        self.inner = inner


class Chance(Doubles):
    def is_deterministic(self) -> bool:
        return False


def of_beam(name: str, *bases: type) -> type:
    """A class as Beam has it."""
    return type(name, bases or (Doubles,), {"__module__": "apache_beam.coders.coders"})


Coder = of_beam("Coder")
VarIntCoder = of_beam("VarIntCoder", Coder)
FastPrimitivesCoder = of_beam("FastPrimitivesCoder", Coder)


class OwnOfBeam(Coder):  # type: ignore[misc, valid-type]
    """A user's own, with Beam's base class."""


class OwnOfPickle(FastPrimitivesCoder):  # type: ignore[misc, valid-type]
    """A user's own, upon one that pickles."""


class OwnOfVarInt(VarIntCoder):  # type: ignore[misc, valid-type]
    """A user's own, upon one that does not."""


def test_a_value_goes_through_the_coder_from_the_first_batch_on() -> None:
    state = CoderState(Doubles())
    column, kept = state.encode([1, 2.5], operator="counts")
    assert [(type(value), value) for value in kept] == [(float, 1.0), (float, 2.5)]
    assert column.to_pylist() == [struct.pack("<d", 1), struct.pack("<d", 2.5)]
    assert state.decode(column, np.array([1, 1], np.uint8), operator="counts") == kept


def test_what_the_coder_does_not_take_is_refused_without_its_value() -> None:
    with pytest.raises(UnfitRow) as refused:
        CoderState(Doubles()).encode([1, "hidden"], operator="counts")
    said = "operator 'counts': a state of type str cannot be stored: Doubles does not take it (error). Give it what"
    assert str(refused.value).startswith(said)
    assert "hidden" not in str(refused.value)


def test_a_large_state_is_refused() -> None:
    coder = Doubles()
    coder.encode = lambda value: b"x" * value  # type: ignore[method-assign]
    coder.decode = len  # type: ignore[method-assign, assignment]
    assert CoderState(coder).encode([VALUE_MAX_BYTES], operator="counts").values == [VALUE_MAX_BYTES]
    with pytest.raises(UnfitRow, match="operator 'counts': the state of one key"):
        CoderState(coder).encode([VALUE_MAX_BYTES + 1], operator="counts")


def test_an_upgrade_is_from_bytes_to_bytes() -> None:
    state = CoderState(Doubles(), version=2, upgrades={1: lambda data: struct.pack("<d", int(data))})
    old = pa.array([b"17", struct.pack("<d", 3)], pa.large_binary())
    assert state.decode(old, np.array([1, 2], np.uint8), operator="counts") == [17.0, 3.0]


@pytest.mark.parametrize(
    "coder",
    [Doubles(), Pairs(Doubles(), VarIntCoder()), Pairs([VarIntCoder()]), VarIntCoder(), OwnOfBeam(), OwnOfVarInt()],
    ids=lambda coder: type(coder).__name__,
)
def test_a_coder_that_does_not_pickle_is_taken(coder: Any) -> None:
    assert CoderState(coder).coder is coder


@pytest.mark.parametrize(
    ("coder", "said"),
    [
        (FastPrimitivesCoder(), "FastPrimitivesCoder is not one of the coders of Beam that never pickle"),
        (of_beam("PickleCoder", Coder)(), "PickleCoder is not one"),
        (of_beam("MadeTomorrowCoder", Coder)(), "MadeTomorrowCoder is not one"),
        (of_beam("VarIntCoder", FastPrimitivesCoder)(), "VarIntCoder is not one"),
        (Coder(), "Coder is not one"),
        (OwnOfPickle(), "OwnOfPickle is not one"),
        (Pairs(Doubles(), FastPrimitivesCoder()), "FastPrimitivesCoder is not one"),
        (Pairs([Pairs({"a": FastPrimitivesCoder()})]), "FastPrimitivesCoder is not one"),
        (Chance(), "Chance is not deterministic"),
        (Doubles, "coder=Doubles has no encode"),
        (5, "coder=int has no encode"),
        (object(), "coder=object has no encode"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_coder_that_may_pickle_is_refused_where_it_is_given(coder: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        CoderState(coder)


def test_another_coder_is_another_version() -> None:
    stored = CoderState(Pairs(Doubles())).to_definition()
    assert stored == {"kind": "coder", "version": 1, "coder": "Pairs(Doubles)"}
    refuse_changed_state("counts", [stored], CoderState(Pairs(Doubles())))
    refuse_changed_state("counts", [stored], CoderState(Doubles(), version=2, upgrades={1: same}))
    with pytest.raises(PipelineChanged, match=r"its coder was Pairs\(Doubles\), and is Doubles. Raise version="):
        refuse_changed_state("counts", [stored], CoderState(Doubles()))


def same(data: bytes) -> bytes:
    return data


@pytest.mark.parametrize("make", [lambda: CoderState(Doubles(), version=3, upgrades={1: same})])
def test_a_wrong_version_is_refused_where_it_is_given(make: Callable[[], CoderState]) -> None:
    with pytest.raises(ConfigurationError, match="without a hole"):
        make()
