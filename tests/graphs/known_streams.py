"""A stream of numbers that is started again and again, and what each of its sinks published, batch by batch."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import apache_beam as beam
from apache_beam.runners.runner import PipelineRunner

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToFiles, read_batches
from beam_exactly_once.testing.published_rows import published_rows
from graphs.clusters import Cluster, cluster
from graphs.runners import RUNNERS, Runner
from graphs.steps import number, row

TOPICS = ("numbers", "more")
Build = Callable[["beam.PCollection[int]", "NumberStream"], None]


class NumberStream:
    """Numbers of one topic, through a graph, to sinks of files.

    Args:
        kafka: holds the topic, and serves it.
        topic: its name.
        runner: how to run the graph.
        place: URI below which its checkpoint and its output are.
    """

    def __init__(self, kafka: Cluster, topic: str, runner: Runner, place: str) -> None:
        self._kafka = kafka
        self._topic = topic
        self._runner = runner
        self._place = place

    def another(self) -> NumberStream:
        """A stream of other numbers, beside this one."""
        return NumberStream(self._kafka, TOPICS[1], self._runner, f"{self._place}/another")

    def send(self, numbers: Iterable[int]) -> None:
        self._kafka.send(self._topic, 0, [b"%d" % one for one in numbers])

    def start(
        self,
        build: Build,
        *,
        a_batch: int | None = None,
        runner: PipelineRunner | None = None,
        allow_per_batch: bool = False,
    ) -> None:
        """Run the graph on all numbers that are new, so many a batch.

        Args:
            build: applies steps and sinks to the numbers.
            a_batch: most numbers in a batch.
            runner: instance, instead of the one of the options.
            allow_per_batch: as of the stream.
        """
        with (
            self._runner.pipeline_options() as options,
            ExactlyOnceStream(
                f"{self._place}/checkpoint", options=options, runner=runner, allow_per_batch=allow_per_batch
            ) as stream,
        ):
            source = ReadFromKafka(self._kafka.bootstrap_servers, [self._topic], max_batch_offsets=a_batch)
            build(stream | source | "Number" >> beam.Map(number), self)

    def write(self, numbers: beam.PCollection[int], name: str = "rows") -> None:
        """Apply a sink."""
        rows = numbers | f"Row-{name}" >> beam.Map(row)
        _ = rows | f"Write-{name}" >> WriteToFiles(f"{self._place}/{name}", format="json", name=name)

    def published(self, name: str = "rows") -> list[list[int]]:
        """What a sink has of each batch, in order of the numbers."""
        output = f"{self._place}/{name}"
        return [sorted(one["v"] for one in published_rows(output, batch)) for batch in read_batches(output)]


@contextlib.contextmanager
def number_stream(runner: str | Runner = "in_process", folder: Path | None = None) -> Iterator[NumberStream]:
    """A new stream.

    Args:
        runner: how to run it, or the name of one of :data:`~graphs.runners.RUNNERS`.
        folder: where checkpoint and output are; else they are in memory.
    """
    chosen = RUNNERS[runner] if isinstance(runner, str) else runner
    place = f"memory://{secrets.token_hex(8)}" if folder is None else str(folder)
    with cluster(dict.fromkeys(TOPICS, 1), shares_memory=chosen.shares_memory) as kafka, kafka.serving():
        yield NumberStream(kafka, TOPICS[0], chosen, place)
