"""``beam-exactly-once demo``: kill a pipeline again and again, then count what is lost and what is there twice.

The broker lives in this process; the pipeline is a process of its own, killed by SIGKILL and started again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import EmbeddedBroker, produce
from beam_exactly_once.lab.lives import Life, Tally, life, pipeline
from beam_exactly_once.randomness import Random

TOPIC = "orders"
MIN_PARTITIONS = 4
PARTITION_BYTES = 1 << 20
"""Far below the 5 MiB at which the embedded broker trims a partition."""
RECORD_BYTES = 24
"""Most bytes of one record, ``{"id": …}`` with its overhead in the log."""
BATCHES_A_RUN = 6
"""Batches that each life of the pipeline finds, so that every kill point is reached."""

PROTOCOL_POINTS = (
    ("between commit and publish", "put_if_absent:commits/:{n}"),
    ("after planning", "put_if_absent:offsets/:{n}"),
    ("after publishing a file", "publish::{n}"),
    ("while staging", "stage::{n}"),
    ("after the successor check", "get:writers/:{n}"),
)
"""Where to kill, in the order in which the demo tries them; ``n`` is drawn."""


@dataclass
class DemoResult:
    """What a demo found."""

    produced: int
    written: int = 0
    lost: int = 0
    duplicated: int = 0
    kills: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_exact(self) -> bool:
        """Whether every record was written exactly once."""
        return self.lost == 0 and self.duplicated == 0 and self.written == self.produced


def run_demo(
    records: int, kills: int, work_dir: Path, seed: int, console: Console, clock: Clock = SYSTEM_CLOCK
) -> DemoResult:
    """Produce, run and kill, run to the end, count.

    Args:
        records: how many to produce, with ids from 0.
        kills: how often to kill the pipeline.
        work_dir: gets ``output``, ``checkpoint`` and ``pipeline.log``; the first two must not be there.
        seed: of the kills.
        console: where to show progress.
        clock: times it.

    Raises:
        ConfigurationError: ``work_dir`` holds an older demo, or the pipeline itself failed.
    """
    for folder in ("output", "checkpoint"):
        if (work_dir / folder).exists():
            raise ConfigurationError(f"{work_dir / folder} is already there; give another --work-dir, or remove it.")
    work_dir.mkdir(parents=True, exist_ok=True)
    began_s = clock.monotonic_s()
    result = DemoResult(records)
    partitions = max(MIN_PARTITIONS, -(-records * RECORD_BYTES // PARTITION_BYTES))
    with EmbeddedBroker({TOPIC: partitions}) as broker, Progress(console=console, transient=True) as progress:
        producing = progress.add_task("produce", total=records)
        values = (orjson.dumps({"id": number}) for number in range(records))
        for count in produce(broker.bootstrap_servers, TOPIC, partitions, values):
            progress.update(producing, completed=count)
        running = progress.add_task("run and kill", total=kills + 1)
        flags = _flags(broker.bootstrap_servers, work_dir, max(1, records // (BATCHES_A_RUN * (kills + 1))))
        for what, kill_after, kill_after_s in _kills(kills, Random(seed)):
            if _run(flags, work_dir, kill_after, kill_after_s):
                result.kills.append(what)
            progress.advance(running)
        if _run(flags, work_dir):
            raise ConfigurationError("the pipeline was killed by somebody else.")
        progress.advance(running)
    _count(result, work_dir / "output")
    result.seconds = clock.monotonic_s() - began_s
    return result


def show(result: DemoResult, console: Console) -> None:
    """The result as a table."""
    kills = Table("kill", "moment", title="SIGKILL")
    for number, what in enumerate(result.kills, start=1):
        kills.add_row(str(number), what)
    console.print(kills)
    table = Table("produced", "written", "lost", "duplicated", "restarts", "seconds", title="Exactly once?")
    table.add_row(
        f"{result.produced:,}",
        f"{result.written:,}",
        f"[{'green' if result.lost == 0 else 'red'}]{result.lost:,}",
        f"[{'green' if result.duplicated == 0 else 'red'}]{result.duplicated:,}",
        str(len(result.kills)),
        f"{result.seconds:.1f}",
    )
    console.print(table)
    console.print()
    console.print(_verdict(result), soft_wrap=True)


def show_next_steps(work_dir: str | None, console: Console) -> None:
    """What to do next; ``work_dir`` is None if nothing is kept."""
    steps = [("Your own topics:", "beam-exactly-once run kafka-to-files --help")]
    if work_dir is None:
        steps.insert(0, ("Keep what it wrote:", "beam-exactly-once demo --work-dir demo"))
    else:
        checkpoint = Path(work_dir) / "checkpoint"
        steps.insert(0, ("Where it stands:", f"beam-exactly-once status {checkpoint}"))
        steps.insert(1, ("Check every file:", f"beam-exactly-once verify {checkpoint}"))
    console.print()
    for what, command in steps:
        console.print(f"[dim]{what:<20}[/]{escape(command)}", soft_wrap=True)


def _verdict(result: DemoResult) -> str:
    """One sentence."""
    times = "once" if len(result.kills) == 1 else f"{len(result.kills)} times"
    killed = f"although the pipeline was killed {times}" if result.kills else "without a kill"
    if result.is_exact:
        return f"[green]Each of {result.produced:,} records is in the files exactly once, {killed}.[/]"
    return (
        f"[red]Of {result.produced:,} records, {result.lost:,} are lost and {result.duplicated:,} are there twice.[/] That must "
        "never be: please report it, with the flags that you gave."
    )


def _kills(kills: int, random_: Random) -> Iterator[tuple[str, str | None, float | None]]:
    """Points of the protocol and random moments, in turn."""
    for number in range(kills):
        if number % 3 == 0:
            what, point = PROTOCOL_POINTS[number // 3 % len(PROTOCOL_POINTS)]
            nth = random_.randint(1, 3)
            yield f"{what} (of batch {nth} of this life)", point.format(n=nth), None
        elif number % 3 == 1:
            nth = random_.randint(1, 40)
            yield f"after store call {nth} of this life", f"any::{nth}", None
        else:
            seconds = random_.uniform(0.0, 1.0)
            yield f"{seconds:.2f} s after its first batch was planned", None, seconds


def _flags(bootstrap_servers: str, work_dir: Path, offsets_per_batch: int) -> list[str]:
    return [
        f"--bootstrap-servers={bootstrap_servers}",
        f"--topics={TOPIC}",
        f"--output-location={work_dir / 'output'}",
        f"--checkpoint-location={work_dir / 'checkpoint'}",
        f"--max-batch-offsets={offsets_per_batch}",
    ]


def _run(
    flags: Sequence[str], work_dir: Path, kill_after: str | None = None, kill_after_s: float | None = None
) -> bool:
    """One life of the pipeline; says whether it was killed."""
    kill = [] if kill_after is None else ["--kill_after", kill_after]
    planned_before = _planned(work_dir)
    with life(work_dir / "pipeline.log", pipeline, "kafka_to_files", flags, *kill) as started:
        if kill_after_s is not None:
            _kill_later(started, work_dir, planned_before, kill_after_s)
        return started.was_killed()


def _kill_later(started: Life, work_dir: Path, planned_before: int, after_s: float) -> None:
    """Kill a while after this life planned its first batch, unless it ends before."""
    tick = threading.Event()
    while not started.has_ended and _planned(work_dir) == planned_before:
        tick.wait(0.01)
    tick.wait(after_s)
    if not started.has_ended:
        started.kill()


def _planned(work_dir: Path) -> int:
    return sum(1 for _ in (work_dir / "checkpoint" / "offsets").glob("*.json"))


def _count(result: DemoResult, output: Path) -> None:
    """Compare by value what is visible with what was produced."""
    columns = (pq.read_table(file, columns=["value"])["value"] for file in output.rglob("*.parquet"))
    values = (value for column in columns for value in column.to_pylist())
    tally = Tally.of(result.produced, (orjson.loads(value)["id"] for value in values))
    result.written, result.lost, result.duplicated = tally.written, tally.lost, tally.repeated
