"""What Flink's answers say of a job."""

from __future__ import annotations

from typing import Any

import pytest

from beam_exactly_once.pipelines.runners.flink_rest import RestUnreachable, failure_of, job_named

RAISED = (
    "java.lang.RuntimeException: Error received from SDK harness for instruction 4: Traceback (most recent call last):\n"
    "  File \"steps.py\", line 7, in price\nKeyError: 'price' [while running 'Price']\n"
    "\tat org.apache.beam.runners.fnexecution.control.FnApiControlClient.handle(FnApiControlClient.java:1)\n"
)
LOST = (
    "org.apache.flink.runtime.io.network.netty.exception.RemoteTransportException: Connection closed by 127.0.0.1:1.\n"
    "\tat org.apache.flink.runtime.Some.java(Some.java:1)\n"
    "Caused by: java.io.IOException: Broken pipe\n\t... 7 more\n"
)


def entry(stack: str, *beside: str) -> dict[str, Any]:
    return {"stacktrace": stack, "concurrentExceptions": [{"stacktrace": one} for one in beside]}


def test_a_job_has_its_whole_name() -> None:
    jobs = [{"jid": "1", "name": "orders-17"}, {"jid": "2", "name": "orders-1"}, {"jid": "3", "name": "orders-1-b"}]
    assert job_named("orders-1", {"jobs": jobs}) == "2"
    assert job_named("orders", {"jobs": jobs}) is None
    assert job_named("orders", {"jobs": []}) is None


@pytest.mark.parametrize("answer", [None, [], {}, "moved", {"jobs": [{"id": "1"}]}])
def test_an_answer_that_is_not_flinks(answer: Any) -> None:
    with pytest.raises(RestUnreachable, match="not that of Flink"):
        job_named("orders", answer)


@pytest.mark.parametrize(
    "exceptions",
    [
        {"root-exception": RAISED},
        {"root-exception": RAISED, "exceptionHistory": {"entries": [entry(RAISED)]}},
        {"root-exception": LOST, "exceptionHistory": {"entries": [entry(LOST, RAISED)]}},
        {"root-exception": LOST, "exceptionHistory": {"entries": [entry(LOST), entry(RAISED)]}},
    ],
)
def test_what_a_worker_raised_goes_before_what_that_brought_about(exceptions: Any) -> None:
    assert failure_of(exceptions) == RAISED


@pytest.mark.parametrize(
    "exceptions",
    [
        {"root-exception": LOST, "exceptionHistory": {"entries": []}},
        {"root-exception": None, "exceptionHistory": {"entries": [entry(LOST)]}},
    ],
)
def test_a_lost_part_is_told_without_javas_stack(exceptions: Any) -> None:
    failure = failure_of(exceptions)
    assert failure.startswith(
        "org.apache.flink.runtime.io.network.netty.exception.RemoteTransportException: Connection closed"
    )
    assert failure.endswith("Caused by: java.io.IOException: Broken pipe")
    assert "\n" not in failure
    assert "Some.java" not in failure


@pytest.mark.parametrize("exceptions", [None, {}, {"root-exception": None, "exceptionHistory": None}])
def test_a_failure_without_a_cause(exceptions: Any) -> None:
    assert failure_of(exceptions) == "Flink says that the job failed, and not why"
