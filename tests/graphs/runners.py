"""The ways in which a graph can be run: options of a pipeline, and where its workers are."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from apache_beam.options.pipeline_options import PipelineOptions

from services.streams.flink_streams import shared_options


@dataclass(frozen=True)
class Runner:
    """One way to run a graph.

    Attributes:
        options: Beam's.
        shares_memory: workers live in this process, so that they see a Kafka and stores that are in memory.
    """

    options: tuple[str, ...] = ()
    shares_memory: bool = True

    @contextlib.contextmanager
    def pipeline_options(self) -> Iterator[PipelineOptions]:
        """Inside the block, workers that are started find the modules that this process finds."""
        with contextlib.ExitStack() as kept:
            if not self.shares_memory:
                kept.callback(_restore, os.environ.get("PYTHONPATH"))
                os.environ["PYTHONPATH"] = import_path()
            yield PipelineOptions(list(self.options))


RUNNERS: dict[str, Runner] = {
    "in_process": Runner(),
    "two_workers": Runner(("--direct_num_workers=2",)),
    "threads": Runner(("--direct_running_mode=multi_threading", "--direct_num_workers=2")),
    "one_thread": Runner(("--direct_running_mode=multi_threading", "--direct_num_workers=1")),
    "processes": Runner(("--direct_running_mode=multi_processing", "--direct_num_workers=2"), shares_memory=False),
    "one_process": Runner(("--direct_running_mode=multi_processing", "--direct_num_workers=1"), shares_memory=False),
}
"""By name, those of Beam's runner that is part of its Python SDK."""


def import_path() -> str:
    """With which another Python finds the modules that this one finds."""
    return os.pathsep.join(path for path in sys.path if path)


def prism(location: str | None = None) -> Runner:
    """Beam's runner in Go, with workers in this process."""
    return Runner(("--runner=PrismRunner", f"--prism_location={location or os.environ['PRISM_LOCATION']}"))


def flink(options: Sequence[str] | None = None) -> Runner:
    """A cluster of Flink, with workers in this process."""
    return Runner(tuple(options or shared_options(os.environ["FLINK_MASTER"], os.environ["FLINK_JOB_ENDPOINT"])))


def _restore(value: str | None) -> None:
    if value is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = value
