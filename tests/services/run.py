"""Runs a command with real services beside it.

    python tests/services/run.py kafka s3 gcs prism flink postgres mariadb -- pytest tests/services

Starts the named services in this order (flink after s3, which its workers write to), says where they are in environment
variables, runs the command, stops them, and exits with the command's code. The first run downloads (Kafka, Flink: Maven,
Java 17; PostgreSQL, MariaDB: Debian's packages) or compiles (the others: Go) them into
~/.cache/beam_exactly_once/services, or $BEAM_EXACTLY_ONCE_SERVICES_CACHE. Without a command it only does that.

What the command starts and does not stop, as a test does whose process was killed, is killed in the end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import psutil

sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its names are its own

from services.launch.fake_gcs import FakeGcs, fake_gcs_program  # noqa: E402
from services.launch.flink import SharedFlink, job_server_jar  # noqa: E402
from services.launch.kafka_broker import Kafka, kafka_jars  # noqa: E402
from services.launch.mariadb import Mariadb, mariadb_root  # noqa: E402
from services.launch.minio import Minio, minio_program  # noqa: E402
from services.launch.postgres import Postgres, postgres_root  # noqa: E402
from services.launch.prism import Prism, prism_program  # noqa: E402
from services.launch.server import Service  # noqa: E402

PREPARE: dict[str, Callable[[], Path]] = {
    "kafka": kafka_jars,
    "s3": minio_program,
    "gcs": fake_gcs_program,
    "prism": prism_program,
    "flink": job_server_jar,
    "postgres": postgres_root,
    "mariadb": mariadb_root,
}
"""What downloads or compiles a service, once."""

RUN_VARIABLE = "BEAM_EXACTLY_ONCE_SERVICES_RUN"
"""Inherited by all that a run starts, servers of single tests too; tells one run from another."""

START: dict[str, Callable[[], Service]] = {
    "kafka": Kafka,
    "s3": Minio,
    "gcs": FakeGcs,
    "prism": Prism,
    "flink": SharedFlink,
    "postgres": Postgres,
    "mariadb": Mariadb,
}


class CommandFailed(Exception):
    """Makes services keep their logs."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the command ended with {code}")
        self.code = code


def run(names: list[str], command: list[str]) -> None:
    """Raises CommandFailed."""
    os.environ[RUN_VARIABLE] = secrets.token_hex(8)
    with contextlib.ExitStack() as services:
        services.callback(_kill_what_is_left)
        for name in names:
            os.environ.update(services.enter_context(START[name]()).environment)
        code = subprocess.run(command, check=False).returncode
        if code:
            raise CommandFailed(code if code > 0 else 128 - code)


def _kill_what_is_left() -> None:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(RUN_VARIABLE) == os.environ[RUN_VARIABLE]:
                process.kill()


def main(arguments: list[str]) -> int:
    names = arguments[: arguments.index("--")] if "--" in arguments else arguments
    command = arguments[len(names) + 1 :]
    unknown = [name for name in names if name not in PREPARE]
    if unknown or not names:
        print(f"{__doc__}\nknown services: {', '.join(PREPARE)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _exit)
    for name in names:
        PREPARE[name]()
    try:
        if command:
            run(names, command)
    except CommandFailed as failed:
        return failed.code
    return 0


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
