"""The documents are true: their examples run, their links lead somewhere, and what they list is what is there."""

from __future__ import annotations

import ast
import configparser
import doctest
import importlib
import json
import re
import shlex
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from beam_exactly_once import ExactlyOnceStream, Record
from beam_exactly_once.checkpoint.inspection import read_status
from beam_exactly_once.cli.commands import main
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.testing import MemoryKafka

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
NAMES = [str(document.relative_to(ROOT)) for document in DOCUMENTS]

_FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
_RUN = re.compile(r"python ((?:benchmarks|tests)/[\w/]+\.py)")

README_LINES = 150
"""A newcomer reads it whole; what is longer belongs on a page of its own."""
WRITTEN = {
    "README.md": {"orders": {"files": 2}},
    "docs/decoding.md": {"orders": {"files": 3}, "large": {"files": 3}},
    "docs/pipelines.md": {"orders": {"files": 3}, "new": {}},
    "docs/rejected_records.md": {"orders": {"files": 3, "rejected": 1}},
    "docs/sinks/delta.md": {"orders": {"delta": 3}},
    "docs/sinks/files.md": {"values": {"files": 3}},
    "docs/sinks/for_each_batch.md": {"orders": {"for_each_batch": 3}},
    "docs/continuous.md": {},  # needs Prism
    "docs/sinks/kafka.md": {},
    "docs/sinks/sql.md": {"orders": {"sql": 3}},
    "docs/state.md": {"orders": {"files": 2}},
    "docs/wal.md": {"hooks": {"files": 3}},
    "docs/windows.md": {"orders": {}},  # nothing comes behind the first minute
}
"""Rows that the code of each page writes, by checkpoint and sink. That of a Kafka output is built alone: to run it takes
transactions, and the tests of services have those."""


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


def test_there_are_examples_to_run() -> None:
    """Else the test above could pass by running nothing."""
    for name in ("docs/testing.md", "docs/storage_format.md"):
        assert doctest.DocTestParser().get_examples((ROOT / name).read_text(encoding="utf-8")), name


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


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


def test_every_page_is_found_from_the_readme() -> None:
    found, new = set(), {ROOT / "README.md"}
    while new:
        found |= new
        links = {
            (page.parent / link.partition("#")[0]).resolve() for page in new for link in _LINK.findall(prose(page))
        }
        new = {page for page in links if page.suffix == ".md" and page.exists()} - found
    assert set(DOCUMENTS) - found <= {ROOT / "docs" / "adr" / "0000-template.md"}


def paragraphs(name: str) -> list[list[str]]:
    """Lines of prose that belong together; tables and headings are none."""
    lines = [re.sub(r"^\s*(?:[-*>]|\d+\.) ", "\0", line).strip() for line in prose(ROOT / name).splitlines()]
    found: list[list[str]] = [[]]
    for line in lines:
        if not line or line.startswith(("|", "#", "<", "\0")):
            found.append([])
        if line and not line.startswith(("|", "#", "<")):
            found[-1].append(line.removeprefix("\0"))
    return [lines for lines in found if lines]


@pytest.mark.parametrize("name", [name for name in NAMES if "docs/adr/0" not in name and name != "CHANGELOG.md"])
def test_prose_has_one_sentence_a_line(name: str) -> None:
    """So that an edit is a readable diff."""
    several = [line for lines in paragraphs(name) for line in lines if re.search(r"[.!?][)*_`\"]* [A-Z]", line)]
    broken = [line for lines in paragraphs(name) for line in lines[:-1] if not re.search(r"[.!?:][)*_`\"]*$", line)]
    assert (several, broken) == ([], [])


def programs(name: str) -> list[str]:
    """Blocks of Python that are no dialogue."""
    blocks = _FENCED.findall((ROOT / name).read_text(encoding="utf-8"))
    return [code for language, code in blocks if language in ("python", "py") and not code.startswith(">>>")]


def test_every_page_with_a_pipeline_is_run_below() -> None:
    assert {name for name in NAMES if any("with ExactlyOnceStream" in code for code in programs(name))} == set(WRITTEN)


@pytest.mark.parametrize("name", [name for name in NAMES if programs(name)])
def test_every_block_of_python_is_python(name: str) -> None:
    for code in programs(name):
        compile(code, name, "exec")


@pytest.mark.parametrize("name", WRITTEN)
def test_the_pipelines_of_a_page_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block after the other, as they stand there: but buckets are folders, and Kafka is in memory."""
    orders = [{"id": number, "amount": 0.5, "day": "2026-01-31", "updated_at": "12:00"} for number in range(3)]
    values = [json.dumps({**order, "paid": order["id"] != 1}).encode() for order in orders]
    cluster = MemoryKafka({"orders": 1})
    cluster.append(Record("orders", value=value, timestamp_ms=0, timestamp_type=1) for value in values)
    if name == "docs/rejected_records.md":
        cluster.append([Record("orders", value=b"not JSON")])
    with closing(sqlite3.connect(tmp_path / "orders.db")) as database:
        of_sql = ", paid boolean, day text, updated_at text" if name == "docs/sinks/sql.md" else ""
        database.execute(f"create table orders (id integer primary key, amount real{of_sql})")
        database.execute("create table stored (stream_id text primary key, batch_id integer)")
    monkeypatch.setenv("ORDERS_URL", f"sqlite:///{tmp_path / 'orders.db'}")
    monkeypatch.setenv("KAFKA_PASSWORD", "secret")
    if name in ("docs/sinks/kafka.md", "docs/continuous.md"):
        monkeypatch.setattr(ExactlyOnceStream, "__exit__", lambda *_: None)

    namespace = {"__name__": "page"}
    with cluster.serving():
        for code in programs(name):
            here = code.replace("s3://", f"{tmp_path}/").replace("/data/", f"{tmp_path}/")
            exec(compile(here, name, "exec"), namespace)

    written = {}
    for checkpoint in (tmp_path / "checkpoints").glob("[!.]*"):
        batches = read_status(open_object_store(str(checkpoint))).recent
        written[checkpoint.name] = dict(sum((Counter(batch.rows_written) for batch in batches), Counter()))
    assert written == WRITTEN[name]
    if of_sql or name == "docs/sinks/for_each_batch.md":
        with closing(sqlite3.connect(tmp_path / "orders.db")) as database:
            assert database.execute("select id, amount from orders order by id").fetchall() == [
                (n, 0.5) for n in range(3)
            ]


def commands(name: str) -> list[list[str]]:
    """What a page tells to type."""
    blocks = [code for language, code in _FENCED.findall((ROOT / name).read_text(encoding="utf-8")) if language == "sh"]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(part) for line in lines for part in line.split(" && ") if part.startswith("beam-exactly-once ")]


@pytest.mark.parametrize("name", [name for name in NAMES if commands(name)])
def test_every_command_is_understood(name: str) -> None:
    for _, command, *words in commands(name):
        if command == "run":
            target, *flags = words
            module = importlib.import_module(f"beam_exactly_once.pipelines.{target.replace('-', '_')}")
            module.PIPELINE.parser().parse(flags)
        else:
            made = CliRunner().invoke(main, [command, *words, "--help"])
            assert made.exit_code == 0, made.output
            main.commands[command].make_context(command, list(words)).close()


def test_every_file_that_is_told_to_run_ends_by_running() -> None:
    files = [*DOCUMENTS, *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    told = {path for file in files for path in _RUN.findall(file.read_text(encoding="utf-8"))}
    assert told
    last = {path: ast.unparse(ast.parse((ROOT / path).read_bytes()).body[-1]) for path in told}
    assert {path for path, code in last.items() if not code.startswith("if __name__ == '__main__'")} == set()


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
