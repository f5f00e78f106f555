"""Workers of a portable runner in the driver's process, which leave nothing behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions, PortableOptions
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_fn_api_pb2, beam_runner_api_pb2
from apache_beam.runners.worker import sdk_worker, sdk_worker_main, worker_pool_main
from apache_beam.transforms.environments import ExternalEnvironment
from apache_beam.utils import proto_utils


@contextlib.contextmanager
def loopback_workers(
    proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions
) -> Iterator[Callable[[float], None]]:
    """Workers in this process, where the graph asks for them, that live as long as the stream. Yields what waits until those
    have ended whose jobs have, for so many seconds at most.

    Beam would start others for every run, and keep a folder and an exit handler of each until the process ends.
    """
    threads: list[threading.Thread] = []

    def wait_ended(timeout_s: float) -> None:
        while threads:
            threads.pop().join(timeout_s)

    with contextlib.ExitStack() as ending:
        for environment in proto.components.environments.values():
            if environment.urn == python_urns.EMBEDDED_PYTHON_LOOPBACK:
                pool: Any = type(_Pool.__name__, (_Pool,), {"threads": threads})
                address, server = pool.start(
                    use_process=options.view_as(DebugOptions).lookup_experiment("use_loopback_process_worker", False),
                    state_cache_size=sdk_worker_main._get_state_cache_size_bytes(options=options),
                    data_buffer_time_limit_ms=0,
                )
                ending.callback(server.stop, 1)
                external = PortableOptions(environment_type="EXTERNAL", environment_config=address)
                started = ExternalEnvironment.from_options(external).to_runner_api(None)
                environment.urn, environment.payload = started.urn, started.payload
        yield wait_ended


class _Pool(worker_pool_main.BeamFnExternalWorkerPoolServicer):
    """Beam's pool, whose workers in threads end whole."""

    threads: list[threading.Thread]
    """In which workers run, or have run."""

    def StartWorker(self, request: beam_fn_api_pb2.StartWorkerRequest, context: Any) -> Any:
        """Start a worker in a thread of this process, or as Beam does in a process of its own."""
        if self._use_process:
            return super().StartWorker(request, context)
        worker = _EndingHarness(
            request.control_endpoint.url,
            worker_id=request.worker_id,
            state_cache_size=self._state_cache_size,
            data_buffer_time_limit_ms=self._data_buffer_time_limit_ms,
        )
        self._worker_threads[request.worker_id] = worker
        thread = threading.Thread(name=f"run_worker_{request.worker_id}", target=worker.run, daemon=True)
        self.threads[:] = [*filter(threading.Thread.is_alive, self.threads), thread]
        thread.start()
        return beam_fn_api_pb2.StartWorkerResponse()


class _EndingHarness(sdk_worker.SdkHarness):
    """Beam's worker, which also ends whole where the runner breaks its connection off, and keeps bundles with state whole.

    Beam's own then leaves two threads, and its DoFns without their teardown: with all that they have open.
    """

    def _request_process_bundle_split(self, request: beam_fn_api_pb2.InstructionRequest) -> None:
        """Of a bundle with state give nothing back. Prism asks slow bundles for a part, and has then lost elements of such
        steps."""
        try:
            processor = self._bundle_processor_cache.lookup(request.process_bundle_split.instruction_id)
        except RuntimeError:  # it has failed
            processor = None
        if processor is None or not _has_state(processor.process_bundle_descriptor):
            super()._request_process_bundle_split(request)
            return
        whole = beam_fn_api_pb2.InstructionResponse(
            instruction_id=request.instruction_id,
            process_bundle_split=beam_fn_api_pb2.ProcessBundleSplitResponse(),
        )
        self._execute(lambda: whole, request)

    def run(self) -> None:
        """Work until the runner says or shows that there is no more."""
        with contextlib.ExitStack() as ending:  # each, also where one fails; a second time does no harm
            ending.callback(self._bundle_processor_cache.shutdown)
            ending.callback(self._state_handler_factory.close)
            ending.callback(self._data_channel_factory.close)
            ending.callback(self._worker_thread_pool.shutdown)
            super().run()


def _has_state(bundle: beam_fn_api_pb2.ProcessBundleDescriptor) -> bool:
    for transform in bundle.transforms.values():
        if transform.spec.urn == common_urns.primitives.PAR_DO.urn:
            step = proto_utils.parse_Bytes(transform.spec.payload, beam_runner_api_pb2.ParDoPayload)
            if step.state_specs or step.timer_family_specs:
                return True
    return False
