"""Where the log of a run is, and how its store fails: a folder, a disk that gets full, an S3 server, a GCS server."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from services.launch.fault_proxy import Fault, FaultProxy

DISK_MB = 64
SHARE = 0.03
"""Of the writes of a log on a server: so many lose their answer, so many land late, so many are refused with 503."""
WRITES = {"s3": ("PUT", "log/"), "gcs": ("POST", " .*log/")}
VARIABLE = {"s3": "AWS_ENDPOINT_URL_S3", "gcs": "STORAGE_EMULATOR_HOST"}


@dataclass(frozen=True)
class Place:
    """An empty place for a log, on a store that does not fail.

    Args:
        location: of the log.
        environment: by which receivers find the store.
    """

    location: str
    environment: dict[str, str] = field(default_factory=dict)

    trouble = ""
    """How the store fails, in a word; empty: it does not."""

    def fail(self) -> None:
        """Let nothing be written any more."""

    def heal(self) -> None:
        """Let everything be written again."""


@dataclass(frozen=True)
class Disk(Place):
    """A small file system of its own, which gets really full."""

    trouble = "full"

    def fail(self) -> None:
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as filler:
            while filler.write(bytes(1 << 16)):
                pass

    def heal(self) -> None:
        self._filler.unlink(missing_ok=True)

    @property
    def _filler(self) -> Path:
        return Path(self.location).with_name("filler")


@dataclass(frozen=True)
class Server(Place):
    """A bucket of a server behind a proxy, which loses answers of writes, delays writes and refuses some, all the time."""

    kind: str = ""
    proxy: FaultProxy | None = None

    trouble = "away"

    def fail(self) -> None:
        assert self.proxy is not None
        self.proxy.heal()
        self.proxy.fail(Fault.REQUEST_LOST, times=None)

    def heal(self) -> None:
        assert self.proxy is not None
        self.proxy.heal()
        method, target = WRITES[self.kind]
        for fault in (Fault.ANSWER_LOST, Fault.LATE, 503):
            self.proxy.fail(fault, method=method, target=target, share=SHARE, times=None)


@contextmanager
def place(kind: str, folder: Path) -> Iterator[Place]:
    """An empty place.

    Args:
        kind: ``local``, ``full``, ``s3`` or ``gcs``; the last two need such a server: see ``tests/services/run.py``.
        folder: for what is on this machine.
    """
    if kind == "local":
        yield Place(str(folder / "log"))
    elif kind == "full":
        with _disk(folder / "disk") as disk:
            yield Disk(str(disk / "log"))
    else:
        variable = VARIABLE[kind]
        with FaultProxy(os.environ[variable]) as proxy:
            one = Server(_bucket(kind) + "/log", {variable: proxy.url}, kind, proxy)
            one.heal()
            yield one


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    """A file system in memory; only root may make one."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def _bucket(kind: str) -> str:
    name = f"kills-{secrets.token_hex(4)}"
    if kind == "s3":
        import boto3

        boto3.client("s3").create_bucket(Bucket=name)
        return f"s3://{name}"
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    storage.Client(project="tests", credentials=AnonymousCredentials()).create_bucket(name)
    return f"gs://{name}"
