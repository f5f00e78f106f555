"""What is S3's own: answers of HTTP, parts and pages."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from beam_exactly_once.errors import ConfigurationError, OutputNotWritable, StagedOutputMissing, StoreUnavailable
from beam_exactly_once.object_store import Created, Mine, StagedObject, Taken, definite, s3, s3_client
from beam_exactly_once.object_store.s3 import S3Store
from beam_exactly_once.testing.object_store_contract import staged
from support.faulty_store import ManualClock
from support.servers.moto_server import ACCESS_KEY_ID, HttpFault, MotoServer, moto_server

# -- answers ------------------------------------------------------------------------------------------------------

PASSING = [
    HttpFault(409, "ConditionalRequestConflict"),
    HttpFault(409, "OperationAborted"),
    HttpFault(429, "TooManyRequests"),
    HttpFault(400, "RequestTimeout"),
    HttpFault(500, "InternalError"),
    HttpFault(502),
    HttpFault(503, "SlowDown"),
    HttpFault(503, ""),
    HttpFault(504, ""),
    HttpFault(None),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: f"{fault.status}{fault.code}")
def test_a_passing_fault_is_tried_again(server: MotoServer, store: S3Store, fault: HttpFault) -> None:
    server.fail_next(fault, fault)

    assert store.put_if_absent("marker", b"mine") == Created()
    assert store.get("marker") == b"mine"


@pytest.mark.parametrize("status", [None, 500, 503])
def test_a_write_whose_answer_is_lost_is_known_as_ones_own(
    server: MotoServer, store: S3Store, status: int | None
) -> None:
    server.fail_next(HttpFault(status, carried_out=True))

    assert store.put_if_absent("marker", b"mine") == Mine()
    assert store.put_if_absent("marker", b"other") == Taken(b"mine")


def test_a_timeout_is_not_a_failure(server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 0.3)
    s3_client._clients.forget()
    store = S3Store(f"s3://own/{secrets.token_hex(8)}")
    server.fail_next(HttpFault(0), HttpFault(0, carried_out=True))

    assert store.put_if_absent("marker", b"mine") == Mine()


def test_a_server_that_is_gone_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as gone:
        for variable, value in gone.environment.items():
            monkeypatch.setenv(variable, value)
    store = S3Store("s3://own/x", clock=ManualClock(), retry_timeout_s=1)

    with pytest.raises(StoreUnavailable, match=r"s3://own/x gave no definite answer to: read a, for 1 s .*connect"):
        store.get("a")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "PUT"])
@pytest.mark.parametrize("fault", [HttpFault(503, "SlowDown"), HttpFault(None), HttpFault(None, carried_out=True)])
def test_every_operation_bears_faults(server: MotoServer, store: S3Store, method: str, fault: HttpFault) -> None:
    fault = HttpFault(fault.status, fault.code, fault.carried_out, method)
    dropped = staged(store, "dropped")

    server.fail_next(fault)
    store.put_if_absent("a/b", b"body")
    one = staged(store, "part", b"x" * (9 << 20))
    server.fail_next(fault)
    assert store.get_range("a/b", 1, 2) == b"od"
    server.fail_next(fault)
    assert store.get("a/b") == b"body"
    assert store.size_bytes("a/b") == 4
    store.publish(one)
    server.fail_next(fault)
    assert [entry.key for entry in store.list()] == ["a/b", "part"]
    store.discard(dropped)
    assert store.size_bytes("part") == 9 << 20
    server.fail_next(fault)
    store.delete(["a/b", "part"])
    assert store.get("part") is None
    assert store.size_bytes("part") is None
    for empty in list(store.list_staged()):  # a begun upload whose answer was lost stays, for the sweep
        store.discard(empty)

    assert store.put_if_absent("end", b"") in (Created(), Mine())
    assert [entry.key for entry in store.list()] == ["end"]
    assert list(store.list_staged()) == []
    server._application.faults.clear()


def test_another_server_than_minio_is_taken_as_it_is(store: S3Store, caplog: pytest.LogCaptureFixture) -> None:
    store.verify()
    assert "MinIO" not in caplog.text


def test_a_missing_bucket_is_named(server: MotoServer) -> None:
    store = S3Store("s3://no-such-bucket/x")
    one = StagedObject("a", 1, {"upload_id": "x", "parts": [["e", None]]})
    for use in (
        lambda: store.put_if_absent("a", b""),
        lambda: store.get("a"),
        lambda: list(store.list()),
        lambda: store.delete(["a"]),
        lambda: store.stage("a").close(),
        lambda: store.publish(one),
        lambda: list(store.list_staged()),
        store.verify,
        store.check_writable,
    ):
        with pytest.raises(ConfigurationError, match=r"bucket no-such-bucket does not exist. Create it"):
            use()


def test_a_missing_permission_is_named(server: MotoServer, store: S3Store) -> None:
    server.fail_next(HttpFault(403, "AccessDenied"))

    with pytest.raises(OutputNotWritable, match=r"bucket own \(PutObject was answered by 403 AccessDenied\).*s3:PutO"):
        store.verify()
    server.fail_next(HttpFault(403, "AccessDenied"))
    with pytest.raises(OutputNotWritable, match="PutObject"):
        store.check_writable()
    server.fail_next(HttpFault(403, method="HEAD"))
    with pytest.raises(OutputNotWritable, match="HeadObject"):
        store.size_bytes("a")


def test_refused_credentials_are_named_without_them(server: MotoServer, store: S3Store) -> None:
    for code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidTokenId", "ExpiredToken"):
        server.fail_next(HttpFault(403 if code != "ExpiredToken" else 400, code))
        with pytest.raises(ConfigurationError, match=rf"refuses the credentials \({code}\)") as raised:
            store.put_if_absent("a", b"")
        assert ACCESS_KEY_ID not in str(raised.value)


@pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidRequest")])
def test_what_can_never_succeed_is_not_tried_again(server: MotoServer, store: S3Store, status: int, code: str) -> None:
    server.fail_next(HttpFault(status, code))

    with pytest.raises(ConfigurationError, match=f"{status} {code}"):
        store.put_if_absent("a", b"")


def test_no_credentials_at_all_are_explained(server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")

    with pytest.raises(ConfigurationError, match="no usable AWS credentials"):
        S3Store("s3://own/x").get("a")
    with pytest.raises(ConfigurationError, match=r"no usable AWS credentials.*\(nobody\)"):
        S3Store("s3://own/x", {"profile_name": "nobody"}).get("a")


def test_a_deletion_that_is_refused_in_part_is_an_error(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [[{"Code": "InternalError"}], [{"Code": "AccessDenied"}]]
    monkeypatch.setattr(store, "_call", lambda *_, **__: {"Errors": answers.pop(0)})

    with pytest.raises(OutputNotWritable, match="delete in bucket own"):
        store.delete(["a"])


# -- staging ------------------------------------------------------------------------------------------------------


def test_parts_are_bounded_and_uploads_begin_late(server: MotoServer, store: S3Store) -> None:
    server.take_requests()
    with store.stage("part") as writer:
        writer.write(b"x" * (8 << 20))
        writer.write(b"y")
    assert [method for method, _ in server.take_requests()] == ["POST", "PUT", "PUT"]

    with store.stage("small") as writer:
        writer.write(b"1")
        writer.write(b"2")
        assert server.take_requests() == []
    assert [method for method, _ in server.take_requests()] == ["POST", "PUT"]

    writer = store.stage("never")
    writer.write(b"1")
    writer.abort()
    assert server.take_requests() == []


def test_more_parts_than_s3_takes_are_refused(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "MAX_PARTS", 2)
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    writer = store.stage("part")
    writer.write(b"x" * (10 << 20))

    with pytest.raises(ConfigurationError, match="exceeds 2 parts"):
        writer.write(b"x" * (5 << 20))
    with pytest.raises(ValueError, match="a write of it failed"):
        writer.close()
    assert list(store.list_staged()) == []


def test_a_server_that_is_gone_while_staging_leaves_its_error(server: MotoServer, store: S3Store) -> None:
    server.fail_next(*[HttpFault(503)] * 100)
    with pytest.raises(StoreUnavailable, match="stage part"), store.stage("part") as writer:
        writer.write(b"x" * (20 << 20))
    server._application.faults.clear()

    assert writer.closed
    assert list(store.list_staged()) == []  # the upload was begun, and aborted


def test_parts_that_are_gone_are_missing_output(store: S3Store) -> None:
    one = staged(store, "part")
    broken = StagedObject("part", 7, {**one.token, "parts": [['"0123"', None]]})

    with pytest.raises(StagedOutputMissing, match=r"neither published nor staged \(InvalidPart\)"):
        store.publish(broken)


def test_pages_are_joined(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definite, "MAX_PAGE_ENTRIES", 2)
    monkeypatch.setattr(s3, "MAX_DELETE_KEYS", 2)
    named = [f"a/{number}" for number in range(5)]
    for key in named:
        store.put_if_absent(key, b"1")

    assert [entry.key for entry in store.list("a/")] == named
    assert [entry.key for entry in store.list("a/", "a/1")] == named[2:]
    store.delete(named)
    assert list(store.list()) == []


def test_folder_marks_of_consoles_are_no_objects(
    server: MotoServer, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(definite, "MAX_PAGE_ENTRIES", 1)
    prefix = store.uri.removeprefix("s3://own/")
    for folder in ("", "a/", "b/"):
        server.client().put_object(Bucket="own", Key=f"{prefix}/{folder}", Body=b"")
    store.put_if_absent("b/c", b"1")

    assert [entry.key for entry in store.list()] == ["b/c"]


def test_pages_of_uploads_are_joined(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = store.uri.removeprefix("s3://own/")
    pages = {
        (): {
            "IsTruncated": True,
            "NextKeyMarker": "k",
            "NextUploadIdMarker": "u",
            "Uploads": [_upload(f"{prefix}/a", "1")],
        },
        ("k", "u"): {"IsTruncated": False, "Uploads": [_upload(f"{prefix}/b", "2"), _upload("elsewhere", "3")]},
    }
    asked = []

    def call(operation: str, *_: str, Prefix: str, **after: str) -> Any:
        asked.append(Prefix)
        return pages[tuple(after.values())]

    monkeypatch.setattr(store, "_call", call)

    assert [(one.final_key, one.token) for one in store.list_staged()] == [
        ("a", {"upload_id": "1"}),
        ("b", {"upload_id": "2"}),
    ]
    assert asked == [f"{prefix}/"] * 2


def _upload(key: str, upload_id: str) -> dict[str, str]:
    return {"Key": key, "UploadId": upload_id}


def test_a_whole_bucket_can_be_a_root(server: MotoServer) -> None:
    store = S3Store(server.create_bucket(f"whole-{secrets.token_hex(4)}") + "/")

    assert store.put_if_absent("a/b", b"1") == Created()
    one = staged(store, "c")
    assert [listed.final_key for listed in store.list_staged()] == ["c"]
    store.publish(one)
    assert [entry.key for entry in store.list(start_after="a/b")] == ["c"]
