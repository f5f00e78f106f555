"""Who tells that a job of Flink has ended: Flink, or else the job server."""

from __future__ import annotations

import http.server
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from apache_beam.metrics.execution import MetricKey, MetricResult
from apache_beam.metrics.metric import MetricResults
from apache_beam.metrics.metricbase import MetricName
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.runners.runner import PipelineResult, PipelineState

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.pipelines.runners.job_ends import JobEnds, rest_address
from beam_exactly_once.pipelines.runners.stream_metrics import StreamMetrics
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.commit_counts import CommitCounts
from support.hand_made_stream import HandClock

JOB = "stream-7-nonce"
TASK = BatchTask("stream", Attempt(1, 7, "nonce"), None, None, {})
COUNTED = CommitCounts(records_read={"kafka": 3}, committed=1)
WAIT_S = 120.0


class Flink(http.server.ThreadingHTTPServer):
    """Says what it is told to say, by path; all else is not there."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.says: dict[str, Any] = {"/jobs/overview": {"jobs": []}}
        self.asked: set[str] = set()

    def has(self, state: str | None) -> None:
        """The job, in that state; None: it is gone."""
        self.says["/jobs/overview"] = {"jobs": [{"jid": "1", "name": JOB}, {"jid": "2", "name": f"{JOB}-2"}]}
        self.says["/jobs/1/status"] = None if state is None else {"status": state}


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Flink)
        self.server.asked.add(self.path)
        answer = self.server.says.get(self.path)
        self.send_response(404 if answer is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *values: Any) -> None:
        pass


@pytest.fixture
def flink() -> Iterator[Flink]:
    with Flink() as flink:
        threading.Thread(target=flink.serve_forever, args=(0.01,), daemon=True).start()
        yield flink
        flink.shutdown()


class JobServer(PipelineResult, MetricResults):
    """A job as the job server sees it: it ends when it is told to."""

    def __init__(self) -> None:
        super().__init__(PipelineState.RUNNING)
        self.told = threading.Event()
        self.failure: Exception | None = None

    def wait_until_finish(self, duration: int | None = None) -> str:
        assert self.told.wait(WAIT_S)
        if self.failure is not None:
            raise self.failure
        return str(PipelineState.DONE)

    def metrics(self) -> JobServer:
        assert self.told.is_set(), "it has not counted yet"
        return self

    def query(self, filter: Any = None) -> Mapping[str, Any]:
        names = [
            ("beam_exactly_once", "records_read.kafka", 3),
            ("beam_exactly_once", "committed", 1),
            ("my", "seen", 5),
        ]
        return {MetricResults.COUNTERS: [MetricResult(MetricKey("step", MetricName(*n)), v, None) for *n, v in names]}


@pytest.fixture
def job() -> Iterator[JobServer]:
    job = JobServer()
    yield job
    job.told.set()


def seen(metrics: StreamMetrics) -> list[int]:
    return [one.result for one in metrics.query()[MetricResults.COUNTERS]]


def test_flink_tells_first_and_the_users_metrics_come_later(flink: Flink, job: JobServer) -> None:
    flink.has("FINISHED")
    metrics = StreamMetrics()
    ends = JobEnds(flink.address, PipelineOptions([]), metrics)
    with ends.all_counted():
        assert ends.name_next(TASK)(job) == CommitCounts()
        assert seen(metrics) == []
        job.told.set()
    assert seen(metrics) == [5]


def test_a_job_that_has_not_come_yet_is_looked_for_again(flink: Flink, job: JobServer) -> None:
    class Comes(threading.Thread):
        def run(self) -> None:
            while "/jobs/overview" not in flink.asked:
                threading.Event().wait(0.01)
            flink.has("RUNNING")
            while "/jobs/1/status" not in flink.asked:
                threading.Event().wait(0.01)
            flink.has("FINISHED")

    coming = Comes(daemon=True)
    coming.start()
    ends = JobEnds(flink.address, PipelineOptions([]), StreamMetrics())
    assert ends.name_next(TASK)(job) == CommitCounts()
    coming.join(WAIT_S)


@pytest.mark.parametrize(
    ("state", "says"), [("CANCELED", "was CANCELED"), ("SUSPENDED", "was SUSPENDED"), (None, "is gone")]
)
def test_a_job_that_was_ended_or_is_gone(flink: Flink, job: JobServer, state: str | None, says: str) -> None:
    flink.has(state)
    with pytest.raises(RuntimeError, match=f"{JOB} {says}"):
        JobEnds(flink.address, PipelineOptions([]), StreamMetrics()).name_next(TASK)(job)


def test_a_job_that_failed_and_whose_metrics_do_not_count(flink: Flink, job: JobServer) -> None:
    flink.has("FAILED")
    flink.says["/jobs/1/exceptions"] = {"root-exception": "Traceback (most recent call last):\n  boom"}
    job.failure = RuntimeError("told later")
    metrics = StreamMetrics()
    ends = JobEnds(flink.address, PipelineOptions([]), metrics)
    threading.Timer(0.2, job.told.set).start()
    with pytest.raises(RuntimeError, match="boom"), ends.all_counted():
        ends.name_next(TASK)(job)
    assert job.told.is_set()
    assert seen(metrics) == []


def test_what_the_job_server_tells_first_holds(flink: Flink, job: JobServer) -> None:
    """As a job that it cannot translate, and that never comes to Flink."""
    job.failure = RuntimeError("no such step")
    job.told.set()
    with pytest.raises(RuntimeError, match="no such step"):
        JobEnds(flink.address, PipelineOptions([]), StreamMetrics()).name_next(TASK)(job)


@pytest.mark.parametrize("answer", [["no", "Flink"], None])
def test_a_server_that_is_not_flink_leaves_it_to_the_job_server_and_the_log_says_so_once(
    flink: Flink, job: JobServer, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    flink.says["/jobs/overview"] = answer
    ends = JobEnds(flink.address, PipelineOptions([]), StreamMetrics())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            until_end = ends.name_next(TASK)
            threading.Timer(0.2, job.told.set).start()
            assert until_end(job) == COUNTED
    (line,) = caplog.messages
    assert f"--flink_master={flink.address}" in line


def test_flink_that_answers_again_says_that_the_job_is_gone(flink: Flink, job: JobServer) -> None:
    """As a job manager that was killed and came back without its jobs, of which the job server hears after a minute."""

    class WhileItWaits(HandClock):
        def wait(self, event: threading.Event, timeout_s: float) -> bool:
            if self.seconds > 1:
                flink.says["/jobs/1/status"] = ["no", "Flink"]
            if self.seconds > 10:
                flink.has(None)
            return super().wait(event, timeout_s)

    flink.has("RUNNING")
    ends = JobEnds(flink.address, PipelineOptions([]), StreamMetrics(), WhileItWaits())
    with pytest.raises(RuntimeError, match=f"{JOB} is gone"):
        ends.name_next(TASK)(job)


def test_where_there_is_no_rest_the_job_server_tells(job: JobServer) -> None:
    job.told.set()
    assert JobEnds(None, PipelineOptions([]), StreamMetrics()).name_next(TASK)(job) == COUNTED


def test_a_name_that_the_user_gave_goes_on_as_the_batch(flink: Flink) -> None:
    options = PipelineOptions(["--job_name=orders"])
    ends = JobEnds(flink.address, options, StreamMetrics())
    for nonce in ("a", "b"):
        ends.name_next(BatchTask("stream", Attempt(1, 8, nonce), None, None, {}))
        assert options.view_as(GoogleCloudOptions).job_name == f"orders-8-{nonce}"


@pytest.mark.parametrize(
    ("runner", "flags", "address"),
    [
        (FlinkRunner(), ["--flink_master=flink:8081"], "http://flink:8081"),
        (FlinkRunner(), ["--flink_master=https://flink/"], "https://flink"),
        (FlinkRunner(), ["--flink_master=[local]"], None),
        (FlinkRunner(), ["--job_endpoint=flink:8099"], None),
        (PrismRunner(), ["--flink_master=flink:8081"], None),
    ],
)
def test_where_flink_can_be_asked(runner: Any, flags: list[str], address: str | None) -> None:
    assert rest_address(runner, PipelineOptions(flags)) == address
