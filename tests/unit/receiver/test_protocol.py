"""What a connection makes of heads of requests, and what becomes of it when its receiver ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from beam_exactly_once.receiver.protocol import ENDING_S, MAX_HEAD_BYTES, SWEEP_INTERVAL_S, Connection

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


class Transport:
    """Notes what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_extra_info(self, name: str) -> None:
        return None


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    """One on which a request was answered; every request is answered at once."""

    def take(incoming: Any, answering: Any) -> None:
        answering.answer(incoming, (b"text/plain", b"here"))

    app = SimpleNamespace(begin=lambda incoming: None, take=take, drop=lambda incoming: None)
    app.metrics = SimpleNamespace(requests={200: 0, 400: 0})
    monkeypatch.setattr(Connection, "app", app, raising=False)
    monkeypatch.setattr(Connection, "ticks", 0)
    one = Connection(None, SimpleNamespace(connections=set()), None)
    one.connection_made(Transport())
    one.data_received(REQUEST)
    assert not one._transport.is_closed
    return one


def test_a_request_that_was_on_its_way_is_answered_as_the_last_one(connection: Any) -> None:
    connection.shutdown()
    assert not connection._transport.is_closed
    connection._transport.written = b""
    connection.data_received(REQUEST)
    assert connection._transport.written.endswith(b"connection: close\r\n\r\nhere")
    assert connection._transport.is_closed


def test_a_connection_over_which_nothing_comes_is_closed(connection: Any) -> None:
    Connection.ticks += 20  # it was idle for long
    connection.shutdown()
    for _ in range(int(ENDING_S / SWEEP_INTERVAL_S)):
        connection.look(30.0)
        Connection.ticks += 1
    connection.look(30.0)
    assert not connection._transport.is_closed
    Connection.ticks += 1
    connection.look(30.0)
    assert connection._transport.is_closed


def test_headers_that_come_twice_are_one_list(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one alone would let an encoded body through, and another id than the one that a proxy looks at."""
    seen: list[Any] = []
    monkeypatch.setattr(Connection.app, "begin", seen.append)
    connection.data_received(b"GET /healthz HTTP/1.1\r\nX-Id: a\r\nHost: a\r\nx-id: b\r\n\r\n")
    assert seen[0].headers == {b"x-id": b"a, b", b"host": b"a"}


@pytest.mark.parametrize("header", [b"x" * MAX_HEAD_BYTES + b": y\r\n", b"x:\r\n" * MAX_HEAD_BYTES])
def test_a_head_is_bounded_with_its_names(connection: Any, header: bytes) -> None:
    connection._transport.written = b""
    connection.data_received(b"GET /healthz HTTP/1.1\r\n" + header + b"\r\n")
    assert connection._transport.written.startswith(b"HTTP/1.1 400 ")
    assert connection._transport.is_closed
