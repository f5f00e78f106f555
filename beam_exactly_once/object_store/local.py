"""Objects as files below a folder of a local disk (or one mounted file system with atomic hard links).

A create writes a temporary file, syncs it, and links it to its name: the name appears at once, whole, or the link
says that it is taken. Creating the name first and filling it then would let readers see torn files. Temporary
and staged files live in a hidden sibling of the root, so that no listing or recursive glob of the root sees one.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from beam_exactly_once.errors import ConfigurationError, OutputNotWritable, StagedOutputMissing, StoreUnavailable
from beam_exactly_once.object_store.contract import (
    ObjectEntry,
    StagedObject,
    StagingWriter,
    checked_key,
    checked_limit,
    checked_prefix,
)
from beam_exactly_once.object_store.definite import DefiniteStore, Page, Unclear
from beam_exactly_once.randomness import new_token

TEMPORARY_AGE_MAX_S = 86_400
"""Temporary files of creates that are older belong to processes that are gone."""

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
"""What Linux and its file systems take."""

_TEMPORARY = "put-"
_STAGED = "staged-"
_STAGING_FOLDER = re.compile(r"\..*\.staging")

# What a person has to change, and what may pass on a network file system.
_REFUSALS = {
    errno.EROFS: "use another place",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or raise the quota",
    errno.EEXIST: "a file is in the way of a folder: move it, or use another place",
    errno.ENOTDIR: "a file is in the way of a folder: move it, or use another place",
    errno.EISDIR: "a folder is in the way of a file: move it, or use another place",
    errno.ELOOP: "its links lead nowhere: use another place",
    errno.ENAMETOOLONG: "use a shorter path, or shorter values of the columns that name its folders",
    errno.EXDEV: "it must be one file system with the hidden folder beside it: use another place",
    errno.EMLINK: "the file system has no hard links to spare: use another place",
    errno.ENOTSUP: "the file system has no hard links, or no folders of users: use another place",
}
_UNCLEAR = (errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENOENT)


class LocalStore(DefiniteStore):
    """A folder. It and its parents are made when something is first written.

    Raises:
        ConfigurationError: the path is empty, or the root of the file system.
    """

    def __init__(self, root: str | Path, **contract: Any) -> None:
        if not str(root):
            raise ConfigurationError("an empty path is not a store: name a folder.")
        if not _can_name_a_file(str(root)):
            raise ConfigurationError(f"{str(root)!r} has characters that no path can have: name another folder.")
        self._root = Path(os.path.abspath(Path(root).expanduser()))  # noqa: PTH100 (resolve() would follow links)
        if self._root.parent == self._root:
            raise ConfigurationError(f"{root} cannot be a store: name a folder below it.")
        self._staging = self._root.parent / f".{self._root.name}.staging"
        super().__init__(str(self._root), **contract)

    def verify(self) -> None:
        """See :class:`ObjectStore`; also removes what creates of killed processes left behind."""
        super().verify()
        self._remove_temporaries()

    def check_writable(self) -> None:
        """See :class:`ObjectStore`; removes what :meth:`verify` removes."""
        super().check_writable()
        self._remove_temporaries()

    def _remove_temporaries(self) -> None:
        # Safe at any age: a create that finds its temporary file gone reads back and begins again.
        limit_s = self._clock.utc_now().timestamp() - TEMPORARY_AGE_MAX_S
        for path in self._staging.glob(f"{_TEMPORARY}*"):
            with suppress(OSError):
                if path.stat().st_mtime < limit_s:
                    path.unlink()

    def stage(self, final_key: str) -> StagingWriter:
        """A file in the hidden sibling folder, to be linked to its name."""
        checked_key(final_key)
        path = self._staging / _staged_name(final_key)
        return self._definite(f"stage {final_key}", lambda: self._begin(final_key, path))

    def takes(self, final_key: str) -> bool:
        """See :class:`ObjectStore`; what is staged has the longest name."""
        name = _staged_name(final_key)
        return len(name.encode()) <= MAX_NAME_BYTES and len(str(self._staging / name).encode()) <= MAX_PATH_BYTES

    def list_staged(self, prefix: str = "") -> Iterator[StagedObject]:
        """See :class:`ObjectStore`."""
        checked_prefix(prefix)
        yield from self._definite(f"list staged {prefix}", lambda: self._all_staged(prefix))

    def _all_staged(self, prefix: str) -> list[StagedObject]:
        found = []
        with _named_errors(self._staging):
            # Not glob(), which hides errors.
            for path in sorted(self._staging.iterdir()) if self._own_staging() else []:
                final_key = urllib.parse.unquote(path.name.removeprefix(_STAGED).partition("-")[2])
                if path.name.startswith(_STAGED) and final_key.startswith(prefix):
                    with suppress(FileNotFoundError):
                        found.append(StagedObject(final_key, path.stat().st_size, {"name": path.name}))
        return found

    def _begin(self, final_key: str, path: Path) -> StagingWriter:
        with _named_errors(path):
            self._own_staging(make=True)
            return _LocalWriter(final_key, path)

    def _own_staging(self, *, make: bool = False) -> bool:
        """Whether the staging folder is there, as this user's own or as that of who owns the root.

        In a shared folder anybody could put a link or a folder of their own under its name, and what is staged there is
        published.

        Raises:
            OutputNotWritable: somebody has.
        """
        try:
            found = self._staging.lstat()
        except FileNotFoundError:
            if not make:
                return False
            _make_folder(self._staging.parent)
            with suppress(FileExistsError):
                self._staging.mkdir(0o775)
                _sync_folder(self._staging.parent)
            found = self._staging.lstat()
        if stat.S_ISREG(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self._staging))
        root = self._root.stat() if self._root.exists() else None
        owners = {0, os.geteuid()} if root is None else {0, os.geteuid(), root.st_uid}
        is_open = found.st_mode & stat.S_IWOTH and not (root is not None and root.st_mode & stat.S_IWOTH)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners or is_open:
            raise OutputNotWritable(
                f"{self._staging}, where what is not yet published waits, is a link, belongs to another user, or can be "
                "written by all users, so others could change what is published. Remove it if nothing of this output waits "
                "there, or use another place, in a folder that others cannot write to."
            )
        return True

    def _create(self, key: str, body: bytes) -> bool:
        final = self._root / key
        temporary = self._staging / f"{_TEMPORARY}{new_token(16)}"
        with _named_errors(final):
            _make_folder(final.parent)
            self._own_staging(make=True)
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

    def _get_range(self, key: str, start: int, size_bytes: int) -> bytes | None:
        with _named_errors(self._root / key):
            try:
                with (self._root / key).open("rb") as file:
                    file.seek(start)
                    return file.read(size_bytes)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def _size_bytes(self, key: str) -> int | None:
        with _named_errors(self._root / key):
            try:
                found = (self._root / key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None) -> Iterator[ObjectEntry]:
        """See :class:`ObjectStore`. Opens a folder when the walk comes to it: the first key of a million costs no more."""
        checked_prefix(prefix)
        checked_limit(limit)
        yield from islice(self._files_below(_folder_of(prefix), prefix, start_after), limit)

    def _list_page(self, prefix: str, start_after: str, max_entries: int) -> Page:
        entries = list(islice(self._files_below(_folder_of(prefix), prefix, start_after), max_entries))
        return Page(entries, resume_after=entries[-1].key if len(entries) == max_entries else None)

    def _files_below(self, folder: str, prefix: str, start_after: str) -> Iterator[ObjectEntry]:
        """In order of keys: a folder stands where the first of its keys would, so its name is compared with its slash."""
        for name in self._definite(f"list {folder}", lambda: self._names_in(folder)):
            key = folder + name
            if name.endswith("/"):
                has_prefix = key.startswith(prefix) or prefix.startswith(key)
                if has_prefix and (key > start_after or start_after.startswith(key)):
                    yield from self._files_below(key, prefix, start_after)
            elif key.startswith(prefix) and key > start_after:
                size_bytes = self._definite(f"list {key}", lambda key=key: self._size_bytes(key))  # type: ignore[misc]
                if size_bytes is not None:
                    yield ObjectEntry(key, size_bytes)

    def _names_in(self, folder: str) -> Sequence[str]:
        """Sorted, those of folders with a slash; not staging folders of other roots inside this one, nor links to folders."""
        found = []
        with _named_errors(self._root / folder):
            try:
                with os.scandir(self._root / folder) as entries:
                    for entry in entries:
                        if not entry.is_dir():
                            found.append(entry.name)
                        elif not entry.is_symlink() and not _STAGING_FOLDER.fullmatch(entry.name):
                            found.append(f"{entry.name}/")
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(found)

    def _delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with _named_errors(self._root / key), suppress(FileNotFoundError, NotADirectoryError):
                (self._root / key).unlink()

    def _publish(self, staged: StagedObject) -> bool:
        final, source = self._root / staged.final_key, self._staged_path(staged)
        with _named_errors(final):
            _make_folder(final.parent)
            self._own_staging()
            try:
                published = _link(source, final)
            except FileNotFoundError:
                if final.exists():
                    return False
                raise StagedOutputMissing(
                    f"{final} is neither published nor staged (as {source}). Restore either from a copy; "
                    "`beam-exactly-once verify` names every file that is missing."
                ) from None
            source.unlink(missing_ok=True)
        return published

    def _discard(self, staged: StagedObject) -> None:
        path = self._staged_path(staged)
        with _named_errors(path):
            path.unlink(missing_ok=True)

    def _staged_path(self, staged: StagedObject) -> Path:
        return self._staging / checked_key(str(staged.token["name"]).replace("/", "%2F"))


def _staged_name(final_key: str) -> str:
    # As few letters encoded as a flat name needs: it is longer than the final one, and both have one limit.
    flat = final_key.replace("%", "%25").replace("/", "%2F")
    return f"{_STAGED}{new_token()}-{flat}"


class _LocalWriter(StagingWriter):
    def __init__(self, final_key: str, path: Path) -> None:
        super().__init__(final_key)
        self._path = path
        self._file = path.open("xb", buffering=1 << 20)

    def _append(self, data: memoryview) -> None:
        with self._errors():
            self._file.write(data)

    def flush(self) -> None:
        """Nothing: closing makes it durable."""

    def _complete(self) -> dict[str, Any]:
        with self._errors():
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
            _sync_folder(self._path.parent)
        return {"name": self._path.name}

    def _drop(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        # What a file holds after a write or a sync that failed is not known, so neither is tried again.
        try:
            with _named_errors(self._path):
                yield
        except Unclear as unclear:
            raise StoreUnavailable(
                f"{self._path} could not be staged ({unclear}). Nothing is lost: start again when the disk answers."
            ) from None


def _link(source: Path, final: Path) -> bool:
    """Give ``source`` the name ``final``; False when the name is taken. It is durable either way."""
    try:
        os.link(source, final)
        linked = True
    except FileExistsError:
        linked = False
    _sync_folder(final.parent)  # also the name that another process has just given, before anything rests on it
    return linked


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
    except FileNotFoundError:
        if not folder.parent.is_dir():  # removed meanwhile
            raise
        raise OSError(errno.ENOTSUP, "no folder can be made there", str(folder)) from None
    _sync_folder(folder.parent)


def _can_name_a_file(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _folder_of(prefix: str) -> str:
    """The folder that holds every key with this prefix: empty, or with its slash."""
    return prefix[: prefix.rfind("/") + 1]


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Errors of the file system, sorted by who must act."""
    try:
        yield
    except OSError as error:
        _raise_sorted(error, path)


def _raise_sorted(error: OSError, path: Path) -> NoReturn:
    if isinstance(error, PermissionError):
        raise OutputNotWritable(
            f"{error.filename or path}: no permission. Give this user the right, or use another place."
        ) from None
    if error.errno in _UNCLEAR:
        raise Unclear(str(error)) from None
    way_out = _REFUSALS.get(error.errno or 0)
    if way_out is None:
        raise error
    raise OutputNotWritable(f"{error.filename or path}: {error.strerror}. Way out: {way_out}.") from None
