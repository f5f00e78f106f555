"""What is in a request, and which ids its records get."""

from __future__ import annotations

import itertools

import pytest

from beam_exactly_once.receiver.forms import Form, Records
from beam_exactly_once.receiver.refusals import Refused

LINES = {b"content-type": b"application/x-ndjson; charset=utf-8"}
KEY = b"idempotency-key"


def records(body: bytes, sender: bytes = b"", form: Form | None = None, **headers: bytes) -> Records:
    given = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return (form or Form()).records(sender, given, body)


def ids(found: Records) -> list[bytes]:
    return found.of_log("log", 0).ids


def test_a_body_is_a_record_whatever_it_is() -> None:
    body = b"\xff\0\n"
    assert records(body, content_type=b"image/png") == Records([body], [None], None, body, ())


def test_a_line_is_a_record_and_has_the_id_of_its_request_and_its_place() -> None:
    found = records(b'{"a":1}\n[2]\n', content_type=LINES[b"content-type"], idempotency_key=b"order-17")

    assert found.values == [b'{"a":1}', b"[2]"]
    assert found.keys == [b"order-17", b"order-17"]
    assert len(set(ids(found))) == 2


def test_a_field_of_each_record_is_its_id() -> None:
    form = Form(id_json_field="id")
    found = records(b'{"id":7}\n{"id":"7"}\n{"id":7}', form=form, content_type=b"application/x-ndjson")

    assert found.keys == [b"7", b"7", b"7"]
    assert ids(found)[0] == ids(found)[2] != ids(found)[1]


def test_headers_that_are_kept_go_with_every_record() -> None:
    form = Form(keep_headers=("X-Event", "X-Missing"))
    found = records(b"1\n2", form=form, content_type=b"application/x-ndjson", x_event=b"push", x_other=b"no")

    assert found.of_log("log", 1).headers == [(("X-Event", b"push"),)] * 2


def test_ids_are_equal_only_if_sender_key_and_line_are() -> None:
    """Of texts over two letters, so that every way of running together would show."""
    texts = [b"".join(letters) for size in range(1, 4) for letters in itertools.product([b"1", b":"], repeat=size)]
    form, lines = Form(), b"1\n" * 3
    seen = set()
    for sender, key in itertools.product([b"", *texts], texts):
        single = form.records(sender, {KEY: key}, b"1")
        many = form.records(sender, {**LINES, KEY: key}, lines)
        field = Form(id_json_field="a").records(sender, {}, b'{"a":"%b"}' % key)
        seen.update(*map(ids, (single, many, field)))

    assert len(seen) == (len(texts) + 1) * len(texts) * 5


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (400, b"", {}),
        (400, b"", LINES),
        (400, b"\n", LINES),
        (400, b"1\n\n2", LINES),
        (400, b"1\n{", LINES),
        (400, b'"\xff"', LINES),
        (400, b"x", {KEY: b""}),
        (400, b"x", {KEY: b"x" * 257}),
        (413, b"x" * 101, {}),
        (413, b'1\n"%b"' % (b"x" * 99), LINES),
    ],
)
def test_what_has_no_such_form_is_refused(status: int, body: bytes, headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Refused) as refused:
        Form(max_record_bytes=100).records(b"", headers, body)

    assert (refused.value.status, refused.value.is_retryable) == (status, False)


@pytest.mark.parametrize("body", [b"x", b"[1]", b"{}", b'{"id":null}', b'{"id":true}', b'{"id":""}', b'{"id":1.5}'])
def test_a_record_without_its_id_is_refused(body: bytes) -> None:
    with pytest.raises(Refused, match="record 1 ") as refused:
        Form(id_json_field="id").records(b"", {}, body)

    assert refused.value.status == 400
