"""What programs run in: a virtual environment a peer, made once in a cache folder outside of the checkout, and a Kafka."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from peers.ways import Environment

CACHE_VARIABLE = "BEAM_EXACTLY_ONCE_PEERS_CACHE"
ROOT = Path(__file__).parents[2]


class CannotPrepare(Exception):
    """A peer's environment cannot be made: the message says why."""


def cache_dir() -> Path:
    """Where environments stay."""
    folder = os.environ.get(CACHE_VARIABLE)
    return Path(folder) if folder else Path.home() / ".cache" / "beam_exactly_once" / "peers"


def python_of(environment: Environment) -> Path:
    """The interpreter that has the requirements, and nothing else; made at first use, whole or not at all.

    Raises:
        CannotPrepare: no fitting Python is there, or a package cannot be installed.
    """
    if not environment.requirements:
        return Path(sys.executable)
    base = _base_python(environment)
    wanted = "\n".join([base, *environment.requirements])
    folder = cache_dir() / f"{environment.name}-{environment.version}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    if not (folder / "complete").exists():
        print(f"making an environment: {', '.join(environment.requirements)}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _make(base, folder, environment)
        (folder / "complete").touch()
    return folder / "bin" / "python"


def _base_python(environment: Environment) -> str:
    lowest, highest = environment.pythons
    if lowest <= sys.version_info.minor <= highest:
        return sys.executable
    names = [f"python3.{minor}" for minor in range(highest, lowest - 1, -1)]
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        raise CannotPrepare(f"{environment.name} needs Python 3.{lowest} to 3.{highest}: none is on the PATH.")
    return found


def _make(base: str, folder: Path, environment: Environment) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv:
        _run([uv, "venv", "-q", "--python", base, str(folder)])
        _run([uv, "pip", "install", "-q", "--python", f"{folder}/bin/python", *environment.requirements])
    else:
        _run([base, "-m", "venv", str(folder)])
        _run([f"{folder}/bin/python", "-m", "pip", "install", "-q", *environment.requirements])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotPrepare(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def variables(environment: Environment) -> dict[str, str]:
    """What programs find: this checkout, if they are of this library; the cache's folder for the jars that Spark asks for."""
    found = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if not environment.requirements:
        found["PYTHONPATH"] = str(ROOT)
    return {**found, "PYSPARK_SUBMIT_ARGS": f"--conf spark.jars.ivy={cache_dir() / 'ivy'} pyspark-shell"}


def with_kafka(command: list[str]) -> int:
    """Run a program of Python beside a Kafka that is started for it; returns its exit code."""
    services = [sys.executable, str(ROOT / "tests" / "services" / "run.py"), "kafka", "--"]
    return subprocess.run([*services, sys.executable, *command], check=False).returncode
