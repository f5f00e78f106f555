"""fake-gcs-server for tests: Google Cloud Storage in memory, with preconditions; compiled with Go, a process of its own."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from services.launch.built import go_program
from services.launch.server import OneServer, Server, free_ports

FAKE_GCS_VERSION = "v1.56.1"  # honours preconditions of uploads of every kind; no release so far does those of rewrites


def fake_gcs_program() -> Path:
    """The program; compiled at first use."""
    return go_program("github.com/fsouza/fake-gcs-server", FAKE_GCS_VERSION)


class FakeGcs(OneServer):
    """One server on a free port, with no buckets; a context manager."""

    def __init__(self) -> None:
        program = fake_gcs_program()
        (port,) = free_ports(1)
        self.endpoint_url = f"http://127.0.0.1:{port}"
        self._server = Server("fake-gcs")
        command = [str(program), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
        command += ["-public-host", f"127.0.0.1:{port}", "-log-level", "warn"]
        self._server.start(command, {}, self._answers)

    @property
    def environment(self) -> dict[str, str]:
        """The variable by which Google's client finds this server, and asks for no credentials."""
        return {"STORAGE_EMULATOR_HOST": self.endpoint_url}

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint_url}/_internal/healthcheck", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
