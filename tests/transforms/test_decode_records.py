"""A row with half a character, which no file can hold, is told of where its record is known; other rows are not looked at."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once import Record
from beam_exactly_once.transforms import decode_records

repeatable = settings(derandomize=True, deadline=None, database=None, max_examples=200)

HALVES = st.characters(min_codepoint=0xD7F0, max_codepoint=0xE00F, categories=["Cs", "Lo", "Co"])


def decoded(value: bytes) -> Any:
    return decode_records._decoded(lambda record: json.loads(record.value), Record(value=value))


@repeatable
@given(st.text(HALVES | st.sampled_from("aé\0\\😀"), max_size=4), st.booleans())
def test_half_a_character_is_found_whatever_is_around_it(text: str, is_upper: bool) -> None:
    shown = json.dumps(text)
    row = json.loads(shown)
    if is_upper:
        shown = "".join(
            f"\\u{part[:4].upper()}{part[4:]}" if number else part for number, part in enumerate(shown.split("\\u"))
        )
    try:
        row.encode()
    except UnicodeEncodeError:
        with pytest.raises(UnicodeEncodeError):
            decoded(shown.encode())
    else:
        assert decoded(shown.encode()) == row


@pytest.mark.parametrize(
    ("record", "decoder"),
    [
        (Record(key=b'"\\ud800"'), lambda record: json.loads(record.key)),
        (Record(headers=(("trace", b'"\\ud800"'),)), lambda record: json.loads(record.headers[0][1])),
        (Record(value=b"\xff"), lambda record: record.value.decode("utf-8", "surrogateescape")),
        (Record(value=b"\xed\xa0\x80"), lambda record: {"text": [record.value.decode("utf-8", "surrogatepass")]}),
        (b'{"text": "\\ud800"}', json.loads),
    ],
    ids=["key", "header", "bytes that are escaped", "bytes that pass", "no record of Kafka"],
)
def test_half_a_character_is_found_wherever_it_comes_from(record: Any, decoder: Any) -> None:
    with pytest.raises(UnicodeEncodeError):
        decode_records._decoded(decoder, record)


@pytest.mark.parametrize(
    "value", [b'"plain"', b'"\\u00e9 \\u0000 \\uD7FF \\ue000 \\ufffd"', b'"\\\\d8"', '"é😀"'.encode()]
)
def test_other_escapes_cost_no_second_look(value: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_records, "_size_of", lambda row: pytest.fail("a row was looked at"))
    assert decoded(value) == json.loads(value)
