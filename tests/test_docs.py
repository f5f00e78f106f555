"""The documents are true: their examples run, their links lead somewhere, and what they list is what is there."""

from __future__ import annotations

import configparser
import doctest
import re
import secrets
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once import Record, read_batches
from beam_exactly_once.object_store import ObjectStore, open_object_store, override_stores
from beam_exactly_once.testing import MemoryKafka

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
NAMES = [str(document.relative_to(ROOT)) for document in DOCUMENTS]

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def prose(document: Path) -> str:
    """A document without its blocks of code."""
    return _FENCED.sub("", document.read_text(encoding="utf-8"))


def anchors(document: Path) -> set[str]:
    """The anchors that a web view gives to the headings."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _HEADING.findall(prose(document))}


@pytest.mark.parametrize("name", NAMES)
def test_every_example_gives_what_it_says(name: str) -> None:
    failed, _ = doctest.testfile(str(ROOT / name), module_relative=False, encoding="utf-8")
    assert failed == 0


def test_the_readme_has_an_example_to_run() -> None:
    """Else the test above could pass by running nothing."""
    assert doctest.DocTestParser().get_examples((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_leads_somewhere(name: str) -> None:
    document = ROOT / name
    broken = []
    for link in _LINK.findall(prose(document)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        is_there = target.exists() and target.is_relative_to(ROOT)
        if not is_there or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_pipeline_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Kafka and stores are in memory; the rest is the code as it stands there, and the reading of its output behind it."""
    blocks = [
        code
        for language, code in _FENCED.findall((ROOT / "README.md").read_text(encoding="utf-8"))
        if language == "python"
    ]
    (pipeline,) = (code for code in blocks if "with ExactlyOnceStream" in code)
    (reading,) = (code for code in blocks if "read_batches(" in code)
    root = f"memory://{secrets.token_hex(8)}/"
    cluster = MemoryKafka({"orders": 1})
    cluster.append(
        Record("orders", value=b'{"id":%d,"amount":0.5,"paid":%s}' % (number, paid))
        for number, paid in enumerate([b"true", b"false", b"true"])
    )

    def open_in_memory(uri: str, options: Mapping[str, Any] | None) -> ObjectStore:
        return open_object_store(uri if uri.startswith(root) else root + urllib.parse.quote(uri, safe=""))

    with cluster.serving(), override_stores(open_in_memory):
        exec(compile(pipeline, "README.md", "exec"), {"__name__": "readme"})
        exec(compile(reading, "README.md", "exec"), {"__name__": "readme"})
        (batch,) = read_batches("s3://lake/orders")
    assert batch.rows_written == 2
    assert capsys.readouterr().out.startswith(f"0 2 ['{root}")


def test_the_file_map_names_every_file() -> None:
    sections: dict[str, set[str]] = {}
    folder = ""
    for line in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines():
        heading = re.fullmatch(r"`([\w/]+/)`", line)
        row = re.match(r"\| `(\w+\.py)` \|", line)
        if heading is not None:
            folder = heading[1]
        elif row is not None:
            sections.setdefault(folder, set()).add(row[1])
    found: dict[str, set[str]] = {}
    for top in ("beam_exactly_once", "transforms", "pipelines", "benchmarks"):
        for file in (ROOT / top).rglob("*.py"):
            found.setdefault(f"{file.parent.relative_to(ROOT).as_posix()}/", set()).add(file.name)
    assert sections == found


def test_the_floors_are_those_that_imports_are_checked_by() -> None:
    """From the top down. Within a floor, an arrow leads from a layer to the one below it."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    floors = re.findall(r"^\| (\d+) \| (`[^|]+`) \|", text, re.MULTILINE)
    assert [int(number) for number, _ in floors] == list(range(len(floors), 0, -1))
    said = [set(re.findall(r"`(\w+)`", layer)) for _, rooms in floors for layer in rooms.split("→")]
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    checked = setup["importlinter:contract:floors"]["layers"].split("\n")
    assert said == [set(layer.replace("|", " ").split()) for layer in checked if layer]


def test_the_list_of_decisions_is_complete() -> None:
    folder = ROOT / "docs" / "adr"
    listed = re.findall(
        r"^\| \[(\d{4})\]\(([\w.-]+)\) \| (.+) \|$", (folder / "README.md").read_text("utf-8"), re.MULTILINE
    )
    found = []
    for record in sorted(folder.glob("[0-9]*.md")):
        title = re.match(r"# (\d{4}): (.+)\n\n- Status: (?:accepted|replaced by \d{4})\n", record.read_text("utf-8"))
        if record.name != "0000-template.md":
            assert title is not None, record.name
            found.append((title[1], record.name, title[2]))
    assert listed == found
    assert [name[:4] for _, name, _ in found] == [number for number, _, _ in found]


def test_the_page_on_runners_says_what_the_tests_prove() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "runners_page.py")], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-2000:]
    assert (ROOT / "docs" / "runners.md").read_text(encoding="utf-8") == made.stdout
