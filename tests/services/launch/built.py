"""What the services are built from: pinned versions, by the package managers' own clients, into one cache folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE_VARIABLE = "BEAM_EXACTLY_ONCE_SERVICES_CACHE"


def cache_dir() -> Path:
    """Where built services stay, outside of the checkout."""
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder) if folder else Path.home() / ".cache" / "beam_exactly_once" / "services"


def built(name: str, build: Callable[[Path], None]) -> Path:
    """The cache's folder ``name``, filled by ``build`` if it is not there; whole or not at all."""
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / name
    with _locked(cache / f"{name}.lock"):
        if not folder.exists():
            unfinished = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=cache))
            try:
                build(unfinished)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def go_program(module: str, version: str) -> Path:
    """The program of a Go module, compiled at this version."""
    program = module.rpartition("/")[2]

    def install(folder: Path) -> None:
        run_build(["go", "install", f"{module}@{version}"], folder, {"GOBIN": str(folder)})

    return built(f"{program}-{version}", install) / program


def run_build(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    """Run one step of a build in ``folder``, behind whatever else the machine does."""
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is not on the PATH; it is needed to build a service for tests")
    done = subprocess.run(
        ["nice", "-n", "15", *command],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
