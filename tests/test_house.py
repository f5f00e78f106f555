"""The house is as it was planned: small files, small rooms, and Beam only where its rooms are."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("beam_exactly_once", "transforms", "pipelines", "benchmarks", "tests")
MAX_LINES = 400
MAX_FILES = 25

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
PACKAGES = SETUP["options"]["packages"].split()
WITHOUT_BEAM = SETUP["importlinter:contract:rooms-without-beam"]["source_modules"].split()


def python_files() -> list[Path]:
    return [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]


def test_no_file_is_long() -> None:
    lines = {file.relative_to(ROOT): len(file.read_text(encoding="utf-8").splitlines()) for file in python_files()}
    assert {str(file): count for file, count in lines.items() if count > MAX_LINES} == {}


def test_no_room_is_full() -> None:
    files = Counter(str(file.parent.relative_to(ROOT)) for file in python_files())
    assert {folder: count for folder, count in files.items() if count > MAX_FILES} == {}


def test_every_package_is_installed() -> None:
    """A folder that is missing in setup.cfg would be in a clone, and not in a wheel."""
    found = set()
    for folder in ("beam_exactly_once", "transforms", "pipelines"):
        for file in (ROOT / folder).rglob("__init__.py"):
            name = ".".join(file.parent.relative_to(ROOT).parts)
            found.add(name if folder == "beam_exactly_once" else f"beam_exactly_once.{name}")
    assert sorted(PACKAGES) == sorted(found)


def test_only_three_rooms_and_the_command_line_may_import_beam() -> None:
    tops = {name for name in PACKAGES if name.count(".") == 1}
    assert tops - set(WITHOUT_BEAM) == {
        f"beam_exactly_once.{name}" for name in ("transforms", "pipelines", "testing", "cli")
    }


def test_the_machines_clock_is_only_ever_a_default() -> None:
    """Of an argument, so that a test can pass another one; programs begin with it. The linter bans all other clocks."""
    uses = {}
    for file in python_files():
        if file.is_relative_to(ROOT / "tests") or file.name == "clock.py":
            continue
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        arguments = [node.args for node in nodes if isinstance(node, ast.FunctionDef)]
        fields = [node for one in nodes if isinstance(one, ast.ClassDef) for node in one.body]
        defaults = {id(value) for one in arguments for value in (*one.defaults, *one.kw_defaults)}
        defaults |= {id(field.value) for field in fields if isinstance(field, ast.AnnAssign)}
        named = [node for node in nodes if isinstance(node, ast.Name) and node.id == "SYSTEM_CLOCK"]
        uses[str(file.relative_to(ROOT))] = sum(id(node) not in defaults for node in named)
    assert {file for file, count in uses.items() if count} == {
        "pipelines/stream.py",
        "beam_exactly_once/cli/commands.py",
        "beam_exactly_once/cli/wal_commands.py",
    }


@pytest.mark.parametrize("room", [*WITHOUT_BEAM, "beam_exactly_once", "beam_exactly_once.cli"])
def test_a_room_loads_no_beam(room: str, tmp_path: Path) -> None:
    """Every module of it, also by ways that no import shows."""
    program = (
        "import importlib, pkgutil, sys\n"
        f"room = importlib.import_module({room!r})\n"
        f"within = pkgutil.walk_packages(room.__path__, {room + '.'!r}) if hasattr(room, '__path__') else ()\n"
        f"names = [] if {room!r} == 'beam_exactly_once' else [one.name for one in within]\n"
        "for name in names:\n"
        "    importlib.import_module(name)\n"
        "sys.exit('apache_beam' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
