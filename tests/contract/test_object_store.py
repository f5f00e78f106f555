"""The contract of object stores, kept by every backend. tests/services runs it on real servers of S3 and GCS, too."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from beam_exactly_once.object_store import ObjectStore, open_object_store
from beam_exactly_once.testing import ObjectStoreContract
from beam_exactly_once.testing.object_store_contract import StoreOpener, staged
from support.servers.moto_server import MotoServer, moto_server

BACKENDS = ("memory", "local", "s3")


@pytest.fixture(scope="module")
def s3_server() -> Iterator[MotoServer]:
    with moto_server() as server:
        server.create_bucket("contract")
        yield server


@pytest.mark.parametrize("backend", BACKENDS)
class TestEveryStore(ObjectStoreContract):
    @pytest.fixture
    def open_again(
        self, backend: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> StoreOpener:
        name = secrets.token_hex(8)
        if backend == "memory":
            uri = f"memory://{name}"
        elif backend == "local":
            uri = str(tmp_path / "parent" / name)
        else:
            for variable, value in request.getfixturevalue("s3_server").environment.items():
                monkeypatch.setenv(variable, value)
            uri = f"s3://contract/some/{name}"
        return lambda: open_object_store(uri)

    @pytest.fixture
    def has_clock(self, backend: str) -> bool:
        return backend == "s3"

    def test_the_uri_is_canonical_and_opens_the_same_root(self, store: ObjectStore) -> None:
        store.put_if_absent("a", b"body")

        assert not store.uri.endswith("/")
        assert open_object_store(store.uri + "/").uri == store.uri
        assert open_object_store(store.uri).get("a") == b"body"

    def test_roots_do_not_see_their_siblings(self, store: ObjectStore) -> None:
        sibling = open_object_store(f"{store.uri}-2")
        sibling.put_if_absent("a", b"body")
        staged(sibling, "b", b"body")

        assert list(store.list()) == []
        assert list(store.list_staged()) == []
        assert store.get("a") is None
