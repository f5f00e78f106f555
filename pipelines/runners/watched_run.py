"""One run on a portable runner, watched: ended when it takes too long, and its failures told apart.

Flink waits for ever for a worker that its pool has started and that never comes. And what a runner lost (a task manager,
a worker, the job server) is not a fault of the pipeline: starting again helps.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import grpc
from apache_beam.runners.portability.portable_runner import PipelineResult as PortableResult
from apache_beam.runners.runner import PipelineResult

from beam_exactly_once.errors import Retryable, RunnerUnavailable
from beam_exactly_once.pipelines.runners.flink_rest import OF_A_WORKER

_NO_BUFFERS = "Insufficient number of network buffers"


@contextlib.contextmanager
def watched_run(timeout_s: float | None) -> Iterator[Callable[[PipelineResult], None]]:
    """Yields what to give the result to as soon as the job runs. A job that is left in any other way is cancelled.

    Raises:
        Retryable: the run took longer than ``timeout_s``.
        RunnerUnavailable: it failed by no code of the pipeline.
    """
    with contextlib.ExitStack() as timers:
        watched: list[PortableResult] = []
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            _cancel(watched[0])

        def watch(result: PipelineResult) -> None:
            if isinstance(result, PortableResult):
                watched.append(result)
                if timeout_s is not None:
                    timer = threading.Timer(timeout_s, give_up)
                    timer.daemon = True
                    timer.start()
                    timers.callback(timer.cancel)

        try:
            yield watch
        except BaseException as error:
            for result in watched:
                _cancel(result)
            if timed_out.is_set():
                raise Retryable(  # the next one may well take as long
                    f"the runner did not end a batch in batch_timeout_s={timeout_s:g} s, and it was cancelled. Either "
                    "a worker never came (is apache_beam installed for the `python` of every worker pool, and can it "
                    "reach its task manager?), or the batch needs longer."
                ) from error
            lost = lost_runner(error) if watched or isinstance(error, grpc.RpcError) else None
            if lost is not None:
                raise lost from error
            raise


def lost_runner(error: BaseException) -> RunnerUnavailable | None:
    """What a job ended with, if that was no code of the pipeline."""
    if isinstance(error, grpc.RpcError):
        return RunnerUnavailable(f"the job server was lost while it ran a batch: {_said(error)}")
    if isinstance(error, RuntimeError) and OF_A_WORKER not in str(error):
        return RunnerUnavailable(f"the runner, and no code of the pipeline, failed: {error}{_way_out(str(error))}")
    return None


def _said(error: grpc.RpcError) -> str:
    """What a call ended with, in one line; as a text it has several."""
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)


def _way_out(failure: str) -> str:
    """Where starting again does not help."""
    if _NO_BUFFERS in failure:
        return (
            " Set taskmanager.network.sort-shuffle.min-buffers: 64 in the Flink configuration: a batch with many exchanges "
            "between steps takes as many times 512 buffers without it."
        )
    return ""


def _cancel(result: PortableResult) -> None:
    """If it still runs; who cannot be reached cannot be asked."""
    with contextlib.suppress(Exception):
        result.cancel()
