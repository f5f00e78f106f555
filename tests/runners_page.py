"""Makes docs/runners.md from the tests that carry the mark ``runs_on``.

    python tests/runners_page.py > docs/runners.md

The mark says on what a test runs a stream: ``@pytest.mark.runs_on("PrismRunner", trigger="AvailableNow", storage="S3")``;
on a class, a module or a parameter it means all below. What was tested is the test's name.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNNERS = {
    "DirectRunner": "Beam's default: FnApiRunner, in the driver's process",
    "FnApiRunner": "the same, asked for by name",
    "PrismRunner": "a program beside the driver, workers in the driver's process",
    "FlinkRunner [local]": "Flink inside the job server, workers in the driver's process",
    "FlinkRunner cluster": "a job manager, two task managers, a pool of workers each",
}
TRIGGERS = ("AvailableNow", "ProcessingTime")

HEAD = """# Runners

What is tested on which runner. This page is made from the tests themselves by `python tests/runners_page.py`; `tox` fails
while it says anything else than the tests. A number counts test cases, parameters included.

What runs under `tests/services` needs the real thing and runs by `tox -e services`; all else runs by `tox` alone, on a
Kafka in memory or librdkafka's mock broker.

Random graphs run on all of them, by value against plain Python, as many as one likes:
`python tests/graphs/run.py --graphs 1000 --seed 1 --runner in_process`.

Two things of Beam to know on DirectRunner:

- Two steps may wait for each other: a step on `a` with `b` as its side input, and a step on `b` with `a`. The stream
  refuses that before its first batch. Put `beam.Reshuffle()` right before one of the two, on that branch alone.
- `key in side` of an `AsMultiMap` never returns, in any pipeline: Python then counts 0, 1, 2 …, and each is an empty
  value. `side[key]` is right.
"""


@dataclass(frozen=True)
class Proof:
    """One test, with all its parameters, on one runner and trigger."""

    runner: str
    trigger: str
    storage: str
    what: str
    file: str


@dataclass
class Collected:
    """A pytest plugin that keeps the marked tests."""

    cases: dict[Proof, int] = field(default_factory=dict)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Called by pytest when all tests are known."""
        for item in session.items:
            for proof in proofs(item):
                self.cases[proof] = self.cases.get(proof, 0) + 1


def proofs(item: pytest.Item) -> Iterator[Proof]:
    """What a test proves; the closest mark says it."""
    mark = item.get_closest_marker("runs_on")
    if mark is None:
        return
    said = {"trigger": "AvailableNow", "storage": "local disk", **mark.kwargs}
    (runner,) = mark.args
    if runner not in RUNNERS or said["trigger"] not in TRIGGERS:
        raise pytest.UsageError(f"{item.nodeid}: unknown runner or trigger in {mark}")
    name = item.originalname if isinstance(item, pytest.Function) else item.name
    what = name.removeprefix("test_").replace("_", " ")
    yield Proof(runner, said["trigger"], said["storage"], what, item.path.relative_to(ROOT).as_posix())


def page(cases: dict[Proof, int]) -> str:
    """The document."""
    lines = [
        HEAD,
        f"| runner | {' | '.join(TRIGGERS)} | checkpoint and output on |",
        "|---" * (len(TRIGGERS) + 2) + "|",
    ]
    for runner in RUNNERS:
        mine = {proof: count for proof, count in cases.items() if proof.runner == runner}
        counts = [sum(count for proof, count in mine.items() if proof.trigger == trigger) for trigger in TRIGGERS]
        storages = ", ".join(sorted({proof.storage for proof in mine}))
        lines.append(f"| {runner} | {' | '.join(str(count or 'not tested') for count in counts)} | {storages} |")
    for runner, meaning in RUNNERS.items():
        lines += ["", f"## {runner}", "", f"{meaning[0].upper()}{meaning[1:]}.", ""]
        lines += table(sorted(((p, n) for p, n in cases.items() if p.runner == runner), key=lambda row: str(row)))
    return "\n".join(lines) + "\n"


def table(rows: Iterable[tuple[Proof, int]]) -> Iterator[str]:
    """One line a test."""
    yield "| what | trigger | storage | cases | where |"
    yield "|---|---|---|---|---|"
    for proof, count in rows:
        where = f"[{Path(proof.file).name}](../{proof.file})"
        yield f"| {proof.what} | {proof.trigger} | {proof.storage} | {count} | {where} |"


def main() -> int:
    collected = Collected()
    with contextlib.redirect_stdout(sys.stderr):
        code = pytest.main(["--collect-only", "-qq", str(ROOT / "tests")], plugins=[collected])
    if code:
        return int(code)
    sys.stdout.write(page(collected.cases))
    return 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
