"""A number that a text of an Arrow batch spells is in its column as it is spelt, or is refused."""

from __future__ import annotations

import math
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.errors import UnfitRow
from unit.rows.columns_under_test import cast, repeatable


@pytest.mark.parametrize(
    ("values", "arrow_type"),
    [
        (pa.array(["1", None, "1e400"]), pa.float64()),
        (pa.array([b"-1e400"]), pa.float64()),
        (pa.array(["1e300"]), pa.float32()),
        (pa.array(["65520"]), pa.float16()),
        (pa.array(["1", "9007199254740993"]), pa.float64()),
        (pa.array(["100000000000000000000000"]), pa.float64()),
        (pa.array(["1.2345678901234567890"]), pa.float64()),
        (pa.array(["1e-400"]), pa.float64()),
        (pa.array(["1.2345e-320"]), pa.float64()),
        (pa.array(["1e-99999999999999999999"]), pa.float64()),
        (pa.array(["16777217"]), pa.float32()),
        (pa.array(["2049"]), pa.float16()),
        (pa.array([["1e400"]]), pa.list_(pa.float64())),
        (pa.array(["1e400"]).dictionary_encode(), pa.float64()),
        (pa.array(["1e400"]), pa.dictionary(pa.int8(), pa.float64())),
        (pa.array(["0x7F", "0xFF"]), pa.int8()),
    ],
    ids=lambda given: str(given.type if isinstance(given, pa.Array) else given),
)
def test_a_text_that_its_column_would_change_is_refused(values: pa.Array, arrow_type: pa.DataType) -> None:
    with pytest.raises(UnfitRow, match="a number that a text spells would change"):
        cast(values, arrow_type)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["inf", "-Infinity", None], [math.inf, -math.inf, None]),
        (["0.1", "0.10000000000000001", "0.1000000000000000056"], [0.1] * 3),
        (["9007199254740992", "1e23", "5e-324", "-0.000", "0e5"], [2.0**53, 1e23, 5e-324, 0, 0]),
        (["0.300000000000000040", "0.0000000000000000000000000000001"], [0.30000000000000004, 1e-31]),
        ([], []),
        ([None], [None]),
    ],
)
def test_a_text_becomes_the_float_that_has_its_digits(texts: list[str | None], expected: list[float | None]) -> None:
    assert cast(pa.array(texts, pa.string()), pa.float64()) == expected
    assert cast(pa.array(["16777216", "123456789.5", "inf"]), pa.float32()) == [2.0**24, 123456792.0, math.inf]


def test_a_text_that_is_no_number_becomes_none() -> None:
    assert all(map(math.isnan, cast(pa.array(["nan", "-NaN", "nan(1)"]), pa.float64())))


SPELT = (
    st.decimals(allow_nan=False, allow_infinity=False).map(str)
    | st.builds(
        "{}{}e{}".format, st.integers(-(10**20), 10**20), st.sampled_from(["", ".0", ".5"]), st.integers(-400, 400)
    )
    | st.integers(-(2**66), 2**66).map(str)
    | st.floats(allow_nan=False).map(repr)
    | st.floats(allow_nan=False, allow_infinity=False).map("{:.17g}".format)
)


@repeatable
@given(st.lists(SPELT, min_size=1, max_size=3), st.sampled_from([pa.float64(), pa.float32(), pa.decimal128(38, 10)]))
def test_whatever_number_a_text_spells(texts: list[str], arrow_type: pa.DataType) -> None:
    try:
        found = cast(pa.array(texts), arrow_type)
    except UnfitRow:
        return
    for text, number in zip(texts, found, strict=True):
        spelt = Decimal(text)
        assert math.isinf(number) == spelt.is_infinite()
        if arrow_type == pa.float64() and spelt.is_finite():
            # The float, and no other, is what the text says in as many digits.
            assert Decimal(repr(number)) == spelt or Decimal(f"{number:.{len(spelt.as_tuple().digits) - 1}e}") == spelt
        elif pa.types.is_decimal(arrow_type):
            assert number == spelt


@repeatable
@given(st.floats(allow_nan=False))
def test_a_float_that_was_spelt_comes_back(number: float) -> None:
    texts = [repr(number), f"{number:.17g}", f"{number:.25e}", str(Decimal(number))]
    assert cast(pa.array(texts), pa.float64()) == [number] * 4
    assert cast(pa.array([number]).cast(pa.string()), pa.float64()) == [number]
