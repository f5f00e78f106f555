"""What Flink's REST interface says of a job: whether it has ended, and what of.

Beam's job server learns of an end up to two seconds later.
"""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

TIMEOUT_S = 5.0
OF_A_WORKER = "Traceback (most recent call last)"
"""What a failure has in its text if Python code of a worker raised it."""
_FAILED, _CANCELED = "FAILED", "CANCELED"
_ENDED = (_FAILED, _CANCELED, "FINISHED")


class RestUnreachable(Exception):
    """Flink does not answer there, or another server does."""


class FlinkJob:
    """One job of a cluster, by the name that it alone has.

    Args:
        url: of the cluster's REST interface.
        name: of the job.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._job_id: str | None = None

    def has_ended_well(self) -> bool:
        """Whether it is over. False while it runs, or has not come yet.

        Raises:
            RuntimeError: it failed, was cancelled, or is gone. With the traceback of a worker, if code of the pipeline raised.
            RestUnreachable: nobody says how it is.
        """
        if self._job_id is None:
            self._job_id = job_named(self._name, ask(f"{self._url}/jobs/overview"))
            if self._job_id is None:
                return False
        found = ask(f"{self._url}/jobs/{self._job_id}/status")
        state = None if found is None else _of(found, "status")
        if state == _FAILED:
            raise RuntimeError(failure_of(ask(f"{self._url}/jobs/{self._job_id}/exceptions")))
        if state in (None, _CANCELED, "SUSPENDED"):
            raise RuntimeError(f"Flink's job {self._name} {'is gone' if state is None else f'was {state}'}")
        return bool(state == "FINISHED")

    @property
    def is_known(self) -> bool:
        """Whether Flink has ever said that there is such a job."""
        return self._job_id is not None


def ask(url: str, method: str = "GET") -> Any:
    """The answer; None if there is no such thing.

    Raises:
        RestUnreachable: there is no answer.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=TIMEOUT_S) as answer:
            return orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.NOT_FOUND:
            return None
        raise RestUnreachable(str(error)) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise RestUnreachable(f"{type(error).__name__}: {error}") from error


def job_named(name: str, overview: Any) -> str | None:
    """The id of the job with exactly this name, in an answer of ``/jobs/overview``."""
    jobs = _of(overview, "jobs")
    return next((str(_of(job, "jid")) for job in jobs if _of(job, "name") == name), None)


def live_jobs(overview: Any) -> dict[str, str]:
    """The ids of all jobs that have not ended, by their names, in an answer of ``/jobs/overview``."""
    return {
        str(_of(job, "name")): str(_of(job, "jid")) for job in _of(overview, "jobs") if _of(job, "state") not in _ENDED
    }


def failure_of(exceptions: Any) -> str:
    """Why a job failed, from an answer of ``/jobs/<id>/exceptions``.

    A worker that raises makes others fail, which may be told first: so it is the one with a worker's traceback, if any has
    one, as it is; else the first one, without Java's stack.
    """
    stacks = list(_stacks(exceptions))
    raised = next((stack for stack in stacks if OF_A_WORKER in stack), None)
    if raised is not None or not stacks:
        return raised or "Flink says that the job failed, and not why"
    lines = (line.strip() for line in stacks[0].splitlines() if not line.startswith(("\t", "  ")))
    return " ".join(filter(None, lines))


def _stacks(exceptions: Any) -> Iterator[str]:
    if not isinstance(exceptions, Mapping):
        return
    history = exceptions.get("exceptionHistory") or {}
    for entry in history.get("entries") or ():
        for one in (entry, *(entry.get("concurrentExceptions") or ())):
            if one.get("stacktrace"):
                yield str(one["stacktrace"])
    if exceptions.get("root-exception"):
        yield str(exceptions["root-exception"])


def _of(answer: Any, field: str) -> Any:
    try:
        return answer[field]
    except (KeyError, TypeError) as error:
        raise RestUnreachable(f"the answer is not that of Flink: it has no {field!r}") from error
