"""What a worker needs is imported before it is forked, and must be forgotten when it changes on disk."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

from beam_exactly_once import transforms

_OF_BEAM = (
    "apache_beam.runners.worker.sdk_worker",
    "apache_beam.runners.worker.bundle_processor",
    "apache_beam.runners.worker.operations",
)


class NotPreloaded(Exception):
    """A module cannot be imported, or must not be before a fork."""


def preload(modules: Iterable[str]) -> None:
    """Import Beam's worker, the steps of this library, and ``modules``.

    Raises:
        NotPreloaded: one of them cannot be imported, or starts a thread, which a forked process would not have.
    """
    own = (module.name for module in pkgutil.walk_packages(transforms.__path__, f"{transforms.__name__}."))
    for name in (*modules, *_OF_BEAM, *own):
        before = set(threading.enumerate())
        try:
            importlib.import_module(name)
        except Exception as error:
            raise NotPreloaded(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
        started = set(threading.enumerate()) - before
        if started:
            raise NotPreloaded(
                f"{name} starts threads when it is imported ({', '.join(one.name for one in started)}), and a worker that is "
                "forked afterwards lacks them. "
                "Leave it out of --preload: each worker then imports it itself."
            )


class LoadedFiles:
    """The files of all modules that this process has imported, as they were."""

    def __init__(self) -> None:
        paths = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        self._seen: Mapping[str, object] = {path: _stamp(path) for path in paths if path}

    def changed(self) -> str | None:
        """One that is no longer what was imported: a new version of a package was installed."""
        return next((path for path, stamp in self._seen.items() if _stamp(path) != stamp), None)


def _stamp(path: str) -> object:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
