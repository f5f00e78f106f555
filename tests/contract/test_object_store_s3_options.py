"""S3's options, secrets and clients: what reaches the server, what is refused, what is shared."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.object_store import Created, open_object_store, s3_client
from beam_exactly_once.object_store.s3 import S3Store
from beam_exactly_once.per_process import PerProcess
from beam_exactly_once.secrets import secret_from_env, secret_from_file
from beam_exactly_once.testing.object_store_contract import staged

# -- options ------------------------------------------------------------------------------------------------------
from support.forking import succeeds_in_child
from support.servers.moto_server import ACCESS_KEY_ID, SECRET_ACCESS_KEY, MotoServer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint": "http://x"}, r"unknown storage_options endpoint. Known: endpoint_url"),
        ({"region_name": 7}, "region_name in storage_options must be a non-empty string"),
        ({"profile_name": ""}, "profile_name in storage_options must be"),
        ({"aws_access_key_id": "AKIA1", "aws_secret_access_key": "hunter2"}, "must not be plain text"),
        ({"aws_secret_access_key": secret_from_env("X")}, "go together"),
        ({"aws_access_key_id": secret_from_env("X")}, "go together"),
        ({"endpoint_url": "http://me:hunter2@host"}, "must not hold a user"),
        (
            {
                "profile_name": "p",
                "aws_access_key_id": secret_from_env("X"),
                "aws_secret_access_key": lambda: "hunter2",
            },
            "a profile and keys",
        ),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        S3Store("s3://own/x", options)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
        ("s3://key:hunter2@own/x", r"s3://\*\*\*@own: credentials do not belong"),
        ("s3://own/a/../b", "is not a key"),
        ("s3://own--use1-az4--x-s3/a", "directory buckets"),
    ],
)
def test_wrong_uris_are_explained(uri: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        open_object_store(uri)
    assert "hunter2" not in str(raised.value)


def test_uris_are_canonical() -> None:
    assert open_object_store("s3a://own/a/b//").uri == "s3://own/a/b"
    assert open_object_store("s3://own").uri == "s3://own"


def test_opening_asks_nothing_and_reads_no_secret(server: MotoServer) -> None:
    S3Store("s3://own/x", {"aws_access_key_id": secret_from_env("NO_SUCH"), "aws_secret_access_key": lambda: "never"})

    assert server.take_requests() == []


def test_credentials_come_by_reference(server: MotoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET_ACCESS_KEY)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("MY_KEY", ACCESS_KEY_ID)
    options = {
        "aws_access_key_id": secret_from_env("MY_KEY"),
        "aws_secret_access_key": secret_from_file(tmp_path / "secret"),
        "aws_session_token": lambda: "token",
    }

    store = S3Store(f"s3://own/{secrets.token_hex(8)}", options)

    assert store.put_if_absent("a", b"1") == Created()
    shown = f"{store!r} {vars(store)['_options']!r}"
    assert SECRET_ACCESS_KEY not in shown
    with pytest.raises(ConfigurationError, match="variable NO_SUCH"):
        S3Store("s3://own/x", {**options, "aws_access_key_id": secret_from_env("NO_SUCH")}).get("a")
    with pytest.raises(ConfigurationError, match="aws_session_token in storage_options gave no text"):
        S3Store("s3://own/x", {**options, "aws_session_token": lambda: None}).get("a")


def test_options_reach_the_server(server: MotoServer) -> None:
    options = {
        "endpoint_url": server.endpoint_url,
        "region_name": "us-east-1",
        "server_side_encryption": "aws:kms",
        "sse_kms_key_id": "my-key",
        "storage_class": "STANDARD_IA",
        "request_payer": "requester",
    }
    name = secrets.token_hex(8)
    store = S3Store(f"s3://own/{name}", options)
    store.put_if_absent("a", b"1")
    store.publish(staged(store, "b"))
    assert store.get("a") == b"1"
    store.list_staged()

    for key in ("a", "b"):
        found = server.client().head_object(Bucket="own", Key=f"{name}/{key}")
        assert (found["ServerSideEncryption"], found["SSEKMSKeyId"]) == ("aws:kms", "my-key")
        assert found["StorageClass"] == "STANDARD_IA"
    store.delete(["a", "b"])


def test_servers_without_checksums_are_spared_them(server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with_checksum = staged(S3Store("s3://own/checksums"), "a")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    store = S3Store("s3://own/checksums")
    without = staged(store, "b")

    assert [part[1] is None for part in (*with_checksum.token["parts"], *without.token["parts"])] == [False, True]
    for one in (with_checksum, without):
        store.publish(one)
        assert store.get(one.final_key) == b"content"


# -- clients ------------------------------------------------------------------------------------------------------


def test_stores_share_clients(server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(key: s3_client.ClientKey) -> Any:
        made.append(dict(key.arguments))
        return s3_client._new_client(key)

    monkeypatch.setattr(s3_client, "_clients", PerProcess(counted, max_kept=2))
    for _ in range(3):
        S3Store("s3://own/a").get("x")
        S3Store("s3://own/b", {"region_name": "eu-west-1", "storage_class": "STANDARD"}).get("x")

    assert made == [{}, {"region_name": "eu-west-1"}]
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    S3Store("s3://own/a").get("x")
    assert made == [{}, {"region_name": "eu-west-1"}, {}]
    for number in range(4):  # as credentials may rotate
        S3Store("s3://own/a", {"region_name": f"us-east-{number}"}).get("x")
    assert len(s3_client._clients) == 2


def test_a_forked_process_has_its_own_client(server: MotoServer, store: S3Store) -> None:
    store.put_if_absent("parent", b"1")
    with s3_client._clients._lock:  # as another thread might hold it, at the time of the fork

        def in_child() -> bool:
            is_new = len(s3_client._clients) == 0
            return is_new and store.get("parent") == b"1" and store.put_if_absent("child", b"2") == Created()

        assert succeeds_in_child(in_child)

    assert store.get("child") == b"2"
