"""What a release says of itself agrees: its version, the versions of Python, and those of what it depends on."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
VERSION = SETUP["metadata"]["version"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def requirements(*texts: str) -> list[Requirement]:
    lines = [line for one in texts for line in one.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_the_newest_version_of_the_changelog_is_this_one() -> None:
    headings = re.findall(r"^## (.*)$", text("CHANGELOG.md"), re.MULTILINE)
    assert re.fullmatch(rf"\[{re.escape(VERSION)}\] - (Unreleased|\d{{4}}-\d\d-\d\d)", headings[0])
    for heading in headings[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading), heading


def test_this_version_gets_corrections() -> None:
    (supported,) = re.findall(r"^\| ([\d.]+) \| yes \|$", text("SECURITY.md"), re.MULTILINE)
    assert VERSION.startswith(f"{supported}.")


def test_the_pythons_that_are_named_are_tested() -> None:
    pythons = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    lowest, highest = pythons[0], pythons[-1]

    assert SETUP["options"]["python_requires"] == f">={lowest}"
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run", "docs/releasing.md"):
        (said,) = re.findall(r"Pythons? (?:from )?(3\.\d+ to 3\.\d+)", text(name))
        assert said == f"{lowest} to {highest}", name
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    assert f"testenv:py3{{{','.join(python.partition('.')[2] for python in pythons)}}}" in tox
    assert tox["testenv:lowest"]["base_python"] == f"python{lowest}"
    (tried,) = re.findall(r"^for highest in (.*); do$", text(".ci/run"), re.MULTILINE)
    assert tried.split() == [f"python{python}" for python in reversed(pythons)]
    assert re.findall(r'- python: "(.*)"', text(".github/workflows/ci.yml")) == pythons


def test_the_lowest_versions_are_those_that_are_tested() -> None:
    allowed = {}
    for requirement in requirements(SETUP["options"]["install_requires"], *SETUP["options.extras_require"].values()):
        (lowest,) = (one.version for one in requirement.specifier if one.operator == ">=")
        allowed[requirement.name] = Version(lowest)

    tested = {}
    for requirement in requirements(text("tests/lowest_versions.txt")):
        (pinned,) = requirement.specifier
        assert pinned.operator == "=="
        tested[requirement.name] = Version(pinned.version)
    assert tested == allowed
