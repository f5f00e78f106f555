"""A part of a continuous stream is killed, frozen or started twice: by value nothing is lost, and nothing comes twice."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import AvailableNow, BatchProgress, Continuous, ExactlyOnceStream, ReadFromKafka, WriteToFiles
from beam_exactly_once.errors import EXIT_FENCED
from beam_exactly_once.kafka import EmbeddedBroker, produce
from beam_exactly_once.pipelines.worker_pool.pool import running_worker_pool
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.streams.frozen_lives import to_files
from services.streams.to_files import values_in
from services.streams.topics import TIMEOUT_S, wait_until
from support.lives import in_a_process

# Of a job that failed, Prism forgets the worker before the worker's streams have ended: Beam's threads say so.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.runs_on("PrismRunner", trigger="Continuous"),
]


class Stream:
    """A topic to Parquet files."""

    def __init__(self, prism: str, folder: Path, broker: EmbeddedBroker) -> None:
        self.prism, self.folder, self.broker = prism, folder, broker
        self.progress: list[BatchProgress] = []
        self.sent = 0

    @property
    def flags(self) -> list[str]:
        return [
            f"--bootstrap-servers={self.broker.bootstrap_servers}",
            "--topics=orders",
            f"--output-location={self.folder}/output",
            f"--checkpoint-location={self.folder}/checkpoint",
            "--max-batch-offsets=20",
            "--trigger=continuous=0",
            "--runner=PrismRunner",
            f"--prism_location={self.prism}",
        ]

    def send(self, count: int) -> None:
        values = (b"%d" % number for number in range(self.sent, self.sent + count))
        for _ in produce(self.broker.bootstrap_servers, "orders", 2, values):
            pass
        self.sent += count

    def run(self, *flags: str, on_batch: Callable[[BatchProgress], None] = lambda _: None, **stream: Any) -> None:
        """In this process."""
        options = PipelineOptions([f"--prism_location={self.prism}", *flags])
        with ExactlyOnceStream(
            f"{self.folder}/checkpoint",
            runner="PrismRunner",
            options=options,
            listeners=[self.progress.append, on_batch],
            **stream,
        ) as pipeline:
            read = ReadFromKafka(self.broker.bootstrap_servers, ["orders"], as_arrow=True, max_batch_offsets=20)
            _ = pipeline | read | WriteToFiles(f"{self.folder}/output")

    def writers(self) -> int:
        return len(list((self.folder / "checkpoint" / "writers").glob("[!.]*.json")))

    def assert_exactly_once(self) -> None:
        assert values_in(f"{self.folder}/output") == Counter(b"%d" % number for number in range(self.sent))


@pytest.fixture
def stream(prism_location: str, tmp_path: Path) -> Iterator[Stream]:
    with EmbeddedBroker({"orders": 2}) as broker:
        yield Stream(prism_location, tmp_path, broker)


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def wait_ended(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, TIMEOUT_S)
    assert alive == []


def has(process: psutil.Process, mark: str) -> bool:
    """Whether the mark is in the environment; of a process of another test, which may just have ended, it is not."""
    try:
        return mark in process.environ().values()
    except psutil.Error:
        return False


def test_the_worker_is_killed(stream: Stream) -> None:
    stream.send(100)
    before = set(children())

    def kill(progress: BatchProgress) -> None:
        if progress.batch_id == 1:
            (worker,) = [one for one in children() if one not in pool and one.parent() in pool]
            worker.kill()

    with running_worker_pool("localhost", 0, []) as port:
        pool = set(children()) - before
        stream.run(
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{port}",
            trigger=Continuous(0),
            on_batch=kill,
            max_batches=5,
        )

    assert [batch.batch_id for batch in stream.progress] == [0, 1, 2, 3, 4]
    assert stream.writers() == 2
    stream.assert_exactly_once()


DIES_ONCE = """
import os, signal

def die_once():
    try:
        open({mark!r}, "x").close()
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

os.register_at_fork(after_in_child=die_once)
"""


def test_the_worker_is_killed_before_prism_knows_it(
    stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prism would wait a minute for it, and fail the job: then the stream would be claimed anew."""
    (tmp_path / "dies_once.py").write_text(DIES_ONCE.format(mark=str(tmp_path / "died")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    stream.send(40)

    with running_worker_pool("localhost", 0, ["dies_once"]) as port:
        stream.run(
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{port}",
            trigger=Continuous(0),
            max_batches=2,
        )

    assert (tmp_path / "died").exists()
    assert stream.writers() == 1
    stream.assert_exactly_once()


def test_the_driver_is_killed(stream: Stream) -> None:
    """And no Prism outlives it. Right behind a commit it is killed with state, by :mod:`test_continuous_state`; so is Prism."""
    stream.send(60)
    mark = secrets.token_hex(8)
    module = "beam_exactly_once.pipelines.kafka_to_files"
    command = [
        sys.executable,
        "-m",
        "beam_exactly_once.testing.crashing",
        "--kill_after",
        "put_if_absent:offsets/:2",
        module,
    ]
    killed = subprocess.run(
        [*command, *stream.flags], env={**os.environ, "MARK": mark}, check=False, stderr=subprocess.DEVNULL
    )
    assert killed.returncode == -signal.SIGKILL
    wait_ended([one for one in psutil.process_iter(["exe"]) if one.info["exe"] == stream.prism and has(one, mark)])

    stream.run(trigger=AvailableNow())

    stream.assert_exactly_once()


@pytest.mark.parametrize("moment", ["committed", "none"])
def test_a_second_driver_takes_over(stream: Stream, moment: str) -> None:
    """From one that is frozen right behind a commit, and from one that works."""
    stream.send(60)
    with in_a_process(to_files, stream.flags, moment) as first:
        if moment == "committed":
            assert first.wait_frozen()
        else:
            wait_until((stream.folder / "checkpoint" / "published" / f"{1:020d}.json").exists)
        claimed = StoreCalls(KillPoint("put_if_absent", "writers/", 1), lambda: stream.send(40))
        with watching(claimed):
            stream.run(trigger=Continuous(0), max_batches=1)
        if moment == "committed":
            first.thaw()
        assert first.wait() == EXIT_FENCED

    stream.run(trigger=AvailableNow())
    stream.assert_exactly_once()
