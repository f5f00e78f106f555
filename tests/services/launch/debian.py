"""Programs from Debian packages, unpacked into the cache folder: nothing is installed, and nobody needs to be root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from services.launch.built import built, run_build

_SIMULATE = ("--simulate", "--no-install-recommends", "install")


def unpacked(package: str) -> Path:
    """The root folder of ``package`` and of what it depends on and the machine lacks; downloaded at first use.

    The machine's release of Debian says which version. For a package without contents, such as ``postgresql``, it is the one that
    this stands for in the release.

    Raises:
        RuntimeError: the machine has no apt, or cannot download.
    """
    if shutil.which("apt-get") is None:
        raise RuntimeError(f"{package} comes from Debian's packages, and this machine has no apt-get")

    def unpack(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as state:
            apt = _Apt(Path(state))
            name = apt.newest_version(package) or package
            run_build([*apt.get, "download", name, *apt.lacking(name)], folder)
        for archive in folder.glob("*.deb"):
            run_build(["dpkg", "-x", archive.name, "."], folder)
            archive.unlink()

    return built(f"debian-{package}", unpack)


def libraries(root: Path) -> dict[str, str]:
    """The variable by which unpacked programs find unpacked libraries."""
    folders = {str(library.parent) for library in root.glob("usr/lib/*/*.so.*")}
    folders |= {str(library.parent) for library in root.glob("lib/*/*.so.*")}
    return {"LD_LIBRARY_PATH": os.pathsep.join(sorted(folders))}


class _Apt:
    """apt with fresh lists of its own: those of the machine may be old, or missing, and belong to root."""

    def __init__(self, state: Path) -> None:
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True)
        self._options = ["-o", f"Dir::State::lists={state}/lists", "-o", f"Dir::Cache={state}/cache"]
        self.get = ["apt-get", *self._options]
        _lines([*self.get, "update"])

    def newest_version(self, package: str) -> str | None:
        """The package with a version in its name that ``package`` depends on; None where there is none."""
        for line in _lines(["apt-cache", *self._options, "depends", package]):
            _, _, name = line.partition("Depends: ")
            if name.startswith(f"{package}-") and name[len(package) + 1 :].isdigit():
                return name
        return None

    def lacking(self, package: str) -> list[str]:
        """What an installation would install besides ``package``, upgrades aside."""
        inst = [line.split()[1] for line in _lines([*self.get, *_SIMULATE, package]) if line.startswith("Inst ")]
        return sorted({name for name in inst if not _is_installed(name)} - {package})


def _is_installed(package: str) -> bool:
    return subprocess.run(["dpkg", "-s", package], capture_output=True, check=False).returncode == 0


def _lines(command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-1000:]}")
    return done.stdout.splitlines()
