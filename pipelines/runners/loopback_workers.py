"""Workers of a portable runner in the driver's process, which leave nothing behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.portable_runner import PortableRunner
from apache_beam.runners.worker import sdk_worker


class EndingHarness(sdk_worker.SdkHarness):
    """Beam's worker, which also ends whole where the runner breaks its connection off.

    Beam's own then leaves two threads, and its DoFns without their teardown: with all that they have open.
    """

    def run(self) -> None:
        """Work until the runner says or shows that there is no more."""
        with contextlib.ExitStack() as ending:  # each, also where one fails; a second time does no harm
            ending.callback(self._bundle_processor_cache.shutdown)
            ending.callback(self._state_handler_factory.close)
            ending.callback(self._data_channel_factory.close)
            ending.callback(self._worker_thread_pool.shutdown)
            super().run()


@contextlib.contextmanager
def loopback_workers(
    runner: PortableRunner, proto: beam_runner_api_pb2.Pipeline, options: PipelineOptions
) -> Iterator[None]:
    """Workers in this process, where the graph asks for them, that live as long as the stream.

    Beam would start others for every run, and keep a folder and an exit handler of each until the process ends.
    """
    with contextlib.ExitStack() as ending:
        harness = sdk_worker.SdkHarness
        ending.callback(setattr, sdk_worker, "SdkHarness", harness)
        sdk_worker.SdkHarness = EndingHarness  # Beam makes one for each run, by this name
        stops: list[Callable[[], object]] = runner.start_and_replace_loopback_environments(proto, options)
        for stop in stops:
            ending.callback(stop)
        yield
