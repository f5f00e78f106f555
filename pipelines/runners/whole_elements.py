"""Workers of FnApiRunner that never cut an element, and stay as long as they are needed.

A stream of data that is flushed by time is flushed while a coder writes into it: that cuts the element, or drops what comes
between the flush and its end. Beam's default for workers in threads is each second.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.transforms.environments import EmbeddedPythonGrpcEnvironment

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.pipelines.runners.kept_steps import forget_cached_state, keep_steps

_TIME_LIMIT = "data_buffer_time_limit_ms"
_NEVER = -1
"""Of a worker's environment. A 0 there means Beam's default."""


class WholeElementWorkers(worker_handlers.WorkerHandlerManager):
    """Beam's; what goes to them and comes from them is flushed by size, and at the end of each bundle."""

    def __init__(self, environments: Mapping[str, beam_runner_api_pb2.Environment], provision_info: Any) -> None:
        super().__init__({name: _never_flushing(one) for name, one in environments.items()}, provision_info)

    def get_worker_handlers(self, environment_id: str | None, num_workers: int) -> list[Any]:
        """So many workers of an environment; those that are missing are started."""
        handlers: list[Any] = super().get_worker_handlers(environment_id, num_workers)
        for handler in handlers:
            handler.data_conn._data_buffer_time_limit_ms = 0
            if isinstance(handler, worker_handlers.EmbeddedWorkerHandler):
                keep_steps(handler)
        return handlers

    def forget_state(self) -> None:
        """Be as before the first run: side inputs and state of one run are not those of the next one."""
        self.state_servicer.__init__()  # workers have this very one
        for handler in itertools.chain.from_iterable(self._cached_handlers.values()):
            if isinstance(handler, worker_handlers.EmbeddedWorkerHandler):
                forget_cached_state(handler)


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
