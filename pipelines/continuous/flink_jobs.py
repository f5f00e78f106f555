"""The jobs of a stream that is one unbounded pipeline on a Flink cluster: their names, the end of each, and that none is left."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Container

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import RunnerUnavailable
from beam_exactly_once.pipelines.runners.flink_rest import FlinkJob, RestUnreachable, ask, live_jobs
from beam_exactly_once.pipelines.runners.job_ends import WaitingForEnd
from beam_exactly_once.randomness import new_token

POLL_S = 0.1
"""How often Flink is asked for the state of a job."""
END_TIMEOUT_S = 30.0
"""How long jobs may take to end that are cancelled."""

_LOGGER = logging.getLogger(__name__)


class StreamJobs:
    """Those of one stream on one cluster, as its driver knows them that has claimed a writer epoch.

    Each job has a name of its own: the stream's id, the epoch that was claimed for it, and a nonce. So a driver knows what is
    left of submissions before its own, whoever made them, and touches no other job.

    Args:
        url: of the cluster's REST interface.
        stream_id: of the stream.
        writer_epoch: of this submission.
        prefix: what the name begins with, for people; empty for nothing.
    """

    def __init__(
        self, url: str, stream_id: str, writer_epoch: int, prefix: str = "", clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._url = url
        self._epoch = writer_epoch
        self._clock = clock
        self._epoch_in = re.compile(rf"(?:.*-)?{re.escape(stream_id)}-continuous-(\d+)-[^-]+")
        self.name = "-".join(filter(None, (prefix, stream_id, "continuous", str(writer_epoch), new_token())))
        """Of this submission's job."""

    def end_older(self) -> None:
        """Cancel what is left of older submissions, and wait until it has ended: it holds slots.

        Raises:
            RunnerUnavailable: it does not end, or Flink does not answer.
        """
        self._end(range(self._epoch))

    def end_this(self) -> None:
        """The same for this submission's job."""
        self._end((self._epoch,))

    def _end(self, epochs: Container[int]) -> None:
        until_s, asked, never = self._clock.monotonic_s() + END_TIMEOUT_S, set[str](), threading.Event()
        while True:
            try:
                left = {name: job_id for name, job_id in self._live().items() if self._epoch_of(name) in epochs}
                if not left:
                    return
                said = f"Flink's job {min(left)} was cancelled, and did not end"
                for name in left.keys() - asked:
                    _LOGGER.info("cancelling Flink's job %s", name)
                    asked.add(name)
                    ask(f"{self._url}/jobs/{left[name]}?mode=cancel", "PATCH")
            except RestUnreachable as error:
                said = f"Flink did not answer at {self._url} ({error})"
            if self._clock.monotonic_s() > until_s:
                raise RunnerUnavailable(
                    f"{said} in {END_TIMEOUT_S:g} s. What may run on there is fenced by the next start."
                )
            self._clock.wait(never, POLL_S)

    def _live(self) -> dict[str, str]:
        return live_jobs(ask(f"{self._url}/jobs/overview"))

    def _epoch_of(self, name: str) -> int | None:
        found = self._epoch_in.fullmatch(name)
        return None if found is None else int(found[1])

    def end_of_this(self, waiting: WaitingForEnd) -> FlinkJobEnd:
        """How this submission's job ends; ``waiting`` is what the job server tells of it."""
        return FlinkJobEnd(FlinkJob(self._url, self.name), waiting, self._clock)


class FlinkJobEnd:
    """Watches a job in a thread of its own, until it has ended or the watching is closed.

    Flink itself tells. While Flink does not answer, nothing is concluded: the job may be healthy. The job server tells only what
    never came to be a job of Flink's; when it is lost, the job goes on.
    """

    def __init__(self, job: FlinkJob, waiting: WaitingForEnd, clock: Clock) -> None:
        self.ended = threading.Event()
        self.error: BaseException | None = None
        """What the job ended with; None if it ended well."""
        self._job = job
        self._waiting = waiting
        self._clock = clock
        self._closed = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="end of a job of Flink", daemon=True)
        self._watching.start()

    def close(self) -> None:
        """Watch no more."""
        self._closed.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._clock.wait(self._closed, POLL_S):
            told = self._waiting.ended.is_set()  # before Flink is asked: what Flink says since then is newer
            try:
                if self._job.has_ended_well():
                    break
                is_of_flink = self._job.is_known
            except RestUnreachable:
                is_of_flink = self._job.is_known
            except RuntimeError as error:
                self.error = error
                break
            if told and not is_of_flink:
                self.error = self._waiting.error
                break
        else:
            return
        self.ended.set()
