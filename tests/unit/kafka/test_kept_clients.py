"""Clients that are kept between batches: one user at a time, few, not for long, and none after the last driver."""

from __future__ import annotations

import pytest

from beam_exactly_once.kafka.kept_clients import AGE_MAX_S, MAX_KEPT, borrowed, keep, keeping_clients, take
from support.faulty_store import ManualClock


class Client:
    """Counts how often it is closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def fail_with(key: str) -> None:
    with borrowed(key, Client):
        raise ZeroDivisionError


def test_a_client_that_is_kept_has_one_user() -> None:
    client = Client()
    with keeping_clients():
        keep("id", client)
        assert take("other") is None
        assert take("id") is client
        assert take("id") is None
    assert client.closed == 0  # it is the taker's


def test_none_is_kept_where_no_driver_runs_and_none_outlives_the_last() -> None:
    at_once, first, last = Client(), Client(), Client()
    keep("id", at_once)
    assert (at_once.closed, take("id")) == (1, None)
    with keeping_clients():
        with keeping_clients():
            keep("first", first)
        keep("last", last)
        assert (first.closed, last.closed) == (0, 0)
    assert (first.closed, last.closed) == (1, 1)


def test_a_worker_keeps_what_only_reads() -> None:
    reader, writer = Client(), Client()
    with keeping_clients(readers_only=True):
        keep("reader", reader, reader=True)
        keep("writer", writer)
        assert (reader.closed, writer.closed, take("writer")) == (0, 1, None)
    assert reader.closed == 1


def test_the_oldest_and_those_of_one_name_make_room() -> None:
    replaced, oldest, newest = Client(), Client(), Client()
    with keeping_clients():
        keep("oldest", replaced)
        keep("oldest", oldest)
        assert (replaced.closed, oldest.closed) == (1, 0)
        for number in range(MAX_KEPT - 1):
            keep(number, Client())
        assert oldest.closed == 0
        keep("newest", newest)
        assert (oldest.closed, newest.closed) == (1, 0)


def test_one_that_waited_for_long_is_not_used() -> None:
    clock = ManualClock()
    client = Client()
    with keeping_clients():
        keep("id", client, clock)
        clock.now_s += AGE_MAX_S + 1
        assert take("id", clock) is None
    assert client.closed == 1


def test_who_fails_with_a_client_does_not_leave_it_to_the_next() -> None:
    first, second = Client(), Client()
    with keeping_clients():
        with borrowed("id", lambda: first) as client:
            assert client is first
        with pytest.raises(ZeroDivisionError):
            fail_with("id")
        with borrowed("id", lambda: second) as client:
            assert client is second
        assert (first.closed, second.closed) == (1, 0)
