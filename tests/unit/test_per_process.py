"""What one process opens once: shared by its threads, never with a forked child."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from beam_exactly_once.kafka import kept_clients
from beam_exactly_once.per_process import PerProcess
from support.forking import succeeds_in_child


class Session:
    """Says when it ends: by its end, a server would end it for every process that holds it."""

    ended: ClassVar[Counter[str]] = Counter()

    def __init__(self, name: str) -> None:
        self.name = name

    def __del__(self) -> None:
        Session.ended[self.name] += 1

    def close(self) -> None:
        del self.name


def test_threads_share_what_one_of_them_opened() -> None:
    opened: list[str] = []
    all_here = threading.Barrier(8)
    sessions = PerProcess(lambda key: (opened.append(key), Session(key))[1])

    def get(_: int) -> Session:
        all_here.wait(60)
        return sessions.get("a")

    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(get, range(8)))

    assert (len(found), opened) == (1, ["a"])


def test_what_could_not_be_opened_is_opened_when_it_is_asked_for_again() -> None:
    refusals = [ZeroDivisionError()]

    def opened(key: str) -> Session:
        if refusals:
            raise refusals.pop()
        return Session(key)

    sessions = PerProcess(opened)
    with pytest.raises(ZeroDivisionError):
        sessions.get("a")
    assert sessions.get("a").name == "a"


def test_the_oldest_gives_way() -> None:
    sessions = PerProcess(Session, max_kept=2)
    first = sessions.get("a")
    for key in "bcd":
        sessions.get(key)
    assert len(sessions) == 2
    assert sessions.get("a") is not first


@pytest.mark.parametrize("is_locked", [False, True])
def test_a_child_opens_its_own_and_leaves_that_of_its_parent_alone(is_locked: bool) -> None:
    """Also where a thread of the parent was just opening something."""
    sessions = PerProcess(Session)
    parents = sessions.get("a")
    Session.ended.clear()

    def in_child() -> bool:
        own = sessions.get("a")
        is_own = own is not parents and sessions.get("a") is own
        gc.collect()
        return is_own and not Session.ended

    if is_locked:
        with sessions._lock:
            assert succeeds_in_child(in_child)
    else:
        assert succeeds_in_child(in_child)
    assert sessions.get("a") is parents


def test_a_child_of_a_driver_has_none_of_its_kept_clients_and_closes_none() -> None:
    kept = Session("kept")
    with kept_clients.keeping_clients():
        kept_clients.keep("id", kept)

        def in_child() -> bool:
            is_gone = kept_clients.take("id") is None and not kept_clients.is_keeping()
            with kept_clients.keeping_clients():
                pass
            return is_gone and kept.name == "kept"

        with kept_clients._lock:
            assert succeeds_in_child(in_child)
        assert kept_clients.take("id") is kept
