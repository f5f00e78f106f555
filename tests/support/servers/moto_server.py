"""S3 for tests: moto's server application on a free loopback port.

moto checks a condition and then writes, in two steps; under load two conditional creates can both win. So the whole
application runs under one lock: each request is atomic, as S3's are.
"""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import boto3
from moto.s3.exceptions import NoSuchUpload
from moto.s3.models import S3Backend
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

ACCESS_KEY_ID = "for-tests"
SECRET_ACCESS_KEY = "no-secret"
REGION = "us-east-1"


@dataclass(frozen=True)
class HttpFault:
    """What happens to one request instead of its answer.

    Args:
        status: the answer's status; None breaks the connection without an answer; 0 never answers.
        code: the S3 error code in the answer's body.
        carried_out: whether the request is carried out all the same.
        method: which requests; others are answered as usual.
    """

    status: int | None
    code: str = ""
    carried_out: bool = False
    method: str = "PUT"


class _OneAtATime:
    """The application under one lock, and the faults that are waiting for their requests."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lock = threading.Lock()
        self.faults: list[HttpFault] = []
        self.requests: list[tuple[str, str]] = []
        self.stopping = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        # A body that stays unread would be taken for the next request.
        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        method = environ["REQUEST_METHOD"]
        with self._lock:
            self.requests.append((method, f"{environ['PATH_INFO']}?{environ['QUERY_STRING']}"))
            fault = next((fault for fault in self.faults if fault.method == method), None)
            if fault is not None:
                self.faults.remove(fault)
        if fault is None:
            return self._carry_out(environ, start_response)
        if fault.carried_out:
            self._carry_out(environ, lambda *_: None)
        if fault.status == 0:
            self.stopping.wait()
        if not fault.status:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionError("a scripted fault")
        body = f"<Error><Code>{fault.code}</Code><Message>scripted</Message></Error>" if fault.code else ""
        start_response(f"{fault.status} scripted", [("Content-Length", str(len(body)))])
        return [body.encode()]

    def _carry_out(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._lock:
            answer = self._application(environ, start_response)
            try:
                return list(answer)
            finally:
                if hasattr(answer, "close"):
                    answer.close()


class Quiet(WSGIRequestHandler):
    """Keeps connections open, and says nothing."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        pass


class MotoServer:
    """A running server."""

    def __init__(self, endpoint_url: str, application: _OneAtATime) -> None:
        self.endpoint_url = endpoint_url
        self._application = application

    def fail_next(self, *faults: HttpFault) -> None:
        """Let the next requests fail, each fault one request, in this order."""
        self._application.faults.extend(faults)

    def take_requests(self) -> list[tuple[str, str]]:
        """Method and path of the requests since the last call."""
        taken, self._application.requests = self._application.requests, []
        return taken

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which boto3 finds this server, and nothing of the machine's own configuration."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A plain client, to look behind the library's back."""
        return boto3.session.Session(
            aws_access_key_id=ACCESS_KEY_ID, aws_secret_access_key=SECRET_ACCESS_KEY, region_name=REGION
        ).client("s3", endpoint_url=self.endpoint_url)

    def create_bucket(self, name: str) -> str:
        """Make a bucket; gives back its URI."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"


_moto_completes = S3Backend.complete_multipart_upload


def _complete_multipart_upload(self: S3Backend, bucket_name: str, multipart_id: str, body: Any) -> Any:
    """moto breaks on an upload that is gone; S3 says so."""
    if multipart_id not in self.get_bucket(bucket_name).multiparts:
        raise NoSuchUpload(upload_id=multipart_id)
    return _moto_completes(self, bucket_name, multipart_id, body)


@contextmanager
def moto_server() -> Iterator[MotoServer]:
    """Run a server inside the block."""
    application = _OneAtATime(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="moto", daemon=True)
    thread.start()
    try:
        with mock.patch.object(S3Backend, "complete_multipart_upload", _complete_multipart_upload):
            yield MotoServer(f"http://127.0.0.1:{server.server_port}", application)
    finally:
        application.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
