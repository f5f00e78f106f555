"""Makes docs/runners.md from the tests that carry the mark ``runs_on``.

    python tests/runners_page.py > docs/runners.md

The mark says on what a test runs a stream: ``@pytest.mark.runs_on("PrismRunner", trigger="AvailableNow", storage="S3")``;
on a class, a module or a parameter it means all below. What was tested is the test's name. CAPABILITIES says, in plain
words, what a user may conclude from it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNNERS = {
    "DirectRunner": "Beam's default: FnApiRunner, in the driver's process",
    "FnApiRunner": "the same, asked for by name",
    "PrismRunner": "a program beside the driver, workers in the driver's process",
    "FlinkRunner [local]": "Flink inside the job server, workers in the driver's process",
    "FlinkRunner cluster": "a job manager, two task managers, a pool of workers each; or workers in the driver's process",
}
TRIGGERS = ("AvailableNow", "ProcessingTime", "Continuous")
NO_TRIGGER = "none"
"""Of an ordinary pipeline, which is no stream."""

COLUMNS = {
    "DirectRunner": ("DirectRunner", "FnApiRunner"),
    "Prism": ("PrismRunner",),
    "Flink, local": ("FlinkRunner [local]",),
    "Flink, cluster": ("FlinkRunner cluster",),
}
"""Of the table that people read: names of FnApiRunner are one runner."""

HEAD = """# Runners

What is tested on which runner.
The tests themselves make this page, by `python tests/runners_page.py`; `tox` fails while it says anything else.

*Yes* means that tests prove it, by value; a dash, that no test does.
On Prism, event times before 1970 may be treated as late.
"""

NOTES = """
- DirectRunner is Beam's default, in the driver's process.
  FnApiRunner is the same, asked for by name.
- Prism is a program beside the driver, with workers in the driver's process.
- Flink, local, is a Flink inside the job server, with workers in the driver's process.
- Flink, cluster, is a job manager and two task managers, with a pool of workers each, or with workers in the driver's process.

## Know before you choose

- **Event times before 1970, on Prism.**
  Records have the start of 1970 as their timestamp, so a step should not give them an earlier one.
- **One watermark for a step, on Prism.**
  It is what the bundle said that ended last, whatever element it was of; Prism 2.77 was read and tried.
  The reads of this library say the least of all their partitions there.
  A splittable DoFn of your own that tells a watermark should do so, too.
- **Steps that wait for each other, on DirectRunner.**
  A step on `a` with `b` as its side input, and a step on `b` with `a`, may wait for each other.
  The stream refuses that before its first batch.
  Put `beam.Reshuffle()` right before one of the two, on that branch alone.
- **`key in side` of an `AsMultiMap`, on DirectRunner.**
  It never returns, in any pipeline: Python then counts 0, 1, 2 …, and each is an empty value.
  `side[key]` is right.

[The guarantees](guarantees.md#what-a-runner-may-lose) say what a runner may lose, and what happens then.

## How it is tested

Tests under `tests/services` need the real thing and run with `tox -e services`.
All others run with `tox` alone, on a Kafka in memory or librdkafka's mock broker.

Random graphs run on all of them but Flink, local, by value against plain Python, as many as one likes:
`python tests/graphs/run.py --graphs 1000 --seed 1 --runner in_process`.

A stream from a real Kafka to S3, whose parts are killed, frozen and doubled under steady input, is checked by value:
`python tests/services/run.py kafka s3 prism -- python tests/soak/run.py --runner prism --minutes 10 --seed 1`.
With `--runner flink` it starts a cluster of its own, and needs `kafka s3` alone.
"""


@dataclass(frozen=True)
class Capability:
    """A row of the table that people read.

    Attributes:
        group: the heading above it.
        words: what works.
        where: a regular expression for ``file: what [trigger] [storage]`` of the tests that prove it.
        notes: what a column says instead of a dash.
    """

    group: str
    words: str
    where: str
    notes: Mapping[str, str] = field(default_factory=dict)


RUNNING, GRAPH, READING, WRITING, FAULTS, STORES = (
    "Running",
    "Your steps",
    "Reading Kafka",
    "Writing",
    "When something dies",
    "Stores of checkpoint and output",
)
ON_RUNNERS = "test_sinks_on_runners: "
CAPABILITIES = (
    Capability(RUNNING, "`trigger=AvailableNow()`", r"\[AvailableNow\]"),
    Capability(RUNNING, "`trigger=ProcessingTime(…)`", r"\[ProcessingTime\]"),
    Capability(RUNNING, "`trigger=Continuous(…)`", r"test_continuous_(on_prism|killed|on_flink): "),
    Capability(
        RUNNING,
        "ready-made pipelines",
        r"/test_kafka_to_|/test_(word_count|windowed_counts): |ready made pipeline",
    ),
    Capability(
        RUNNING,
        "packages that only the workers have",
        r"a package that only the workers have",
        {"DirectRunner": "no workers apart"},
    ),
    Capability(
        RUNNING,
        "many batches in one process, memory flat",
        r"test_long_runs: |batches keep memory flat|batches share one job server",
    ),
    Capability(RUNNING, "several streams, other kinds of workers", r"test_known_runners: "),
    Capability(RUNNING, "a line in the log for each batch", r"test_log_lines: "),
    Capability(
        RUNNING,
        "an exception of a step: one line with step, batch and offsets",
        r"test_failed_steps: |names (batch )?step and offsets",
    ),
    Capability(RUNNING, "SIGTERM lets the batch end", r"test_stopping: |sigterm|a signal lets the batch end"),
    Capability(
        RUNNING,
        "a wrong argument or place is one clear error",
        r"test_bad_input: |test_arguments: |test_values_stay_unseen: |test_store_config|refused",
    ),
    Capability(
        GRAPH,
        "totals that go on from batch to batch: `StatefulCombinePerKey`",
        r"test_state_on_(runners|stores): sums|test_stateful: .*(combine fn|a total|batches of arrow)",
    ),
    Capability(GRAPH, "other state by key: `UpdateStateByKey`, `DeduplicateByKey`", r"test_stateful: "),
    Capability(
        GRAPH,
        "sessions and timeouts: `MapGroupsWithState`",
        r"test_(map_groups|clock_ahead): |test_(state_on_runners|continuous_state): timeouts",
    ),
    Capability(
        GRAPH,
        "state that is dropped, carried along or looked at",
        r"test_state_lifecycle: |test_state_commands: |test_state_on_runners: .* dropped and carried along",
    ),
    Capability(
        GRAPH,
        "shuffles, joins, side inputs, branches: random graphs",
        r"random graphs|test_stream_graphs: |test_known_graphs: ",
    ),
    Capability(
        GRAPH,
        "event time: watermarks, windows, what came too late",
        r"test_event_time: |test_windows|test_joins|test_draining: |sums windows joins",
    ),
    Capability(GRAPH, "timers within one batch", r"timers|a known graph|random graphs|bundle with state"),
    Capability(GRAPH, "a step is set up once a stream, and sees nothing of the batch before", r"test_kept_steps: "),
    Capability(
        GRAPH,
        "functions that are given rows in lists, with rows, errors and counters as one by one",
        r"test_rows_in_lists: ",
    ),
    Capability(GRAPH, "windows by event time within one batch", r"event time|windows within|windows by|a known graph"),
    Capability(GRAPH, "a start publishes without running your steps", r"test_known_graphs: .*start|a known graph"),
    Capability(
        GRAPH,
        "a failing step shows your error, and the batch runs again",
        r"shows the users error|names step and offsets and|failing side branch|error of user code|test_incomplete_batches: ",
    ),
    Capability(READING, "ranges are split while they are read", r"range is split|long range|split takes|dofn defers"),
    Capability(
        READING,
        "aborted transactions, compacted topics",
        r"test_real_kafka: |long range|test_flink_(local|cluster): the ready made pipeline",
    ),
    Capability(READING, "limits of a batch", r"test_batch_bytes: "),
    Capability(READING, "data loss", r"test_retention: |records deleted|data loss|stops where records are lost"),
    Capability(
        READING, "topics that come, go, grow or are recreated", r"test_topic_changes: |test_topics_of_a_stream: "
    ),
    Capability(
        READING,
        "brokers that die, and changes of leaders",
        r"test_kafka_cluster: |test_write_kafka_outages: |no broker",
    ),
    Capability(READING, "TLS, logins, access rules", r"test_kafka_security: "),
    Capability(READING, "the time that records happened, and a watermark: `EventTime`", r"test_event_time: "),
    Capability(
        READING,
        "an unbounded read in an ordinary pipeline, also of a write-ahead log",
        r"test_unbounded_read: ",
        {"DirectRunner": "refused"},
    ),
    Capability(READING, "`continue_from=` another checkpoint", r"test_continue_from: "),
    Capability(
        WRITING,
        "`WriteToFiles`",
        r"test_kafka_to_files: |test_stream_graphs: |test_prism: |test_flink_(local|cluster): ",
    ),
    Capability(WRITING, "`WriteToDelta`", rf"test_delta|test_kafka_to_delta: |{ON_RUNNERS}three sinks"),
    Capability(
        WRITING,
        "`WriteToSql`",
        r"test_write_sql: |test_sql_keys: |test_real_sql|test_sql_proof: |test_forked_sql: |test_kafka_to_sql: |inserter|"
        "random graphs|"
        rf"{ON_RUNNERS}three sinks",
    ),
    Capability(WRITING, "`WriteToKafka`", rf"test_write_kafka(_\w+)?: |copier|{ON_RUNNERS}three sinks"),
    Capability(
        WRITING, "`WriteToSql(direct=True)`", rf"test_direct_sql: |{ON_RUNNERS}a table that is written directly"
    ),
    Capability(
        WRITING,
        "`WriteToKafka(direct=True)`",
        rf"test_write_kafka_direct: |{ON_RUNNERS}a topic that is written directly",
    ),
    Capability(WRITING, "`ForEachBatch`", r"test_for_each_batch: |random graphs"),
    Capability(WRITING, '`on_error="reject"`', r"reject|random graphs"),
    Capability(WRITING, "several sinks in one stream", r"test_mixed_sinks: |two sinks|three sinks|random graphs"),
    Capability(WRITING, "receipts, by shard", r"test_sinks_with_receipts: |test_write_kafka_receipts: "),
    Capability(
        FAULTS, "a driver that is killed, and started again", r"kill(?!ed driver ends|ed in a batch)|test_crashes: "
    ),
    Capability(
        FAULTS,
        "a driver that freezes, and wakes beside a newer one",
        r"frozen|wakes|two drivers|test_zombies: |test_take_over: ",
    ),
    Capability(
        FAULTS,
        "the job of a killed driver ends, or does no harm",
        r"does no harm|the job server of a killed driver ends",
        {"DirectRunner": "no such job"},
    ),
    Capability(
        FAULTS,
        "a worker, task manager, job server or Prism is lost, and the driver goes on",
        r"is lost in a batch",
        {"DirectRunner": "no such part"},
    ),
    Capability(
        FAULTS,
        "`batch_timeout_s` ends a batch that hangs",
        r"a worker that never comes",
        {"DirectRunner": "no such limit"},
    ),
    Capability(
        FAULTS,
        "a database, topic or table that refuses after the commit",
        r"test_refusals: |test_(real_)?refused_rows: |after the commit",
    ),
    Capability(STORES, "local disk", r"\[local disk\]"),
    Capability(STORES, "memory", r"\[memory\]"),
    Capability(STORES, "S3, on MinIO or moto", r"\[S3"),
    Capability(STORES, "GCS, on fake-gcs-server", r"GCS\]"),
    Capability(STORES, "stores that fail, are overloaded or refuse", r"/stores/(test_store_|test_iam)"),
)


@dataclass(frozen=True)
class Proof:
    """One test, with all its parameters, on one runner, trigger and store."""

    runner: str
    trigger: str
    storage: str
    what: str
    file: str


@dataclass
class Collected:
    """A pytest plugin that keeps what the marked tests prove."""

    cases: set[Proof] = field(default_factory=set)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Called by pytest when all tests are known."""
        for item in session.items:
            self.cases.update(proofs(item))


def proofs(item: pytest.Item) -> Iterator[Proof]:
    """What a test proves; the closest mark says it."""
    mark = item.get_closest_marker("runs_on")
    if mark is None:
        return
    said = {"trigger": "AvailableNow", "storage": "local disk", **mark.kwargs}
    (runner,) = mark.args
    if runner not in RUNNERS or said["trigger"] not in (*TRIGGERS, NO_TRIGGER):
        raise pytest.UsageError(f"{item.nodeid}: unknown runner or trigger in {mark}")
    name = item.originalname if isinstance(item, pytest.Function) else item.name
    what = name.removeprefix("test_").replace("_", " ")
    yield Proof(runner, said["trigger"], said["storage"], what, item.path.relative_to(ROOT).as_posix())


def page(cases: set[Proof]) -> str:
    """The document; it counts nothing, so that it changes only when something else is proved."""
    lines = [HEAD, *capabilities(cases), NOTES]
    lines += [f"| runner | {' | '.join(TRIGGERS)} | checkpoint and output on |", "|---" * (len(TRIGGERS) + 2) + "|"]
    for runner in RUNNERS:
        mine = {proof for proof in cases if proof.runner == runner}
        used = {proof.trigger for proof in mine}
        storages = "; ".join(sorted({proof.storage for proof in mine}))
        lines.append(f"| {runner} | {' | '.join('yes' if one in used else '—' for one in TRIGGERS)} | {storages} |")
    lines += ["", "## Every test"]
    for runner, meaning in RUNNERS.items():
        lines += ["", "<details>", f"<summary>{runner}: {meaning}</summary>", ""]
        lines += table(sorted((proof for proof in cases if proof.runner == runner), key=str))
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def capabilities(cases: Iterable[Proof]) -> Iterator[str]:
    """What works where, in plain words.

    Raises:
        ValueError: a test is in no row.
    """
    texts = {proof: f"{proof.file.removesuffix('.py')}: {proof.what}" for proof in cases}
    unnamed = [text for text in texts.values() if not any(re.search(one.where, text) for one in CAPABILITIES)]
    if unnamed:
        raise ValueError(f"let a row of CAPABILITIES in tests/runners_page.py say what is shown by {sorted(unnamed)}")
    yield f"| | {' | '.join(COLUMNS)} |"
    yield "|---" * (len(COLUMNS) + 1) + "|"
    group = ""
    for one in CAPABILITIES:
        if one.group != group:
            group = one.group
            yield f"| **{group}** |{' |' * len(COLUMNS)}"
        runners = {
            proof.runner
            for proof, text in texts.items()
            if re.search(one.where, f"{text} [{proof.trigger}] [{proof.storage}]")
        }
        cells = [one.notes.get(name, "—") if runners.isdisjoint(of) else "yes" for name, of in COLUMNS.items()]
        yield f"| {one.words} | {' | '.join(cells)} |"


def table(rows: Iterable[Proof]) -> Iterator[str]:
    """One line a test."""
    yield "| what | trigger | storage | where |"
    yield "|---|---|---|---|"
    for proof in rows:
        where = f"[{Path(proof.file).name}](../{proof.file})"
        yield f"| {proof.what} | {proof.trigger} | {proof.storage} | {where} |"


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
