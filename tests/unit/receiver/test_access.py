"""Who may send, and under which name."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.receiver.access import Access, NamedSecret, named_secret
from beam_exactly_once.receiver.refusals import Refused
from support.faulty_store import ManualClock

BODY = b'{"a":1}'
NOW_S = int(datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc).timestamp())


@pytest.fixture
def secret(tmp_path: Path) -> Callable[[str], NamedSecret]:
    def of(text: str) -> NamedSecret:
        name, _, value = text.rpartition("=")
        file = tmp_path / hashlib.sha256(text.encode()).hexdigest()
        file.write_text(f"{value}\n")
        return named_secret("token", f"{name}=${{file:{file}}}" if name else f"${{file:{file}}}")

    return of


def sender(access: Access, certificate: str | None = None, **headers: bytes) -> bytes:
    given = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    by = access.by_headers(given, certificate)
    return access.by_signature(given, BODY) if by is None else by


def is_refused(access: Access, certificate: str | None = None, **headers: bytes) -> bool:
    with pytest.raises(Refused) as refused:
        sender(access, certificate, **headers)
    return refused.value.status == 401


def test_tokens_of_one_name_are_one_sender(secret: Any) -> None:
    access = Access(tokens=[secret("shop=" + "a" * 16), secret("shop=" + "b" * 16), secret("c" * 16)])

    assert sender(access, authorization=b"Bearer " + b"a" * 16) == b"shop"
    assert sender(access, authorization=b"bearer " + b"b" * 16) == b"shop"
    assert sender(access, authorization=b"Bearer " + b"c" * 16) == b""
    for wrong in (b"Bearer " + b"a" * 15, b"Bearer " + b"a" * 17, b"Bearer ", b"a" * 16, b"Basic " + b"a" * 16):
        assert is_refused(access, authorization=wrong)
    assert is_refused(access)


def test_no_guess_is_compared_byte_by_byte(secret: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is compared with every token, whole, by the function whose time does not tell how much of it was right."""
    tokens = [b"a" * 16, b"b" * 16]
    access = Access(tokens=[secret(f"shop={token.decode()}") for token in tokens])
    compared: list[tuple[bytes, bytes]] = []
    in_the_same_time = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return in_the_same_time(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    guesses = [b"b" * right + b"x" * (16 - right) for right in range(16)]
    for guess in guesses:
        assert is_refused(access, authorization=b"Bearer " + guess)
    assert sender(access, authorization=b"Bearer " + tokens[0]) == b"shop"

    assert compared == [(token, guess) for guess in [*guesses, tokens[0]] for token in tokens]


@pytest.mark.parametrize(
    ("kind", "header", "signature"),
    [
        ("github", "x_hub_signature_256", lambda mac: b"sha256=" + mac.hex().encode()),
        ("hmac-sha256:X-Sign", "x_sign", lambda mac: mac.hex().upper().encode()),
        ("hmac-sha256:X-Sign", "x_sign", base64.b64encode),
    ],
)
def test_a_signature_is_of_this_body_by_a_secret(
    secret: Any, kind: str, header: str, signature: Callable[[bytes], bytes]
) -> None:
    access = Access(signature=kind, signature_secrets=[secret("old=1"), secret("shop=2")])

    assert sender(access, **{header: signature(hmac.digest(b"2", BODY, "sha256"))}) == b"shop"
    for wrong in (hmac.digest(b"3", BODY, "sha256"), hmac.digest(b"2", BODY + b" ", "sha256"), b""):
        assert is_refused(access, **{header: signature(wrong)})
    assert is_refused(access)


@pytest.mark.parametrize(("age_s", "is_taken"), [(0, True), (299, True), (-299, True), (301, False), (-301, False)])
def test_a_signature_of_stripe_is_of_this_body_and_not_old(secret: Any, age_s: int, is_taken: bool) -> None:
    access = Access(signature="stripe", signature_secrets=[secret("shop=2")], clock=ManualClock())
    made = hmac.digest(b"2", b"%d.%b" % (NOW_S - age_s, BODY), "sha256").hex().encode()
    header = b"t=%d,v0=00,v1=00,v1=%b" % (NOW_S - age_s, made)

    if is_taken:
        assert sender(access, stripe_signature=header) == b"shop"
    else:
        assert is_refused(access, stripe_signature=header)
    for wrong in (b"v1=" + made, b"t=x,v1=" + made, b"t=%d" % NOW_S, b"t=%d,v1=%b" % (NOW_S + 1, made), b"t=1,t=2"):
        assert is_refused(access, stripe_signature=wrong)


def test_certificates_alone_name_the_sender_and_with_tokens_they_do_not(secret: Any) -> None:
    alone = Access(certificates=True)
    with_token = Access(certificates=True, tokens=[secret("shop=" + "a" * 16)])

    assert sender(alone, "till-1") == b"till-1"
    assert is_refused(alone)
    assert is_refused(with_token, "till-1")
    assert sender(with_token, "till-1", authorization=b"Bearer " + b"a" * 16) == b"shop"


def test_either_a_token_or_a_signature_is_enough(secret: Any) -> None:
    access = Access(tokens=[secret("a=" + "a" * 16)], signature="github", signature_secrets=[secret("b=2")])
    signed = b"sha256=" + hmac.digest(b"2", BODY, "sha256").hex().encode()

    assert sender(access, authorization=b"Bearer " + b"a" * 16) == b"a"
    assert sender(access, authorization=b"Bearer wrong", x_hub_signature_256=signed) == b"b"


def test_anyone_may_send_only_where_it_is_said(secret: Any) -> None:
    assert sender(Access(anyone=True)) == b""
    for wrong in (
        {},
        {"anyone": True, "certificates": True},
        {"signature": "github"},
        {"signature_secrets": [secret("1")]},
    ):
        with pytest.raises(ConfigurationError):
            Access(**wrong)


@pytest.mark.parametrize("text", ["hunter2-hunter2-hunter2", "shop=hunter2-hunter2-hunter2", f"{'n' * 101}=${{env:A}}"])
def test_a_secret_is_given_by_reference_and_never_shown(text: str) -> None:
    with pytest.raises(ConfigurationError, match="must say where a secret is") as error:
        named_secret("token", text)

    assert "hunter2" not in str(error.value)


def test_a_short_token_is_refused(secret: Any) -> None:
    with pytest.raises(ConfigurationError, match="too short"):
        Access(tokens=[secret("a" * 15)])
