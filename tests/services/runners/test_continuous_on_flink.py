"""One unbounded pipeline on a Flink cluster, with state: its job is renewed, is taken away, and outlives its driver; by value
nothing is lost, and no job is left."""

from __future__ import annotations

import os
import signal
import urllib.request
from pathlib import Path

import orjson
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import AvailableNow, BatchProgress, Continuous
from beam_exactly_once.kafka import EmbeddedBroker, produce
from beam_exactly_once.pipelines.runners.flink_rest import ask, live_jobs
from services.streams.numbers_in_time import killed_behind_its_first_batch, newest, of_keys, run
from support.lives import in_a_process

# Of a job that is cancelled, Flink breaks the worker's streams off: Beam's threads say so.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.runs_on("FlinkRunner cluster", trigger="Continuous"),
]


def jobs_of(folder: Path) -> dict[str, str]:
    """Those of this stream that have not ended."""
    claim = next((folder / "checkpoint" / "writers").glob("[!.]*.json"))
    stream_id = orjson.loads(claim.read_bytes())["stream_id"]
    live = live_jobs(ask(f"http://{os.environ['FLINK_MASTER']}/jobs/overview"))
    return {name: job_id for name, job_id in live.items() if name.startswith(f"{stream_id}-continuous-")}


def test_a_job_is_renewed_and_taken_away_and_outlives_its_driver(
    tmp_path: Path, shared_flink: list[str], flink_options: list[str]
) -> None:
    batches: list[int] = []

    def cancel(progress: BatchProgress) -> None:
        batches.append(progress.batch_id)
        if len(batches) == 3:
            (job_id,) = jobs_of(tmp_path).values()
            cancelled = f"http://{os.environ['FLINK_MASTER']}/jobs/{job_id}?mode=cancel"
            urllib.request.urlopen(urllib.request.Request(cancelled, method="PATCH")).close()

    with EmbeddedBroker({"orders": 2}) as broker:
        source = (broker.bootstrap_servers, "orders")
        for _ in produce(broker.bootstrap_servers, "orders", 2, (b"%d" % number for number in range(900))):
            pass
        with_pools = [*flink_options, f"--job_endpoint={os.environ['FLINK_JOB_ENDPOINT']}"]
        with in_a_process(killed_behind_its_first_batch, with_pools, source, tmp_path) as driver:
            assert driver.wait() == -signal.SIGKILL
        assert len(jobs_of(tmp_path)) == 1

        options = PipelineOptions(shared_flink)
        trigger = Continuous(0, max_batches_of_job=2)
        run(source, tmp_path, options, trigger=trigger, max_batches=4, listeners=cancel)
        assert jobs_of(tmp_path) == {}
        run(source, tmp_path, PipelineOptions(), trigger=AvailableNow())

    assert batches == list(range(batches[0], batches[0] + len(batches)))
    # One that the job of the killed driver had planned is replayed, and is none of the four.
    assert len(batches) in (4, 5)
    assert newest("sums", tmp_path / "output") == {key: sum(numbers) for key, numbers in of_keys(range(900)).items()}
