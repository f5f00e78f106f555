"""A state comes back from JSON as it was, or is refused: by the type that is declared, in all versions of the code."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import math
import pickle
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.errors import ConfigurationError, PipelineChanged, UnfitRow
from beam_exactly_once.state.types import JsonState
from beam_exactly_once.state.types.contract import VALUE_MAX_BYTES

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=100)


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclass
class Place:
    row: int
    column: int = 0


@dataclass(frozen=True)
class Session:
    clicks: int = 0
    last_ms: int | None = None
    pages: tuple[str, ...] = ()
    span: tuple[int, float] | None = None
    place: Place | None = None
    places: list[Place] = field(default_factory=list)
    by_name: dict[str, Place] = field(default_factory=dict)
    color: Color = Color.RED
    mode: Literal["a", "b"] = "a"
    rest: Any = None


@dataclass
class Tree:
    inner: Tree | None = None


class Counts(TypedDict, total=False):
    n: int
    places: list[Place]


class Point(NamedTuple):
    x: int


def stored(values: list[Any], *versions: int) -> tuple[pa.Array, np.ndarray[Any, np.dtype[np.uint8]]]:
    column = pa.array([orjson.dumps(value) for value in values], pa.large_binary())
    return column, np.array(versions or [1] * len(values), np.uint8)


def read_back(state: JsonState, values: list[Any]) -> list[Any]:
    column, kept = state.encode(values, operator="counts")
    assert column.type == state.arrow_type
    read = state.decode(column, np.full(len(values), state.version, np.uint8), operator="counts")
    assert read == kept
    return read


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ANYTHING = st.recursive(
    JSON
    | st.floats()
    | st.integers()
    | st.binary()
    | st.builds(Place, st.integers(0, 3))
    | st.just(Color.RED)
    | st.dates()
    | st.uuids(),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=2)
    ),
    max_leaves=4,
)


@repeatable
@given(st.lists(JSON, max_size=5))
def test_json_comes_back(values: list[Any]) -> None:
    assert repr(read_back(JsonState(), values)) == repr(values)


@repeatable
@given(ANYTHING)
def test_anything_comes_back_or_is_refused(value: Any) -> None:
    try:
        read = read_back(JsonState(), [value])
    except UnfitRow:
        return
    assert repr(read) == repr([value])


SESSIONS = st.builds(
    Session,
    clicks=st.integers(-9, 9),
    last_ms=st.none() | st.integers(0, 9),
    pages=st.lists(st.text(max_size=2), max_size=3).map(tuple),
    span=st.none() | st.tuples(st.integers(0, 9), st.floats(allow_nan=False, allow_infinity=False)),
    place=st.none() | st.builds(Place, st.integers(0, 9)),
    places=st.lists(st.builds(Place, st.integers(0, 9)), max_size=2),
    by_name=st.dictionaries(st.text(max_size=2), st.builds(Place, st.integers(0, 9)), max_size=2),
    rest=JSON,
)


@repeatable
@given(st.lists(SESSIONS, max_size=3))
def test_an_instance_comes_back_by_its_type(sessions: list[Session]) -> None:
    assert read_back(JsonState(Session), sessions) == sessions


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (tuple[int, ...], (1, 2)),
        (dict[str, tuple[int, str]], {"a": (1, "b")}),
        (list[Color], [Color.RED]),
        (Level, Level.LOW),
        (Counts, {"n": 1, "places": [Place(1)]}),
        (Counts, {"n": 1, "unknown": [1]}),
        (Counts, {}),
        (int | str, "a"),
        (Place | None, None),
        (Any, {"a": [1]}),
        (int, 5),
    ],
    ids=repr,
)
def test_a_value_comes_back_by_its_declared_type(declared: Any, value: Any) -> None:
    (read,) = read_back(JsonState(declared), [value])
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        {"hidden": [math.nan]},
        1 << 64,
        -(1 << 63) - 1,
        {1: "hidden"},
        {Color.RED: "hidden"},
        b"hidden",
        {"hidden"},
        ("hidden",),
        ["hidden", ("hidden",)],
        Point(1),
        Place(1),
        Color.RED,
        collections.Counter("hidden"),
        collections.defaultdict(int),
        datetime.date(2026, 1, 1),
        uuid.UUID(int=5),
        np.int64(5),
        "hidden\ud800",
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_would_change_is_refused_without_its_value(value: Any) -> None:
    for values in ([value], [1, value]):
        with pytest.raises(UnfitRow) as refused:
            JsonState().encode(values, operator="counts")
        assert str(refused.value).startswith(
            f"operator 'counts': a state of type {type(value).__name__} cannot be stored: "
        )
        assert "CoderState" in str(refused.value)
        assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (Session, Session(places=(Place(1),))),  # type: ignore[arg-type]
        (Session, Session(rest=(1,))),
        (Session, Session(rest=math.nan)),
        (Session, {"clicks": 1}),
        (Place, dataclasses.make_dataclass("More", [("x", int, 0)], bases=(Place,))(1)),
        (tuple[int, int], (1, 2, 3)),
        (tuple[int, ...], [1]),
        (Counts, {"places": [{"row": 1}]}),
        (Color, "red"),
    ],
    ids=repr,
)
def test_what_is_not_of_the_declared_type_is_refused(declared: Any, value: Any) -> None:
    with pytest.raises(UnfitRow, match="cannot be stored"):
        JsonState(declared).encode([value], operator="counts")


def test_an_operator_sees_what_is_stored_and_no_object_of_the_user() -> None:
    value: dict[str, Any] = {"pages": ["a"]}
    _, (kept,) = JsonState().encode([value], operator="counts")
    value["pages"].append("b")
    assert kept == {"pages": ["a"]}


def test_a_new_field_takes_its_default() -> None:
    assert JsonState(Place).decode(*stored([{"row": 1}]), operator="counts") == [Place(1, 0)]
    one, other = JsonState(Session).decode(*stored([{}, {"clicks": 1}]), operator="counts")
    assert (one, other) == (Session(), Session(clicks=1))
    assert one.places is not other.places


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"column": 1}, "it has no row, and Place gives no default"),
        ({"row": 1, "4242": 1}, "it has fields (1) that Place has not"),
        ([4242], "where a dict is declared, it has a list"),
    ],
    ids=repr,
)
def test_a_stored_value_of_another_shape_is_refused_with_the_way_out(value: Any, said: str) -> None:
    with pytest.raises(PipelineChanged) as refused:
        JsonState(Place).decode(*stored([value]), operator="counts")
    assert str(refused.value).startswith(f"operator 'counts': a stored state is no Place as it is now: {said}. ")
    assert "upgrades={1: …}" in str(refused.value)
    assert "4242" not in str(refused.value)


def test_each_row_is_upgraded_from_the_version_that_wrote_it() -> None:
    state = JsonState(
        Place, version=3, upgrades={1: lambda number: {"x": number}, 2: lambda old: {"row": old["x"] + 100}}
    )
    values = stored([1, {"x": 2}, {"row": 3}, 4], 1, 2, 3, 1)
    assert state.decode(*values, operator="counts") == [Place(101), Place(102), Place(3), Place(104)]


def test_a_row_of_newer_code_is_refused() -> None:
    with pytest.raises(PipelineChanged) as refused:
        JsonState(version=2, upgrades={1: lambda value: value}).decode(*stored([1, 2], 2, 3), operator="counts")
    assert str(refused.value) == (
        "operator 'counts': its state has values of version 3, and this code has version=2. Start the code of version 3 again; "
        "it alone knows them."
    )


def test_a_row_without_an_upgrade_is_refused() -> None:
    with pytest.raises(PipelineChanged, match=r"version 1, and this code has version=3, with upgrades from \[2\]"):
        JsonState(version=3, upgrades={2: lambda value: value}).decode(*stored([1, 2], 3, 1), operator="counts")


def same(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: JsonState(version=0), "version=0 must be a whole number from 1 to 255"),
        (lambda: JsonState(version=256), "version=256"),
        (lambda: JsonState(version=True), "version=True"),
        (lambda: JsonState(version=3, upgrades={1: same}), "without a hole, the last one from 2"),
        (lambda: JsonState(version=1, upgrades={1: same}), "without a hole"),
        (lambda: JsonState(version=1, upgrades={0: same}), "without a hole"),
        (lambda: JsonState(version=2, upgrades={1: "f"}), "must map versions to functions"),  # type: ignore[dict-item]
        (lambda: JsonState(version=2, upgrades={"1": same}), "must map versions to functions"),  # type: ignore[dict-item]
        (lambda: JsonState(version=2, upgrades=[same]), "must map versions to functions"),  # type: ignore[arg-type]
        (lambda: JsonState(datetime.datetime), "JSON cannot say datetime"),
        (lambda: JsonState(set[int]), r"JSON cannot say set\[int\]"),
        (lambda: JsonState(dict[int, str]), r"JSON cannot say dict\[int, str\]"),
        (lambda: JsonState(bytes), "JSON cannot say bytes"),
        (lambda: JsonState(Point), "JSON cannot say Point"),
        (lambda: JsonState(Place | Session), "does not say which type"),
        (lambda: JsonState(Tree), "has fields of its own type"),
        (lambda: JsonState(dataclasses.make_dataclass("A", [("_x", int)])), "field '_x' has init=False"),
        (lambda: JsonState(dataclasses.make_dataclass("A", [("x", int)], eq=False)), "it has eq=False"),
        (lambda: JsonState(dataclasses.make_dataclass("A", [("x", "Unknown")])), "name 'Unknown'"),
        (lambda: JsonState(dataclasses.make_dataclass("A", [("x", bytes)])), "JSON cannot say bytes"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_wrong_argument_is_refused_where_it_is_given(make: Callable[[], JsonState], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make()


def test_a_large_state_is_refused() -> None:
    most = "x" * (VALUE_MAX_BYTES - 2)
    assert JsonState().encode([most], operator="counts").values == [most]
    with pytest.raises(UnfitRow, match=f"operator 'counts': the state of one key has {VALUE_MAX_BYTES + 1} bytes"):
        JsonState().encode([1, most + "x"], operator="counts")
    assert len(JsonState().encode([most[:-100], most], operator="counts").column) == 2


def test_a_state_type_travels_to_workers() -> None:
    state = pickle.loads(pickle.dumps(JsonState(Session, version=2, upgrades={1: same})))
    assert state == JsonState(Session, version=2, upgrades={1: same})
    assert state.to_definition() == {"kind": "json", "version": 2, "type": "Session"}
    assert JsonState().to_definition() == {"kind": "json", "version": 1, "type": None}
