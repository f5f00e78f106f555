"""State and event time in one unbounded pipeline: by value, with other triggers in between, and parts of it killed."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import AvailableNow, BatchProgress, Continuous, ProcessingTime
from beam_exactly_once.kafka import EmbeddedBroker, produce
from services.streams.numbers_in_time import expected, killed_at_its_first_commit, newest, of_keys, run
from services.streams.topics import TIMEOUT_S
from support.lives import in_a_process

# Of a job that failed, Prism forgets the worker before the worker's streams have ended: Beam's threads say so.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.runs_on("PrismRunner", trigger="Continuous"),
]


def send(broker: EmbeddedBroker, numbers: range) -> None:
    for _ in produce(broker.bootstrap_servers, "orders", 2, (b"%d" % number for number in numbers)):
        pass


def test_sums_windows_joins_and_slides_go_on_over_triggers_and_kills(prism_location: str, tmp_path: Path) -> None:
    options = PipelineOptions(["--runner=PrismRunner", f"--prism_location={prism_location}"])
    batches: list[int] = []
    killed: list[psutil.Process] = []

    def kill_prism(progress: BatchProgress) -> None:
        batches.append(progress.batch_id)
        if progress.batch_id == 0:
            killed.extend(one for one in psutil.Process().children(recursive=True) if one.name() == "prism")
            killed[-1].kill()

    with EmbeddedBroker({"orders": 2}) as broker:
        source = (broker.bootstrap_servers, "orders")
        send(broker, range(60))
        run(source, tmp_path, options, windows=True, trigger=Continuous(0), max_batches=2, listeners=kill_prism)
        assert batches == [0, 1]
        assert len(list((tmp_path / "checkpoint" / "writers").glob("[!.]*.json"))) == 2
        assert psutil.wait_procs(killed, TIMEOUT_S)[1] == []

        send(broker, range(60, 90))
        run(source, tmp_path, options, windows=True, trigger=ProcessingTime(0), max_batches=1)
        send(broker, range(90, 140))
        with in_a_process(killed_at_its_first_commit, prism_location, source, tmp_path) as driver:
            assert driver.wait() == -signal.SIGKILL

        run(source, tmp_path, options, windows=True, trigger=AvailableNow(drain=True))
    output = tmp_path / "output"
    assert newest("sums", output) == {key: sum(numbers) for key, numbers in of_keys(range(140)).items()}
    for what, found in expected(140).items():
        assert newest(what, output) == found


def test_timeouts_fire_though_nothing_comes(prism_location: str, tmp_path: Path) -> None:
    options = PipelineOptions(["--runner=PrismRunner", f"--prism_location={prism_location}"])
    with EmbeddedBroker({"orders": 2}) as broker:
        send(broker, range(20))
        source = (broker.bootstrap_servers, "orders")
        run(source, tmp_path, options, sessions=True, trigger=Continuous(0.1), max_batches=2)
    assert newest("sessions", tmp_path / "output") == of_keys(range(20))
