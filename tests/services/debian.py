"""Programs from Debian packages, unpacked into the cache folder: nothing is installed, and nobody needs to be root."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from services.built import built, run_build

_SIMULATE = ("--simulate", "--no-install-recommends", "install")


def unpacked(package: str) -> Path:
    """The root folder of ``package`` and of what it depends on and the machine lacks; downloaded at first use.

    The machine's release of Debian says which version.

    Raises:
        RuntimeError: the machine has no apt, or cannot download.
    """
    if shutil.which("apt-get") is None:
        raise RuntimeError(f"{package} comes from Debian's packages, and this machine has no apt-get")

    def unpack(folder: Path) -> None:
        run_build(["apt-get", "download", package, *_lacking(package)], folder)
        for archive in folder.glob("*.deb"):
            run_build(["dpkg", "-x", archive.name, "."], folder)
            archive.unlink()

    return built(f"debian-{package}", unpack)


def libraries(root: Path) -> dict[str, str]:
    """The variable by which unpacked programs find unpacked libraries."""
    folders = {str(library.parent) for library in root.glob("usr/lib/*/*.so.*")}
    folders |= {str(library.parent) for library in root.glob("lib/*/*.so.*")}
    return {"LD_LIBRARY_PATH": os.pathsep.join(sorted(folders))}


def newest_version(package: str) -> str:
    """The package that a package without contents, such as ``postgresql``, stands for in this release."""
    for line in _apt("apt-cache", "depends", package):
        _, _, name = line.partition("Depends: ")
        if name.startswith(f"{package}-") and name[len(package) + 1 :].isdigit():
            return name
    raise RuntimeError(f"this release of Debian has no package {package}-<version>; `apt-get update` may help")


def _lacking(package: str) -> list[str]:
    """What an installation would install besides ``package``, upgrades aside."""
    inst = [line.split()[1] for line in _apt("apt-get", *_SIMULATE, package) if line.startswith("Inst ")]
    return sorted({name for name in inst if not _is_installed(name)} - {package})


def _is_installed(package: str) -> bool:
    return subprocess.run(["dpkg", "-s", package], capture_output=True, check=False).returncode == 0


def _apt(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-1000:]}")
    return done.stdout.splitlines()
