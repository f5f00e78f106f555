"""The folder on this machine's disk that holds sections: whose it is, what it lies on, and how much it holds.

Whoever can write there decides what a stream remembers. So the folder belongs to one user and is closed to all others, and a file
is read through the descriptor that was looked at. It is named after the kernel's boot: after a power cut, files may have their
size and not their content.
"""

from __future__ import annotations

import logging
import mmap
import os
import re
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.randomness import new_token

MAPPED_FROM_BYTES = 1 << 20
"""Smaller files are read: a page fault and a mapping cost more than a copy."""
TEMPORARY_AGE_MAX_S = 3600.0
"""Files that are still being written after this time belong to processes that are gone."""
FILLED = 0.9
"""How much of the limit stays when the oldest files go, so that they do not go one by one."""

MOUNTS = Path("/proc/self/mountinfo")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_OF_A_NETWORK = re.compile(r"(nfs|cifs|smb|9p|ceph|gluster|lustre|afs|beegfs|gpfs|fuse\.).*")
_TEMPORARY = ".tmp"
_ANY_BOOT = "any-boot"
_BOOT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CLOSED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)

logger = logging.getLogger(__name__)


class Unusable(Exception):
    """Why a place cannot hold the folder."""


class CacheFolder:
    """Files by name, of at most ``max_bytes`` in all: the ones that were used longest ago go first.

    Any number of processes may use one folder. The limit is soft: each of them counts what it found and what it wrote, and a
    file that goes frees its space when the last process that has mapped it ends.

    Args:
        root: where to make the folder.
        max_bytes: how much it may hold.
        clock: tells how old files are.

    Raises:
        Unusable: it cannot be made there, is not closed to others, or does not lie on a local disk.
    """

    def __init__(self, root: Path, max_bytes: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._has_warned = False
        boot_id = _boot_id()
        self._outlives_boots = boot_id == _ANY_BOOT
        try:
            folder = _private_folder(root, f"beam-exactly-once-state-{os.getuid()}")
            _check_file_system(folder)
            _remove_other_boots(folder, boot_id)
            self.path = _private_folder(folder, boot_id)
            self._held_bytes = self._sweep()
        except OSError as error:
            raise Unusable(f"{root} cannot be used ({error.strerror})") from None

    def read(self, name: str) -> pa.Buffer | None:
        """The content of a file, mapped unless it is small; None when there is none that can be trusted."""
        try:
            descriptor = os.open(self.path / name, os.O_RDONLY | _CLOSED)
        except FileNotFoundError:
            return None
        except OSError:  # such as a link
            self.remove(name)
            return None
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or not _is_private(found):
                self.remove(name)
                return None
            os.utime(descriptor)
            if found.st_size < MAPPED_FROM_BYTES:
                return pa.py_buffer(os.pread(descriptor, found.st_size, 0))
            return pa.py_buffer(mmap.mmap(descriptor, found.st_size, access=mmap.ACCESS_READ))
        finally:
            os.close(descriptor)

    def write(self, name: str, write_to: Callable[[BinaryIO], None]) -> bool:
        """Make a file, which appears whole; whether that went well. A full disk is no reason to stop."""
        temporary = self.path / f"{new_token()}{_TEMPORARY}"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOSED, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                write_to(file)
                file.flush()
                if self._outlives_boots:
                    os.fsync(descriptor)
                size_bytes = file.tell()
            temporary.replace(self.path / name)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            if not self._has_warned:
                self._has_warned = True
                logger.warning("state is not cached in %s while that cannot be written (%s)", self.path, error.strerror)
            return False
        self._held_bytes += size_bytes
        if self._held_bytes > self._max_bytes:
            self._held_bytes = self._sweep()
        return True

    def remove(self, name: str) -> None:
        """Remove what is under a name, if anything."""
        path = self.path / name
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _sweep(self) -> int:
        """Remove what is left of dead processes, and of the oldest files what is too much. How much stays."""
        now_s = self._clock.utc_now().timestamp()
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another process removes, too
                    about = entry.stat(follow_symlinks=False)
                    if entry.name.endswith(_TEMPORARY) and about.st_mtime < now_s - TEMPORARY_AGE_MAX_S:
                        self.remove(entry.name)
                    else:
                        found.append((about.st_mtime_ns, about.st_size, entry.name))
        held_bytes = sum(size_bytes for _, size_bytes, _ in found)
        if held_bytes > self._max_bytes:
            for _, size_bytes, name in sorted(found):
                if held_bytes <= FILLED * self._max_bytes:
                    break
                self.remove(name)
                held_bytes -= size_bytes
        return held_bytes


def default_roots() -> list[Path]:
    """Where to look for room, in this order. Not the folder for temporary files, which is often memory."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    roots = [Path(cache) if cache else Path("~/.cache"), Path("/var/tmp")]
    found = []
    for root in roots:
        with suppress(RuntimeError):  # no home
            found.append(root.expanduser())
    return found


def file_system_of(folder: Path) -> str:
    """The type of the file system that a folder lies on; empty where the system does not say."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    types = {}
    for line in lines:
        mounted, _, about = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mounted.split()[4])
        types[point] = about.split()[0]  # the last one mounted there is the one that is seen
    real = folder.resolve()
    return next((types[str(parent)] for parent in (real, *real.parents) if str(parent) in types), "")


def _check_file_system(folder: Path) -> None:
    kind = file_system_of(folder)
    if kind in _IN_MEMORY:
        raise Unusable(f"{folder} lies in memory ({kind})")
    if _OF_A_NETWORK.fullmatch(kind):  # a file that goes there while it is mapped ends the process
        raise Unusable(f"{folder} lies on a network ({kind})")


def _private_folder(root: Path, name: str) -> Path:
    folder = root / name
    root.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or not _is_private(found):
        raise Unusable(f"{folder} is not a folder of this user alone: remove it, or give it mode 700")
    return folder


def _is_private(found: os.stat_result) -> bool:
    return found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077


def _boot_id() -> str:
    try:
        boot_id = BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return _ANY_BOOT
    return boot_id if _BOOT.fullmatch(boot_id) else _ANY_BOOT


def _remove_other_boots(folder: Path, boot_id: str) -> None:
    for other in list(folder.iterdir()):
        if other.name != boot_id and _BOOT.fullmatch(other.name):
            shutil.rmtree(other, ignore_errors=True)
