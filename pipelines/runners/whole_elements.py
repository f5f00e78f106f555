"""Workers of FnApiRunner that never cut an element, and stay as long as they are needed.

A stream of data that is flushed by time is flushed while a coder writes into it: that cuts the element, or drops what comes
between the flush and its end. Beam's default for workers in threads is each second.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any

from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.pipelines.runners.kept_steps import keep_steps
from beam_exactly_once.pipelines.runners.kept_workers import KeptWorker, in_kept_worker, missing_name, worker_lost
from beam_exactly_once.pipelines.runners.one_thread import HERE, OneThread

_LOGGER = logging.getLogger(__name__)

WATCH_S = 0.5
"""How often it is looked whether workers live while they run."""
END_TIMEOUT_S = 30.0
"""How long workers may take to tear down their steps."""
KILLED_TIMEOUT_S = 2.0
_OF_A_STEP = "Traceback (most recent call last)"
"""In what a worker says has failed. All else may have failed because a worker is gone."""

_TIME_LIMIT = "data_buffer_time_limit_ms"
_NEVER = -1
"""Of a worker's environment. A 0 there means Beam's default."""


class WholeElementWorkers(worker_handlers.WorkerHandlerManager):
    """Beam's; what goes to them and comes from them is flushed by size, and at the end of each bundle.

    Args:
        environments: of the graph.
        provision_info: what workers are told.
        num_workers: how many of each environment.
    """

    _clock: Clock = SYSTEM_CLOCK

    def __init__(
        self, environments: Mapping[str, beam_runner_api_pb2.Environment], provision_info: Any, num_workers: int
    ) -> None:
        super().__init__({name: _of_ours(one) for name, one in environments.items()}, provision_info)
        is_called_here = num_workers == 1 and all(
            one.urn == python_urns.EMBEDDED_PYTHON for one in environments.values()
        )
        self._threads = [HERE] if is_called_here else [OneThread(f"worker-{number}") for number in range(num_workers)]

    def get_worker_handlers(self, environment_id: str | None, num_workers: int) -> list[Any]:
        """So many workers of an environment; those that are missing are started.

        Raises:
            RunnerUnavailable: one ended before it could be given work.
        """
        handlers: list[Any] = super().get_worker_handlers(environment_id, num_workers)
        for handler in handlers:
            handler.data_conn._data_buffer_time_limit_ms = 0
            if isinstance(handler, worker_handlers.EmbeddedWorkerHandler):
                steps = handler.bundle_processor_cache
                keep_steps(steps, steps.state_handler_factory._state_handler._state_cache)
            elif isinstance(handler, KeptWorker):
                handler.wait_ready()
        return handlers

    def call(self, worker: int, function: Callable[[], Any]) -> Future[Any]:
        """Call a function that uses one worker, in the thread in which that one is always used."""
        return self._threads[worker].submit(function)

    def results(self, calls: Sequence[Future[Any]]) -> list[Any]:
        """What all calls return. Raises what the first one raises that fails, without waiting for the others.

        Raises:
            RunnerUnavailable: a worker is gone.
        """
        waiting = set(calls)
        while waiting:
            done, waiting = wait(waiting, WATCH_S, FIRST_EXCEPTION)
            for call in calls:
                error = call.exception() if call in done else None
                if error is not None:
                    self._check_behind(error)
                    raise error
            if waiting:
                self.check()
        return [call.result() for call in calls]

    def check(self) -> None:
        """Look whether all workers live.

        Raises:
            RunnerUnavailable: one is gone. What waits for any of them no longer does.
        """
        kept = [handler for _, handler in self._handlers() if isinstance(handler, KeptWorker)]
        for handler in kept:
            lost = handler.lost()
            if lost is not None:
                error = worker_lost(lost)
                for one in kept:
                    with contextlib.suppress(RuntimeError):  # somebody asks it something at this moment
                        one.control_conn.abort(error)
                handler.kill()
                raise error

    def forget_state(self) -> None:
        """Be as before the first run: side inputs and state of one run are not those of the next one."""
        self.state_servicer.__init__()  # workers have this very one

    def close_all(self, timeout_s: float = END_TIMEOUT_S) -> None:
        """End all workers. Processes that have not ended by then are killed; threads are left to themselves."""
        closing = {}
        for worker, handler in self._handlers():
            in_its_thread = isinstance(handler, worker_handlers.EmbeddedWorkerHandler)
            thread = self._threads[worker] if in_its_thread else OneThread(f"end-of-{handler.worker_id}")
            closing[thread.submit(handler.close)] = handler
            thread.end()
        for one in wait(closing, timeout_s).not_done:
            if isinstance(closing[one], KeptWorker):
                closing[one].kill()
        ended = wait(closing, KILLED_TIMEOUT_S)
        for one in ended.not_done:
            _LOGGER.warning("%s does not end, and is left to itself", closing[one])
        for one in ended.done:
            if one.exception() is not None:
                _LOGGER.error("a worker did not end as it should", exc_info=one.exception())
        for thread in self._threads:
            thread.end()
        self._cached_handlers.clear()
        super().close_all()

    def _handlers(self) -> Iterator[tuple[int, Any]]:
        """All workers, and which of its environment each is."""
        for of_environment in self._cached_handlers.values():
            yield from enumerate(of_environment)

    def _check_behind(self, error: BaseException) -> None:
        """A bundle has failed: because its worker is gone? Connections break a moment before one can see that."""
        self.check()
        if _OF_A_STEP not in str(error) and any(isinstance(handler, KeptWorker) for _, handler in self._handlers()):
            self._clock.wait(threading.Event(), WATCH_S)
            self.check()


def _of_ours(environment: beam_runner_api_pb2.Environment) -> beam_runner_api_pb2.Environment:
    never = _never_flushing(environment)
    return never if missing_name() else in_kept_worker(never)


def _never_flushing(environment: beam_runner_api_pb2.Environment) -> beam_runner_api_pb2.Environment:
    """The same for workers in threads. Those in processes have no limit of their own."""
    if environment.urn != python_urns.EMBEDDED_PYTHON_GRPC:
        return environment
    config = EmbeddedPythonGrpcEnvironment.parse_config(environment.payload.decode())
    never = beam_runner_api_pb2.Environment()
    never.CopyFrom(environment)
    never.payload = json.dumps({**config, _TIME_LIMIT: _NEVER}).encode()
    return never


def refuse_timed_flushes(options: PipelineOptions, environment: Any = None) -> None:
    """Refuse what makes workers cut elements.

    Raises:
        ConfigurationError: data is to be flushed by time.
    """
    experiments = options.view_as(DebugOptions).experiments or []
    if getattr(environment, _TIME_LIMIT, None) or any(name.startswith(_TIME_LIMIT) for name in experiments):
        raise ConfigurationError(
            f"{_TIME_LIMIT} makes Beam's workers send what they have at that time, and Beam 2.77 cuts elements when it does. "
            "Leave it out: workers send what they have by size, and at the end of each bundle."
        )
