"""Every answer is definite, whatever the network does: the retry loop over single tries that fail by script."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_exactly_once.errors import StagedOutputMissing, StoreUnavailable, UnsuitableStore
from beam_exactly_once.object_store import Created, Mine, Taken
from beam_exactly_once.object_store.definite import DefiniteStore, Page
from beam_exactly_once.object_store.local import LocalStore
from beam_exactly_once.object_store.memory import MemoryStore
from beam_exactly_once.object_store.s3 import S3Store
from beam_exactly_once.testing.object_store_contract import staged
from support.faulty_store import Fault, FaultyStore, OverwritingStore, Try
from support.servers.moto_server import MotoServer, moto_server

REQUEST_LOST, ANSWER_LOST, DELAYED = Fault.REQUEST_LOST, Fault.ANSWER_LOST, Fault.DELAYED


@pytest.fixture(scope="module")
def s3_server() -> Iterator[MotoServer]:
    with moto_server() as server:
        server.create_bucket("faults")
        yield server


@pytest.fixture(params=["memory", "local", "s3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DefiniteStore:
    name = secrets.token_hex(8)
    if request.param == "memory":
        return MemoryStore(f"memory://{name}")
    if request.param == "local":
        return LocalStore(tmp_path / "root")
    for variable, value in request.getfixturevalue("s3_server").environment.items():
        monkeypatch.setenv(variable, value)
    return S3Store(f"s3://faults/{name}")


# -- creates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "result"),
    [
        ({"create": [REQUEST_LOST]}, Created()),
        ({"create": [REQUEST_LOST] * 5}, Created()),
        ({"create": [ANSWER_LOST]}, Mine()),
        ({"create": [REQUEST_LOST, ANSWER_LOST]}, Mine()),
        # The first try lands while the second one is under way.
        ({"create": [DELAYED]}, Created()),
        ({"create": [DELAYED, ANSWER_LOST]}, Mine()),
        # Reading back fails, too.
        ({"create": [ANSWER_LOST], "get": [REQUEST_LOST]}, Mine()),
        ({"create": [ANSWER_LOST], "get": [ANSWER_LOST, REQUEST_LOST, ANSWER_LOST]}, Mine()),
    ],
)
def test_an_unclear_create_becomes_definite(
    backend: DefiniteStore, faults: dict[str, list[Fault]], result: object
) -> None:
    store = FaultyStore(backend, faults)

    assert store.put_if_absent("marker", b"mine") == result
    assert backend.get("marker") == b"mine"


@pytest.mark.parametrize("fault", [REQUEST_LOST, ANSWER_LOST, DELAYED])
def test_an_unclear_create_of_a_taken_object_reads_the_winner(backend: DefiniteStore, fault: Fault) -> None:
    backend.put_if_absent("marker", b"winner")

    assert FaultyStore(backend, {"create": [fault] * 3}).put_if_absent("marker", b"mine") == Taken(b"winner")
    assert backend.get("marker") == b"winner"


def test_a_rival_may_win_between_two_tries(backend: DefiniteStore) -> None:
    store = FaultyStore(backend, {"create": [REQUEST_LOST, REQUEST_LOST]})
    wait, rivals = store.clock.wait, iter([b"", b"rival"])

    def wait_while_a_rival_writes(event: object, timeout_s: float) -> bool:
        body = next(rivals)
        if body:
            backend.put_if_absent("marker", body)
        return wait(event, timeout_s)  # type: ignore[arg-type]

    store.clock.wait = wait_while_a_rival_writes  # type: ignore[method-assign,assignment]

    assert store.put_if_absent("marker", b"mine") == Taken(b"rival")


def test_what_existed_and_vanished_is_created(backend: DefiniteStore) -> None:
    backend.put_if_absent("marker", b"old")
    store = FaultyStore(backend)
    get = store._get

    def get_after_a_collector(key: str) -> bytes | None:
        backend.delete([key])
        return get(key)

    store._get = get_after_a_collector  # type: ignore[method-assign]

    assert store.put_if_absent("marker", b"new") == Created()


def test_the_same_bytes_are_sent_again_and_no_answer_is_an_error_of_its_own(backend: DefiniteStore) -> None:
    store = FaultyStore(backend, always={"create": REQUEST_LOST}, random_=random.Random(7))

    with pytest.raises(StoreUnavailable, match=r"no definite answer to: write commits/7, for 60 s \(request lost\)"):
        store.put_if_absent("commits/7", b"mine")

    waits_s = store.clock.waits_s
    assert 50 < sum(waits_s) <= 60
    assert 10 < len(waits_s) < 40
    assert waits_s[0] <= 0.05
    assert all(wait_s <= 5 for wait_s in waits_s)
    assert backend.get("commits/7") is None


def test_retries_end_when_they_should() -> None:
    store = FaultyStore(MemoryStore(f"memory://{secrets.token_hex(8)}"), always={"get": ANSWER_LOST}, retry_timeout_s=0)

    with pytest.raises(StoreUnavailable, match="read a"):
        store.get("a")

    assert store.clock.waits_s == []
    assert store.tries == [Try("get", ANSWER_LOST)]


# -- everything else ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [REQUEST_LOST, ANSWER_LOST])
def test_reads_and_deletions_are_tried_again(backend: DefiniteStore, fault: Fault) -> None:
    backend.put_if_absent("a/b", b"body")
    operations = ("get", "get_range", "size_bytes", "list", "delete", "discard")
    store = FaultyStore(backend, {operation: [fault, fault] for operation in operations})

    assert store.get("a/b") == b"body"
    assert store.get_range("a/b", 1, 2) == b"od"
    assert store.size_bytes("a/b") == 4
    assert [entry.key for entry in store.list("a/")] == ["a/b"]
    store.delete(["a/b"])
    store.discard(staged(backend, "c", b"body"))

    assert [one.operation for one in store.tries] == [operation for operation in operations for _ in range(3)]
    assert list(backend.list()) == []
    assert list(backend.list_staged()) == []


@pytest.mark.parametrize("faults", [[REQUEST_LOST], [ANSWER_LOST], [REQUEST_LOST, ANSWER_LOST], [ANSWER_LOST] * 4])
def test_an_unclear_publication_is_tried_again(backend: DefiniteStore, faults: list[Fault]) -> None:
    one = staged(backend, "out/part", b"content")

    FaultyStore(backend, {"publish": faults}).publish(one)

    assert backend.get("out/part") == b"content"
    assert list(backend.list_staged()) == []


def test_a_publication_that_lands_late_is_harmless(backend: DefiniteStore) -> None:
    one = staged(backend, "out/part", b"content")

    FaultyStore(backend, {"publish": [DELAYED]}).publish(one)

    assert backend.get("out/part") == b"content"
    assert [entry.key for entry in backend.list()] == ["out/part"]


def test_missing_output_is_definite(backend: DefiniteStore) -> None:
    one = staged(backend, "out/part", b"content")
    backend.discard(one)

    with pytest.raises(StagedOutputMissing):
        FaultyStore(backend, {"publish": [REQUEST_LOST]}).publish(one)


# -- verify -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [REQUEST_LOST, ANSWER_LOST])
def test_verify_bears_faults(backend: DefiniteStore, fault: Fault) -> None:
    # Of the racers, too: the winner of a race may learn so by reading back.
    store = FaultyStore(backend, {"create": [fault] * 10, "get": [fault] * 3, "list": [fault], "delete": [fault]})

    store.verify()

    assert list(backend.list()) == []


def test_a_store_that_overwrites_is_found_out(backend: DefiniteStore) -> None:
    store = OverwritingStore(backend, accepts=lambda key, number: True)

    with pytest.raises(UnsuitableStore, match=rf"{backend.uri} cannot hold .* accepted a second create .* S3, GCS"):
        store.verify()

    assert list(backend.list()) == []


def test_a_store_that_overwrites_only_in_a_race_is_found_out() -> None:
    backend = MemoryStore(f"memory://{secrets.token_hex(8)}")
    # The second create of an object is refused, one of the later ones is accepted.
    store = OverwritingStore(backend, accepts=lambda key, number: number == 9)

    with pytest.raises(UnsuitableStore, match="2 of 16 racing creates succeeded"):
        store.verify()


def test_a_store_whose_listings_lag_is_found_out() -> None:
    class Lagging(MemoryStore):
        def list(self, *_: object) -> Iterator[object]:  # type: ignore[override]
            return iter(())

    with pytest.raises(UnsuitableStore, match="listing lacks"):
        Lagging(f"memory://{secrets.token_hex(8)}").verify()


def test_a_store_that_lists_in_no_order_is_found_out() -> None:
    class Unordered(MemoryStore):
        def _list_page(self, prefix: str, start_after: str, max_entries: int) -> Page:
            page = super()._list_page(prefix, start_after, 1000)
            return Page(page.entries[::-1][:max_entries])

    store = Unordered(f"memory://{secrets.token_hex(8)}")

    store.verify()  # good enough for a checkpoint, which looks at whole listings
    with pytest.raises(UnsuitableStore, match=r"cannot hold a log: its listings are not in order"):
        store.verify_order()
    assert list(store.list()) == []


def test_a_store_that_does_not_answer_is_not_unsuitable(backend: DefiniteStore) -> None:
    store = FaultyStore(backend, always={"create": REQUEST_LOST, "delete": REQUEST_LOST})

    with pytest.raises(StoreUnavailable, match=r"write \.verify/"):
        store.verify()
