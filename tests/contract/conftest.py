"""An S3 store on a server in this process; modules about other stores have a ``store`` of their own. Both readers of Kafka."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from beam_exactly_once.kafka import native
from beam_exactly_once.object_store.s3 import S3Store
from support.faulty_store import ManualClock
from support.servers.moto_server import MotoServer, moto_server


@pytest.fixture(scope="module")
def running() -> Iterator[MotoServer]:
    with moto_server() as server:
        server.create_bucket("own")
        yield server


@pytest.fixture
def server(running: MotoServer, monkeypatch: pytest.MonkeyPatch) -> MotoServer:
    for variable, value in running.environment.items():
        monkeypatch.setenv(variable, value)
    running.take_requests()
    return running


@pytest.fixture
def store(server: MotoServer) -> S3Store:
    return S3Store(f"s3://own/{secrets.token_hex(8)}", clock=ManualClock())


@pytest.fixture(params=["native", "python"])
def each_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read Kafka natively, and by messages; what does not ask for it takes the reader that users get."""
    if request.param == "native" and native.reader() is None:
        pytest.skip("the native reader is not built here: python setup.py build_ext --inplace")
    monkeypatch.setenv(native.READER_VARIABLE, request.param)
