"""The envelope: whatever happens to an object is noticed, and named."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.checkpoint.envelope import FORMAT_VERSION, Envelope, seal, unseal
from beam_exactly_once.errors import CorruptObject, ForeignObject, NewerFormat, OlderFormat
from support.checkpoints import change_field, repeatable

WHERE = "memory://place/offsets/7.json"
ENVELOPE = Envelope("offsets", "stream", "nonce", {"batch_id": 7, "sources": {"kafka": [1, 2]}})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(codec="utf-8"), max_size=10),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=10,
)


def opened(data: bytes, kind: str = "offsets", stream_id: str | None = "stream") -> Envelope:
    return unseal(data, where=WHERE, kind=kind, stream_id=stream_id)


@repeatable
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), json_values, max_size=4), st.text(max_size=5))
def test_what_was_sealed_comes_back(body: dict[str, object], nonce: str) -> None:
    envelope = Envelope("offsets", "stream", nonce, body)
    assert opened(seal(envelope)) == envelope


def test_the_same_content_is_the_same_bytes() -> None:
    """A repeated write must recognise its own bytes, in whatever order a dictionary was filled."""
    other = Envelope("offsets", "stream", "nonce", {"sources": {"kafka": [1, 2]}, "batch_id": 7})
    assert seal(other) == seal(ENVELOPE)


def test_another_nonce_is_other_bytes() -> None:
    assert seal(Envelope("offsets", "stream", "other", ENVELOPE.body)) != seal(ENVELOPE)


def test_truncated_anywhere() -> None:
    data = seal(ENVELOPE)
    for length in range(len(data)):
        with pytest.raises(CorruptObject, match=WHERE):
            opened(data[:length])


def test_a_flipped_bit_changes_nothing_or_is_noticed() -> None:
    """Some bits are in the version numbers and names that this version does not read."""
    data = seal(ENVELOPE)
    noticed = [message for bit in range(len(data) * 8) if (message := fault_of_flipped(data, bit)) is not None]
    assert len(noticed) > len(data) * 8 * 0.85
    assert all(WHERE in message for message in noticed)


def fault_of_flipped(data: bytes, bit: int) -> str | None:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        assert opened(bytes(flipped)) == ENVELOPE
    except (CorruptObject, NewerFormat, OlderFormat) as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"7", b'"text"', b"{}", b"\x00\xff", b'{"min_reader_version": 1}']
)
def test_no_record_at_all(data: bytes) -> None:
    with pytest.raises(CorruptObject, match=f"{WHERE} is truncated or is not a record"):
        opened(data)


def test_a_changed_body() -> None:
    with pytest.raises(CorruptObject, match="does not match its checksum"):
        opened(change_field(body={"batch_id": 8})(seal(ENVELOPE)))


def test_another_kind() -> None:
    """As when somebody copies a marker to the name of a plan."""
    with pytest.raises(CorruptObject, match="is of kind 'offsets', not 'commit'"):
        opened(seal(ENVELOPE), kind="commit")


def test_another_stream() -> None:
    with pytest.raises(ForeignObject, match="belongs to stream stream, not to mine"):
        opened(seal(ENVELOPE), stream_id="mine")


def test_any_stream_where_none_is_known_yet() -> None:
    assert opened(seal(ENVELOPE), stream_id=None) == ENVELOPE


def test_written_by_a_newer_version_that_this_one_understands() -> None:
    """Its own fields beside the envelope's are let through."""
    newer = change_field(format_version=FORMAT_VERSION + 3, compression="none")(seal(ENVELOPE))
    assert opened(newer) == ENVELOPE


def test_written_by_a_newer_version_that_this_one_does_not_understand() -> None:
    newer = change_field(format_version=9, min_reader_version=FORMAT_VERSION + 1)(seal(ENVELOPE))
    with pytest.raises(NewerFormat, match=r"needs a reader of format version 4; this one reads up to 3\. Install"):
        opened(newer)


def test_written_before_the_first_release() -> None:
    older = change_field(format_version=1, min_reader_version=1)(seal(ENVELOPE))
    with pytest.raises(
        OlderFormat, match=rf"{WHERE} has format version 1; this version reads 2 and newer\. Go on with"
    ):
        opened(older)


def test_unknown_fields_of_a_body_are_kept() -> None:
    body = {**ENVELOPE.body, "from_the_future": {"deep": [True]}}
    assert opened(seal(Envelope("offsets", "stream", "nonce", body))).body == body


def test_the_stored_form_is_json_for_people() -> None:
    stored = orjson.loads(seal(ENVELOPE))
    assert {name: stored[name] for name in ("format_version", "min_reader_version", "kind", "stream_id")} == {
        "format_version": 3,
        "min_reader_version": 2,
        "kind": "offsets",
        "stream_id": "stream",
    }
