"""A story lived by a stream, compared with the same graph in plain Python, batch by batch and by value."""

from __future__ import annotations

import secrets
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from beam_exactly_once import BatchProgress, ExactlyOnceStream, ProgressListener
from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.errors import UnsupportedPipeline
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.offsets import OffsetRange
from graphs.building import build
from graphs.clusters import Cluster, cluster
from graphs.ends import SINKS, SOURCES, found_in_calls, found_in_files, found_in_table, topic
from graphs.evaluation import evaluated, name_of
from graphs.kinds import Plain, Site
from graphs.model import Fault, Start, Story, Wrong
from graphs.runners import Runner
from graphs.steps import Tripped, sent

RIGHT, REFUSED = "right", "refused"


@dataclass(frozen=True)
class Outcome:
    """What became of a story.

    Attributes:
        kind: ``"right"``; ``"refused"``, of a graph whose steps wait for each other; else what is wrong, in a few words.
        text: the details.
        batches: how many were compared.
    """

    kind: str
    text: str = ""
    batches: int = 0

    @property
    def is_wrong(self) -> bool:
        return self.kind not in (RIGHT, REFUSED)


def outcome_of(story: Story, runner: Runner) -> Outcome:
    """Live a story, and judge."""
    try:
        return Outcome(RIGHT, batches=_live(story, runner))
    except UnsupportedPipeline as error:
        if "Reshuffle" in str(error):
            return Outcome(REFUSED, str(error))
        return Outcome("UnsupportedPipeline", str(error))
    except Wrong as error:
        return Outcome("wrong", str(error))
    except Exception as error:
        return Outcome(type(error).__name__, f"{type(error).__name__}: {error}")


def _live(story: Story, runner: Runner) -> int:
    topics = {topic(number): count for number, count in enumerate(story.partitions)}
    with (
        tempfile.TemporaryDirectory(prefix="graphs-") as folder,
        cluster(topics, shares_memory=runner.shares_memory) as kafka,
        kafka.serving(),
    ):
        place = f"memory://{secrets.token_hex(8)}" if runner.shares_memory else f"{folder}/stored"
        life = _Life(story, runner, kafka, Site(kafka.bootstrap_servers, place, folder, story.limit))
        for start in story.starts:
            life.start(start)
        return life.compare()


class _Life:
    """A stream of a graph, from start to start."""

    def __init__(self, story: Story, runner: Runner, kafka: Cluster, site: Site) -> None:
        self._story = story
        self._runner = runner
        self._kafka = kafka
        self._site = site
        self._log: dict[tuple[str, int], list[int]] = {
            (topic(number), partition): []
            for number, count in enumerate(story.partitions)
            for partition in range(count)
        }

    def start(self, start: Start) -> None:
        """Add records, and run the stream until all are read; once more if a fault came."""
        for (number, partition), values in start.records.items():
            self._kafka.send(topic(number), partition, [sent(value) for value in values])
            self._log[topic(number), partition] += values
        if start.fault is not None:
            try:
                with self._armed(start.fault) as listen:
                    self._run(listen)
            except Exception as error:
                if Tripped.__name__ not in str(error):
                    raise
            else:
                return
        self._run(lambda progress: None)

    @contextmanager
    def _armed(self, fault: Fault) -> Iterator[ProgressListener]:
        """The file that makes a node fail is there from the wanted batch on, at most until the end of the start."""
        file, left = Path(self._site.armed(name_of(fault.node))), fault.after_batches

        def listen(progress: BatchProgress) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                file.touch()

        if left == 0:
            file.touch()
        try:
            yield listen
        finally:
            file.unlink(missing_ok=True)

    def _run(self, listen: ProgressListener) -> None:
        with (
            self._runner.pipeline_options() as options,
            ExactlyOnceStream(
                f"{self._site.place}/checkpoint",
                options=options,
                listeners=[listen],
                allow_per_batch=True,
            ) as stream,
        ):
            build(self._story.graph, stream, self._site)

    def compare(self) -> int:
        """Every sink with the plain graph, batch by batch; returns how many batches.

        Raises:
            Wrong: they differ.
        """
        planned = self._planned()
        expected = [evaluated(self._story.graph, records) for records in planned]
        for number, node in enumerate(self._story.graph):
            if node.kind in SINKS:
                self._compare_sink(number, node.kind, [sinks[number] for sinks in expected])
        return len(planned)

    def _compare_sink(self, number: int, kind: str, expected: list[Plain]) -> None:
        name = name_of(number)
        if kind == "sql":
            _compare(
                f"{name}, all batches",
                [value for batch in expected for value in batch],
                found_in_table(self._site, name),
            )
            return
        found = (found_in_calls if kind == "each" else found_in_files)(self._site, name)
        if sorted(found) != list(range(len(expected))):
            raise Wrong(f"{name} has batches {sorted(found)} of {len(expected)}")
        for batch_id, rows in enumerate(expected):
            _compare(f"{name}, batch {batch_id}", rows, found[batch_id])

    def _planned(self) -> list[dict[int, Plain]]:
        """What each source read in each batch, by the stored plans; they cover every record of every source once."""
        checkpoint = Checkpoint.open_existing(open_object_store(f"{self._site.place}/checkpoint"))
        plans = [] if checkpoint is None else [checkpoint.read_plan(one) for one in checkpoint.plan_ids()]
        batches: list[dict[int, Plain]] = [{} for _ in plans]
        for number, node in enumerate(self._story.graph):
            if node.kind not in SOURCES:
                continue
            ranges = [plan.sources[name_of(number)].ranges if plan else () for plan in plans]
            for batch, of_batch in zip(batches, ranges, strict=True):
                batch[number] = [value for one in of_batch for value in self._records(one)]
            self._check_cover(node.number, [one for of_batch in ranges for one in of_batch])
        return batches

    def _records(self, planned: OffsetRange) -> Plain:
        return self._log[planned.topic, planned.partition][planned.start : planned.stop]

    def _check_cover(self, number: int, ranges: list[OffsetRange]) -> None:
        read = Counter((one.topic, one.partition, offset) for one in ranges for offset in range(one.start, one.stop))
        there = Counter(
            (name, partition, offset)
            for (name, partition), values in self._log.items()
            if name == topic(number)
            for offset in range(len(values))
        )
        if read != there:
            raise Wrong(f"plans read {read - there} too often and not {there - read}")


def _compare(what: str, expected: Plain, found: Plain) -> None:
    missing, surplus = Counter(expected) - Counter(found), Counter(found) - Counter(expected)
    if missing or surplus:
        raise Wrong(f"{what}: missing {sorted(missing.elements())}, surplus {sorted(surplus.elements())}")
