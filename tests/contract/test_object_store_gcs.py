"""What is GCS's own: how its answers are sorted, by a server that says what the test tells it to.

The contract suite itself runs on fake-gcs-server: see tests/services/stores/test_real_gcs.py.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.serving import make_server

from beam_exactly_once.errors import ConfigurationError, OutputNotWritable, StagedOutputMissing, StoreUnavailable
from beam_exactly_once.object_store import Created, Mine, ObjectEntry, StagedObject, Taken, gcs_client
from beam_exactly_once.object_store.gcs import GcsStore
from support.faulty_store import ManualClock
from support.servers.moto_server import Quiet

OBJECT = {"name": "root/marker", "bucket": "b", "size": "4", "generation": "1", "metageneration": "1"}
BROKEN = (0, b"")  # the connection breaks

Answer = tuple[int, bytes | dict[str, Any]]


class Scripted:
    """Answers requests in their order, by script."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if environ["PATH_INFO"] == "/storage/v1/b/b":  # newer clients look at the bucket, in the background
            start_response("404 scripted", [("Content-Length", "0")])
            return []
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}")
        status, body = self.answers.pop(0)
        if not status:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionError("a scripted fault")
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        start_response(f"{status} scripted", [("Content-Length", str(len(sent))), ("Content-Type", "application/json")])
        return [sent]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    application = Scripted()
    running = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{running.server_port}")
    gcs_client._clients.forget()
    try:
        yield application
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


@pytest.fixture
def store(server: Scripted) -> GcsStore:
    return GcsStore("gs://b/root", clock=ManualClock())


def test_a_create_is_one_request_with_its_condition(server: Scripted, store: GcsStore) -> None:
    server.answers = [(200, OBJECT)]

    assert store.put_if_absent("marker", b"mine") == Created()
    assert server.requests == ["POST /upload/storage/v1/b/b/o?uploadType=multipart&ifGenerationMatch=0"]


@pytest.mark.parametrize("passing", [(409, {}), (429, {}), (500, {}), (503, b"no json"), BROKEN])
def test_passing_faults_are_read_back_and_tried_again(server: Scripted, store: GcsStore, passing: Answer) -> None:
    server.answers = [passing, (404, {}), passing, passing, (412, {}), (200, b"mine")]

    assert store.put_if_absent("marker", b"mine") == Mine()
    assert server.answers == []


def test_a_failed_condition_is_another_writers_object(server: Scripted, store: GcsStore) -> None:
    server.answers = [(412, {}), (200, b"winner")]

    assert store.put_if_absent("marker", b"mine") == Taken(b"winner")


def test_no_answer_is_unavailable(server: Scripted, store: GcsStore) -> None:
    server.answers = [(503, {})] * 100

    with pytest.raises(StoreUnavailable, match=r"gs://b/root gave no definite answer to: read a, for 60 s .*503"):
        store.get("a")


def test_refusals_are_named(server: Scripted, store: GcsStore) -> None:
    server.answers = [(403, {}), (404, {}), (404, {}), (400, {})]

    with pytest.raises(OutputNotWritable, match=r"bucket b \(403\).*Storage Object Admin"):
        store.put_if_absent("a", b"")
    with pytest.raises(ConfigurationError, match="bucket b does not exist"):
        store.put_if_absent("a", b"")
    with pytest.raises(ConfigurationError, match="bucket b does not exist"):
        list(store.list())
    with pytest.raises(ConfigurationError, match=r"refuses this use of bucket b \(400\)"):
        list(store.list_staged())


def test_absent_objects_are_none(server: Scripted, store: GcsStore) -> None:
    server.answers = [(404, {}), (404, {}), (404, {}), (404, {})]

    assert store.get("a") is None
    assert store.get_range("a", 0, 1) is None
    assert store.size_bytes("a") is None
    store.delete(["a"])
    assert server.answers == []


def test_a_part_behind_the_end_is_empty_and_a_refused_whole_is_not(server: Scripted, store: GcsStore) -> None:
    server.answers = [(416, b""), (416, b"")]

    assert store.get_range("a", 7, 1) == b""
    with pytest.raises(ConfigurationError, match=r"refuses this use of bucket b \(416\)"):
        store.get("a")


def test_pages_are_joined_and_foreign_names_left_out(server: Scripted, store: GcsStore) -> None:
    def page(*names: str, more: bool) -> Answer:
        items = [{"name": f"root/{name}", "size": "1"} for name in names]
        return 200, {"items": items, **({"nextPageToken": "t"} if more else {})}

    server.answers = [
        page("a", "a/", more=True),
        page("a/", more=True),  # the start is included
        page(more=True),
        page("b", "inner/.x.staging/c/0", more=True),
        page("inner/.x.staging/c/0", "z", more=False),
    ]

    assert list(store.list()) == [ObjectEntry("a", 1), ObjectEntry("b", 1), ObjectEntry("z", 1)]
    assert server.answers == []


def test_a_rewrite_goes_on_until_it_is_done(server: Scripted, store: GcsStore) -> None:
    one = StagedObject("part", 4, {"name": "part/0123"})
    half = {"done": False, "rewriteToken": "t", "totalBytesRewritten": "2", "objectSize": "4"}
    whole = {"done": True, "totalBytesRewritten": "4", "objectSize": "4", "resource": OBJECT}
    server.answers = [(200, half), (503, {}), (200, half), (200, whole), (204, b"")]

    assert store.publish(one) is True
    assert server.answers == []
    assert server.requests[-1].startswith("DELETE /storage/v1/b/b/o/.root.staging/part/0123")
    assert "ifGenerationMatch=0" in server.requests[0]


def test_a_rewrite_that_was_done_is_recognised(server: Scripted, store: GcsStore) -> None:
    one = StagedObject("part", 4, {"name": "part/0123"})

    server.answers = [BROKEN, (412, {}), (204, b"")]
    assert store.publish(one) is False
    server.answers = [(404, {}), (200, OBJECT), (404, {})]
    assert store.publish(one) is False
    server.answers = [(404, {}), (404, {})]
    with pytest.raises(StagedOutputMissing, match=r"root/part is neither .*\.root\.staging/part/0123"):
        store.publish(one)


def test_a_writer_that_fails_says_so_once(server: Scripted, store: GcsStore) -> None:
    server.answers = [(403, {})]
    writer = store.stage("part")
    writer.write(b"1")

    with pytest.raises(OutputNotWritable, match="no permission on bucket b"):
        writer.close()
    with pytest.raises(ValueError, match="not closed cleanly"):
        _ = writer.staged


def test_no_credentials_are_explained_without_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    gcs_client._clients.forget()
    (tmp_path / "key.json").write_text('{"private_key": "hunter2"}')

    for name in ("key.json", "absent.json"):
        store = GcsStore("gs://b/root", {"service_account_file": str(tmp_path / name)})
        with pytest.raises(ConfigurationError, match="no usable Google credentials") as raised:
            store.get("a")
        assert "hunter2" not in str(raised.value)
