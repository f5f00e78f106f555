"""MinIO for tests: an S3 server that decides conditional creates under a lock; compiled with Go, a process of its own."""

from __future__ import annotations

import base64
import os
import urllib.error
import urllib.request
from pathlib import Path

from services.launch.built import go_program
from services.launch.server import OneServer, Server, free_ports

MINIO_VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"
ACCESS_KEY_ID = "for-tests"
SECRET_ACCESS_KEY = "no-secret-at-all"
REGION = "us-east-1"
KMS_KEY_ID = "tests"
KMS_KEY = base64.b64encode(bytes(32)).decode()


def minio_program() -> Path:
    """The program; compiled at first use."""
    return go_program("github.com/minio/minio", MINIO_VERSION)


class Minio(OneServer):
    """One server on a free port, with no buckets and its data in a temporary folder; a context manager."""

    def __init__(self) -> None:
        program = minio_program()
        port, console_port = free_ports(2)
        self.endpoint_url = f"http://127.0.0.1:{port}"
        self._server = Server("minio")
        command = [str(program), "server", "--quiet", "--address", f"127.0.0.1:{port}"]
        command += ["--console-address", f"127.0.0.1:{console_port}", str(self._server.folder / "data")]
        environment = {
            "MINIO_ROOT_USER": ACCESS_KEY_ID,
            "MINIO_ROOT_PASSWORD": SECRET_ACCESS_KEY,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "MINIO_KMS_SECRET_KEY": f"{KMS_KEY_ID}:{KMS_KEY}",  # encrypts only what asks for it
            "HOME": str(self._server.folder),
        }
        self._server.start(command, environment, self._answers)

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which boto3 finds this server, and nothing of the machine's own configuration."""
        return {
            "S3_ENDPOINT_URL": self.endpoint_url,
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint_url}/minio/health/ready", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
