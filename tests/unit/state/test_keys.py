"""A key is its bytes: those never change, tell keys of all types apart, and give back the very key."""

from __future__ import annotations

import collections
import dataclasses
import enum
import pickle
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once.errors import CorruptObject, UnfitRow
from beam_exactly_once.state.keys import (
    KEY_MAX_BYTES,
    SAMPLES,
    decode_key,
    decode_keys,
    encode_key,
    encode_key_columns,
    encode_keys,
)

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=100)

WHOLE = st.integers() | st.sampled_from([0, 1, -1, 127, 128, -(1 << 63), (1 << 63) - 1, 1 << 63, -(1 << 63) - 1])
PLAIN = st.none() | st.booleans() | WHOLE | st.text(max_size=5) | st.binary(max_size=5)
KEYS = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)

VECTORS: list[tuple[Any, str]] = [
    (None, "6e"),
    (False, "46"),
    (True, "54"),
    (0, "690000000000000000"),
    (1, "690100000000000000"),
    (-2, "69feffffffffffffff"),
    ((1 << 63) - 1, "69ffffffffffffff7f"),
    (1 << 63, "49000000000000008000"),
    (-(1 << 63) - 1, "49ffffffffffffff7fff"),
    ("", "73"),
    ("wörd", "7377c3b67264"),
    (b"", "62"),
    (b"\x00\xff", "6200ff"),
    ((), "7400000000"),
    (("a",), "7401000000" "02000000" "7361"),
    (("a", (1, None)), "7402000000" "02000000" "17000000" "7361" "7402000000" "09000000" "01000000" "690100000000000000" "6e"),
]  # fmt: skip


class Color(enum.IntEnum):
    RED = 1


class Place(NamedTuple):
    row: int


class Word(str):
    pass


@dataclasses.dataclass(frozen=True)
class Point:
    x: int


def typed(key: Any) -> Any:
    """What Python finds equal only where the types are, too."""
    return tuple, [typed(item) for item in key] if type(key) is tuple else (type(key), key)


@pytest.mark.parametrize(("key", "stored"), VECTORS, ids=repr)
def test_the_bytes_of_a_key_never_change(key: Any, stored: str) -> None:
    assert encode_key(key).hex() == stored
    assert typed(decode_key(bytes.fromhex(stored))) == typed(key)


def test_the_samples_have_every_type() -> None:
    flat = [item for sample in SAMPLES for item in (sample if isinstance(sample, tuple) else (sample,))]
    assert {type(item) for item in [*SAMPLES, *flat]} == {type(None), bool, int, str, bytes, tuple}


@repeatable
@given(KEYS)
def test_a_key_comes_back_with_its_types(key: Any) -> None:
    assert typed(decode_key(encode_key(key))) == typed(key)


@repeatable
@given(st.lists(KEYS, max_size=6))
def test_different_keys_have_different_bytes(keys: list[Any]) -> None:
    for one in keys:
        for other in keys:
            assert (encode_key(one) == encode_key(other)) == (typed(one) == typed(other))


def test_what_python_finds_equal_stays_apart() -> None:
    keys = [1, True, (1, "x"), (True, "x"), "1", b"1", (1,), ((1,),), None, (None,), (), ""]
    assert len(set(encode_keys(keys).to_pylist())) == len(keys)


COLUMNS = st.sampled_from(
    [st.text(max_size=4), st.binary(max_size=4), WHOLE, st.integers(-5, 5), st.booleans(), st.none(), PLAIN, KEYS]
)


@repeatable
@given(COLUMNS.flatmap(lambda items: st.lists(items | st.none() | items, max_size=8)))
def test_a_column_has_the_bytes_of_each_key(keys: list[Any]) -> None:
    column = encode_keys(keys)
    assert column.type == pa.large_binary()
    assert column.to_pylist() == [encode_key(key) for key in keys]
    assert typed(tuple(decode_keys(column))) == typed(tuple(keys))


@repeatable
@given(st.lists(COLUMNS, min_size=1, max_size=3).flatmap(lambda items: st.lists(st.tuples(*items), max_size=6)))
def test_a_column_of_tuples_has_the_bytes_of_each_tuple(keys: list[Any]) -> None:
    column = encode_keys(keys)
    assert column.to_pylist() == [encode_key(key) for key in keys]
    assert typed(tuple(decode_keys(column))) == typed(tuple(keys))
    assert typed(tuple(decode_keys(column.slice(1)))) == typed(tuple(keys[1:]))


@pytest.mark.parametrize(
    ("column", "keys"),
    [
        (pa.array(["a", None, "ö"]), ["a", None, "ö"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array(["a", "b", "a", None]).dictionary_encode(), ["a", "b", "a", None]),
        (pa.array([b"a", None, b"\xff"]), [b"a", None, b"\xff"]),
        (pa.array([b"ab", b"cd"], pa.binary(2)), [b"ab", b"cd"]),
        (pa.array([1, None, -3], pa.int8()), [1, None, -3]),
        (pa.array([1, None, 3], pa.uint64()), [1, None, 3]),
        (pa.array([1, None, 1 << 63], pa.uint64()), [1, None, 1 << 63]),
        (pa.array([True, None, False]), [True, None, False]),
        (pa.nulls(2), [None, None]),
        (pa.array(["x", "a", None, "b"]).slice(1), ["a", None, "b"]),
        (pa.array([9, 1, None, 2]).slice(1), [1, None, 2]),
        (pa.array([], pa.string()), []),
    ],
    ids=str,
)
def test_an_arrow_column_has_the_bytes_of_the_same_python_keys(column: pa.Array, keys: list[Any]) -> None:
    assert encode_key_columns({"k": column}).to_pylist() == [encode_key(key) for key in keys]
    numbers = pa.array(range(len(keys)), pa.int64())
    pairs = encode_key_columns({"k": column, "n": numbers})
    assert pairs.to_pylist() == [encode_key((key, number)) for number, key in enumerate(keys)]


@pytest.mark.parametrize(
    "column",
    [pa.array([1.5]), pa.array([1], pa.timestamp("us")), pa.array([[1]]), pa.array([{"a": 1}]), pa.array([Decimal(1)])],
    ids=lambda column: str(column.type),
)
def test_an_arrow_column_that_makes_no_key_is_refused_by_name_and_type(column: pa.Array) -> None:
    with pytest.raises(UnfitRow) as refused:
        encode_key_columns({"at": column}, operator="counts")
    assert str(refused.value).startswith(f"operator 'counts': column 'at' is of type {column.type}")
    assert "Cast it" in str(refused.value)


def test_an_arrow_string_that_is_none_is_refused() -> None:
    with pytest.raises(UnfitRow, match="column 'k' is not valid string"):
        encode_key_columns({"k": pa.array([b"\xff"]).view(pa.string())})


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (Color.RED, ["Color", ".value"]),
        (Place(4242), ["Place", "tuple(key)"]),
        (Word("hidden"), ["Word", "str(key)"]),
        (np.int64(4242), ["int64", "key.item()"]),
        (np.str_("hidden"), ["str_", "str(key)"]),
        (4242.5, ["float", "str(key)"]),
        (float("nan"), ["float"]),
        (np.float64(4242.5), ["float64"]),
        ([4242], ["list", "tuple"]),
        (Point(4242), ["Point", "tuple"]),
        (Decimal("4242"), ["Decimal"]),
        (collections.OrderedDict(), ["OrderedDict"]),
        ("hidden\ud800", ["surrogate", "surrogatepass"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else type(value).__name__,
)
def test_a_key_that_would_come_back_otherwise_is_refused_without_its_value(key: Any, said: list[str]) -> None:
    for keys in ([key], ["word", key], [key, key], [(1, key), (2, key)], [None, key], [((key,),)]):
        with pytest.raises(UnfitRow) as refused:
            encode_keys(keys, operator="counts")
        assert str(refused.value).startswith("operator 'counts': ")
        assert all(word in str(refused.value) for word in said)
        assert not [word for word in ("4242", "hidden") if word in str(refused.value)]
    with pytest.raises(UnfitRow):
        encode_key(key)


def test_a_long_key_is_refused_by_a_digest() -> None:
    longest = "x" * (KEY_MAX_BYTES - 1)
    assert decode_key(encode_key(longest)) == longest
    assert encode_keys([longest]).to_pylist() == [encode_key(longest)]
    messages = set()
    for encoding in (
        lambda key: encode_key(key, operator="counts"),
        lambda key: encode_keys(["y", key], operator="counts"),
    ):
        with pytest.raises(UnfitRow, match="operator 'counts': a key of 65537 bytes") as refused:
            encoding(longest + "x")
        assert "xxx" not in str(refused.value)
        messages.add(str(refused.value))
    assert len(messages) == 1


def test_a_key_of_many_levels_is_refused_before_the_stack_ends() -> None:
    key: Any = "x"
    for _ in range(64):
        key = (key,)
    assert decode_key(encode_key(key)) == key
    assert decode_keys(encode_keys([key])) == [key]
    for encoding in (encode_key, lambda key: encode_keys([key]), lambda key: encode_keys([key, "x"])):
        with pytest.raises(UnfitRow, match="more than 64 levels"):
            encoding((key,))


@pytest.mark.parametrize("data", [b"", b"?", b"t", b"t\xff\xff\xff\xff", b"s\xff", pickle.dumps(1)], ids=repr)
def test_bytes_that_are_no_key_are_an_error(data: bytes) -> None:
    with pytest.raises(CorruptObject, match="are not a key"):
        decode_key(data)
