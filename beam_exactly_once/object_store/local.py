"""Objects as files below a folder of a local disk (or one mounted file system with atomic hard links).

A create writes a temporary file, syncs it, and links it to its name: the name appears at once, whole, or the link
says that it is taken. Creating the name first and filling it then would let readers see torn files. Temporary
and staged files live in a hidden sibling of the root, so that no listing or recursive glob of the root sees one.
"""

from __future__ import annotations

import errno
import os
import secrets
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from beam_exactly_once.errors import ConfigurationError, OutputNotWritable, StagedOutputMissing
from beam_exactly_once.object_store.contract import (
    DefiniteStore,
    ObjectEntry,
    Page,
    StagedObject,
    StagingWriter,
    checked_key,
)

_TEMPORARY = "put-"
_STAGED = "staged-"


class LocalStore(DefiniteStore):
    """A folder. It and its parents are made when something is first written."""

    def __init__(self, root: str | Path, **contract: Any) -> None:
        self._root = Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100 (resolve() would follow links)
        if self._root.parent == self._root:
            raise ConfigurationError(f"{root} cannot be a store: name a folder below it.")
        self._staging = self._root.parent / f".{self._root.name}.staging"
        super().__init__(str(self._root), **contract)

    def stage(self, final_key: str) -> StagingWriter:
        """A file in the hidden sibling folder, to be linked to its name."""
        checked_key(final_key)
        path = self._staging / f"{_STAGED}{secrets.token_hex(8)}-{urllib.parse.quote(final_key, safe='')}"
        with _named_errors(path):
            self._staging.mkdir(parents=True, exist_ok=True)
            return _LocalWriter(final_key, path)

    def list_staged(self, prefix: str = "") -> Iterator[StagedObject]:
        """In no promised order."""
        for path in sorted(self._staging.glob(f"{_STAGED}*")):
            final_key = urllib.parse.unquote(path.name.removeprefix(_STAGED).partition("-")[2])
            if final_key.startswith(prefix):
                with suppress(FileNotFoundError):
                    yield StagedObject(final_key, path.stat().st_size, {"name": path.name})

    def _create(self, key: str, body: bytes) -> bool:
        final = self._root / key
        temporary = self._staging / f"{_TEMPORARY}{secrets.token_hex(16)}"
        with _named_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            self._staging.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(body)
                    file.flush()
                    os.fsync(file.fileno())
                return _link(temporary, final)
            finally:
                temporary.unlink(missing_ok=True)

    def _get(self, key: str) -> bytes | None:
        with _named_errors(self._root / key):
            try:
                return (self._root / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def _size_bytes(self, key: str) -> int | None:
        try:
            return (self._root / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _list_page(self, prefix: str, start_after: str) -> Page:
        folder = prefix.rpartition("/")[0]
        with _named_errors(self._root / folder):
            keys = sorted(
                key for key in _files_below(self._root, folder) if key.startswith(prefix) and key > start_after
            )
        entries = []
        for key in keys:
            size_bytes = self._size_bytes(key)
            if size_bytes is not None:
                entries.append(ObjectEntry(key, size_bytes))
        return Page(entries, more=False)

    def _delete(self, keys: list[str]) -> None:
        for key in keys:
            with _named_errors(self._root / key):
                (self._root / key).unlink(missing_ok=True)

    def _publish(self, staged: StagedObject) -> bool:
        final, source = self._root / staged.final_key, self._staged_path(staged)
        with _named_errors(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                published = _link(source, final)
            except FileNotFoundError:
                if final.exists():
                    return False
                raise StagedOutputMissing(
                    f"{final} is neither published nor staged (as {source}). Restore the staged file from a copy, or pass "
                    "the batch by `beam-exactly-once resolve`."
                ) from None
            source.unlink(missing_ok=True)
        return published

    def _discard(self, staged: StagedObject) -> None:
        self._staged_path(staged).unlink(missing_ok=True)

    def _staged_path(self, staged: StagedObject) -> Path:
        return self._staging / checked_key(str(staged.token["name"]).replace("/", "%2F"))


class _LocalWriter(StagingWriter):
    def __init__(self, final_key: str, path: Path) -> None:
        super().__init__(final_key)
        self._path = path
        self._file = path.open("xb", buffering=1 << 20)

    def _append(self, data: memoryview) -> None:
        with _named_errors(self._path):
            self._file.write(data)

    def flush(self) -> None:
        """Nothing: closing makes it durable."""

    def _complete(self) -> dict[str, Any]:
        with _named_errors(self._path):
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
            _sync_folder(self._path.parent)
        return {"name": self._path.name}

    def _drop(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


def _link(source: Path, final: Path) -> bool:
    """Give ``source`` the name ``final`` durably; False when the name is taken."""
    try:
        os.link(source, final)
    except FileExistsError:
        return False
    _sync_folder(final.parent)
    return True


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files_below(root: Path, folder: str) -> Iterator[str]:
    """Keys of all files below ``root/folder``."""
    for parent, _, names in os.walk(root / folder):
        relative = Path(parent).relative_to(root).as_posix()
        yield from (name if relative == "." else f"{relative}/{name}" for name in names)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Errors of the file system that a user must act on, with the path and the way out."""
    try:
        yield
    except PermissionError as error:
        raise OutputNotWritable(
            f"{error.filename or path}: no permission. Give this user the right, or use another place."
        ) from None
    except OSError as error:
        if error.errno in (
            errno.EROFS,
            errno.ENOSPC,
            errno.EDQUOT,
            errno.ENOTDIR,
            errno.EXDEV,
            errno.EMLINK,
            errno.ENOTSUP,
        ):
            raise OutputNotWritable(
                f"{error.filename or path}: {error.strerror}. Make room, or use another place."
            ) from None
        raise
