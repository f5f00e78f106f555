"""JSON to typed columns: what the row path makes of the same texts, or a refusal; never another value, never null instead."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beam_exactly_once import JsonDecoder
from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.logs import Chunk, Record
from beam_exactly_once.rows.columns import batch_of_rows

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=300)

STRUCT = pa.struct([("x", pa.int32()), ("y", pa.float64()), ("z", pa.decimal128(6, 2))])
KINDS = [
    *(pa.int8(), pa.int32(), pa.int64(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64()),
    *(pa.decimal128(6, 2), pa.decimal128(38, 0), pa.decimal256(50, 10)),
    *(pa.bool_(), pa.string(), pa.large_string(), pa.binary(), pa.binary(2), pa.null()),
    *(pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC")),
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.duration("ms")),
    *(pa.list_(pa.int64()), pa.list_(pa.float64()), pa.list_(pa.list_(pa.string())), pa.list_(pa.int8(), 2)),
    *(STRUCT, pa.list_(STRUCT), pa.map_(pa.string(), pa.float64()), pa.map_(pa.string(), STRUCT)),
    *(pa.dictionary(pa.int32(), pa.string()), pa.list_(pa.timestamp("us", "UTC"))),
]

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.integers(-300, 300).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(-9999, 9999, places=2).map(str),
    st.sampled_from(["0.0", "-0.0", "1.0", "1e2", "1e-400", "-1e-400", "9007199254740993", "9007199254740991.4"]),
    st.sampled_from(["1.005", "18446744073709551615", "18446744073709551616", "-9223372036854775809", "1e-46", "3e39"]),
)
MOMENTS = st.one_of(
    st.datetimes().map(datetime.datetime.isoformat),
    st.datetimes(timezones=st.just(datetime.timezone.utc)).map(lambda one: one.isoformat().replace("+00:00", "Z")),
    st.dates().map(datetime.date.isoformat),
    st.times().map(datetime.time.isoformat),
    st.sampled_from(
        ["2024-02-29T23:59:59+05:30", "2023-02-29", "2024-02-29 24:00:00", "2024-02-29T23:59:60Z", "0001-01-01"]
    ),
    st.sampled_from(
        ["2024-02-29T23:59:59.1234567Z", "2024-02-29T10", "20240229", "1969-12-31T23:59:59.999999-00:01", "12:30"]
    ),
)
TEXTS = st.one_of(MOMENTS, st.text(max_size=4), st.sampled_from(["1.5", "true", '":', "null"])).map(json.dumps)
PLAIN = st.one_of(NUMBERS, TEXTS, st.sampled_from(["null", "true", "false"]))
KEYS = st.sampled_from(["x", "y", "z", "w"])
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda many: f"[{', '.join(many)}]"),
        st.dictionaries(KEYS, inner, max_size=3).map(
            lambda pairs: "{" + ",".join(f'"{key}" : {value}' for key, value in pairs.items()) + "}"
        ),
    ),
    max_leaves=6,
)


def batch_of(*values: str | bytes | None) -> pa.RecordBatch:
    encoded = [value.encode() if isinstance(value, str) else value for value in values]
    records = [Record("orders", 3, 7 + place, 1000, 1, b"key", value) for place, value in enumerate(encoded)]
    return Chunk.from_records(records, 7, 7 + len(records)).to_arrow()


def decoded(kind: pa.DataType, *values: str | bytes | None) -> list[Any]:
    found: list[Any] = JsonDecoder(pa.schema([("a", kind)]))(batch_of(*values)).column("a").to_pylist()
    return found


def has_decimals(kind: pa.DataType) -> bool:
    return pa.types.is_decimal(kind) or any(has_decimals(kind.field(place).type) for place in range(kind.num_fields))


def fits_as_row(kind: pa.DataType, text: str) -> pa.Array | None:
    """What the row path makes of a text; None if it refuses."""

    def number(said: str) -> Any:
        return Decimal(said) if pa.types.is_decimal(kind) else float(said)

    try:
        row = json.loads(text, parse_float=number)
        return batch_of_rows([row], pa.schema([("a", kind)])).column(0)
    except UnfitRow:
        return None


def plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def numbers_in(text: str) -> list[str]:
    """The numbers of a document that are no plain integers of 64 bits."""
    found: list[str] = []
    json.loads(
        text, parse_float=found.append, parse_int=lambda said: found.append(said) if abs(int(said)) >= 2**63 else 0
    )
    return found


@repeatable
@given(st.sampled_from(KINDS), st.lists(VALUES, min_size=1, max_size=3))
@example(pa.float64(), ["0.0", "1e-400"])
@example(pa.float64(), ["18446744073709551616", "0.0"])
@example(pa.timestamp("us", "UTC"), ['"2024-02-29T10:00:00Z"', '"2024-02-29T10:00:00"'])
@example(STRUCT, ['{"x": 1, "y": 2.5, "z": 1.25}', "null"])
def test_a_column_is_that_of_the_row_path_or_refused(kind: pa.DataType, values: list[str]) -> None:
    texts = [f'{{"a": {value}, "b": 1}}' for value in values]
    try:
        column = JsonDecoder(pa.schema([("a", kind)]))(batch_of(*texts)).column(0)
    except UnfitRow:
        # One of them does not fit alone, and the row path refuses it, too, or it has numbers that json.loads would round.
        assert any(fits_as_row(kind, text) is None or numbers_in(text) for text in texts)
        return
    if not (has_decimals(kind) and pa.types.is_nested(kind)):
        for place, text in enumerate(texts):
            expected = fits_as_row(kind, text)
            assert expected is not None
            assert plain(column.slice(place, 1)).equals(plain(expected))
    assert column.type == kind
    assert column.is_null().to_pylist() == [value == "null" for value in values]


@repeatable
@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_numbers_have_their_digits(numbers: list[str]) -> None:
    texts = [f'{{"a":{number}}}' for number in numbers]
    for kind in (pa.int64(), pa.decimal256(76, 20)):
        try:
            column = decoded(kind, *texts)
        except UnfitRow:
            continue
        assert column == [Decimal(number) for number in numbers]
    try:
        floats = decoded(pa.float64(), *texts)
    except UnfitRow:
        return
    for read, number in zip(floats, numbers, strict=True):
        assert read == float(number)
        assert bool(read) == bool(Decimal(number))
        assert not number.lstrip("-").isdigit() or int(read) == int(number)


def test_decimals_and_floating_numbers_may_be_in_one_column() -> None:
    text = '{"a":[{"x":1,"y":0.1,"z":0.10,"w":2},null,{"y":1e-7}]}'
    (found,) = decoded(pa.list_(STRUCT), text)
    assert found == [{"x": 1, "y": 0.1, "z": Decimal("0.10")}, None, {"x": None, "y": 1e-7, "z": None}]
    for part in ('"y":1e-400', '"z":0.105', '"x":1.0', '"y":9007199254740993'):
        with pytest.raises(UnfitRow):
            decoded(pa.list_(STRUCT), f'{{"a":[{{{part}}}]}}')


@pytest.mark.parametrize(
    "text",
    [
        '{"a":"x","a":"y"}',
        '{"a" : 1 , "b" : {"c":1, "c":2}}',
        '{"b":"\\":", "a":[{"c":1,"c":1}]}',
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":1e999}',
        '{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        "\ufeff{}",
        '{"a":1}{"a":2}',
        "[1]",
        "null",
        "",
        None,
    ],
)
def test_what_is_no_object_is_refused_among_others_that_are(text: str | bytes | None) -> None:
    for kind in (pa.string(), pa.int64(), pa.decimal128(6, 2)):
        with pytest.raises(UnfitRow):
            decoded(kind, "{}", text, "{}")


@pytest.mark.parametrize(
    "text", ['{"a":"x\\":y"}', '{"a" :"b : c"}', '{"a":"12:30:00","b":{"a":1},"c":[{"a":2},{"a":3}]}']
)
def test_colons_within_texts_are_no_keys(text: str) -> None:
    assert decoded(pa.string(), text) == [json.loads(text)["a"]]


def test_columns_of_the_record_are_there_if_asked() -> None:
    decoder = JsonDecoder(pa.schema([("a", pa.int64())]), record_columns=["key", "offset", "timestamp_ms"])
    batch = decoder(batch_of('{"a":1}', '{"a":2}'))
    assert batch.schema == decoder.schema
    assert batch.to_pylist() == [
        {"a": 1, "key": b"key", "offset": 7, "timestamp_ms": 1000},
        {"a": 2, "key": b"key", "offset": 8, "timestamp_ms": 1000},
    ]


def test_a_record_alone_has_the_same_values_and_what_it_lacks_is_not_there() -> None:
    schema = pa.schema([("a", pa.decimal128(6, 2)), ("at", pa.timestamp("us", "UTC")), ("c", pa.string())])
    row = JsonDecoder(schema, record_columns=["offset"])(
        Record("t", 0, 5, value=b'{"a":1.25,"at":"2024-02-29T00:00:00Z","d":1}')
    )
    at = datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc)
    assert row == {"a": Decimal("1.25"), "at": at, "offset": 5}
    assert JsonDecoder()(Record(value=b'{"a":1.5}')) == {"a": 1.5}
    with pytest.raises(UnfitRow):
        JsonDecoder(record_columns=["offset"])(Record(value=b'{"offset":1}'))


def test_a_missing_value_is_null_where_its_column_may_be() -> None:
    fields = [pa.field("a", pa.int64(), nullable=False), pa.field("b", pa.timestamp("us"))]
    decoder = JsonDecoder(pa.schema(fields))
    assert decoder(batch_of('{"a":1}', '{"a":2,"b":null}')).to_pylist() == [{"a": 1, "b": None}, {"a": 2, "b": None}]
    with pytest.raises(UnfitRow, match="not nullable"):
        decoder(batch_of('{"b":"2024-02-29T00:00:00"}'))
    with pytest.raises(UnfitRow, match="not nullable"):
        JsonDecoder(pa.schema([pa.field("b", pa.date32(), nullable=False)]))(batch_of('{"b":"2024-02-29"}', "{}"))


def test_a_misspelt_column_is_refused_unless_it_was_seen_among_records_that_are_not_decoded() -> None:
    schema = pa.schema([("id", pa.int64()), ("note", pa.string())])
    with pytest.raises(UnfitRow, match="misspelt"):
        JsonDecoder(schema)(batch_of('{"id":1,"notes":"x"}'))
    decoder = JsonDecoder(schema)
    with pytest.raises(UnfitRow, match="no JSON"):
        decoder(batch_of('{"id":1,"notes":"x"}', "{", '{"id":2,"note":"y"}'))
    assert decoder(batch_of('{"id":1,"notes":"x"}')).to_pylist() == [{"id": 1, "note": None}]  # the first half


def test_no_records_are_no_rows() -> None:
    decoder = JsonDecoder(pa.schema([("a", pa.int64())]), record_columns=["offset"])
    assert decoder(batch_of("{}").slice(0, 0)).num_rows == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"schema": {"a": "int64"}}, "must be a pyarrow.Schema"),
        ({"record_columns": "key"}, "must be a list"),
        ({"record_columns": ["keys"]}, "no record has"),
        ({"schema": pa.schema([("key", pa.string())]), "record_columns": ["key"]}, "both have"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        JsonDecoder(**arguments)


def test_batches_need_a_schema_and_are_of_records() -> None:
    with pytest.raises(ConfigurationError, match="needs the columns"):
        JsonDecoder()(batch_of("{}"))
    with pytest.raises(ConfigurationError, match="without exactly one column 'value'"):
        JsonDecoder(pa.schema([("a", pa.int64())]))(pa.record_batch({"a": [1]}))


@pytest.mark.parametrize("value", ['"4111-1111"', "4111.1111", "true", "[4111]", '{"x":"4111"}', "[[4111.5]]"])
def test_no_value_is_in_an_error(value: str) -> None:
    said = []
    for kind in KINDS:
        try:
            decoded(kind, f'{{"a":{value}}}')
        except UnfitRow as error:
            said.append(str(error))
    assert said
    assert not [one for one in said if "4111" in one]
