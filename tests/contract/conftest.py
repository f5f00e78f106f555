"""An S3 store on a server in this process; modules about other stores have a ``store`` of their own. Both readers of Kafka."""

from __future__ import annotations

import secrets
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

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


@pytest.fixture(scope="session")
def extension() -> ModuleType:
    """The native reader. Tests of it are skipped where it cannot be built, and fail where it can and was not."""
    found = native.reader()
    if found is None:
        headers = Path(sysconfig.get_path("include")) / "Python.h"
        can_be_built = shutil.which("cc") is not None and headers.exists()
        assert not can_be_built, "the native reader is not built: python setup.py build_ext --inplace"
        pytest.skip("there is no C compiler with Python's headers, so users read by messages")
    return found


@pytest.fixture(params=["native", "python"])
def each_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read Kafka natively, and by messages; what does not ask for it takes the reader that users get."""
    if request.param == "native":
        request.getfixturevalue("extension")
    monkeypatch.setenv(native.READER_VARIABLE, request.param)
