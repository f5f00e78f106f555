"""Secrets stay where they are: in no error, in no URI, and in no pickled store."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator

import pytest

from beam_exactly_once.errors import ConfigurationError, StoreUnavailable
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.object_store.s3 import S3Store
from beam_exactly_once.secrets import secret_from_env
from support.faulty_store import ManualClock
from support.servers.moto_server import SECRET_ACCESS_KEY, MotoServer, moto_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MotoServer]:
    with moto_server() as running:
        running.create_bucket("own")
        for variable, value in running.environment.items():
            monkeypatch.setenv(variable, value)
        yield running


@pytest.mark.parametrize("password", ["hunter2", "hun/ter2"])  # secret keys of AWS may have slashes
@pytest.mark.parametrize("scheme", ["s3", "s3a", "gs", "file", "https"])
def test_credentials_in_a_uri_are_refused_and_not_shown(scheme: str, password: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        open_object_store(f"{scheme}://key:{password}@own/x")

    assert not any(part in str(raised.value) for part in ("hun", "ter2"))


@pytest.mark.parametrize(("scheme", "module"), [("s3", "boto3"), ("gs", "google.cloud.storage")])
def test_a_missing_extra_does_not_show_them(monkeypatch: pytest.MonkeyPatch, scheme: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for backend in ("s3", "s3_client", "gcs", "gcs_client"):
        monkeypatch.delitem(sys.modules, f"beam_exactly_once.object_store.{backend}", raising=False)

    with pytest.raises(ConfigurationError, match=rf"{scheme}://\*\*\*@own/x needs an extra"):
        open_object_store(f"{scheme}://key:hunter2@own/x")


def test_a_pickled_store_carries_none(server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", "hunter2")
    options = {
        "aws_access_key_id": secret_from_env("AWS_ACCESS_KEY_ID"),
        "aws_secret_access_key": secret_from_env("MY_SECRET"),
    }
    for store in (S3Store("s3://own/pickled", options), S3Store("s3://own/pickled")):
        store.put_if_absent("a", b"1")  # has resolved its secrets, and looked at the variables

        pickled = pickle.dumps(store)

        assert b"hunter2" not in pickled
        assert SECRET_ACCESS_KEY.encode() not in pickled
        assert pickle.loads(pickled).get("a") == b"1"


def test_an_endpoint_that_holds_one_is_not_shown(server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as gone:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", gone.endpoint_url.replace("http://", "http://me:hunter2@"))

    with pytest.raises(StoreUnavailable, match="no definite answer") as raised:
        S3Store("s3://own/x", clock=ManualClock(), retry_timeout_s=0).get("a")
    assert "hunter2" not in str(raised.value)
