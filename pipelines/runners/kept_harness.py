"""A worker behind gRPC that keeps what its steps have set up from bundle to bundle, and calls them in one thread.

Run as a module it is the program of a worker in a process of its own. It ends with its driver, whose end closes standard input.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from apache_beam.runners.worker import sdk_worker, sdk_worker_main

from beam_exactly_once.kafka.kept_clients import keeping_clients
from beam_exactly_once.pipelines.runners.kept_steps import keep_steps
from beam_exactly_once.pipelines.runners.one_thread import OneThread


class KeptHarness(sdk_worker.SdkHarness):
    """Beam's worker; it is given one bundle after the other, never two at a time."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        keep_steps(self._bundle_processor_cache, self._state_cache)
        self._worker_thread_pool = _BundleThread(self._bundle_processor_cache)


class _BundleThread(OneThread):
    """Takes the place of Beam's pool of threads. At its end it tears down what it has set up."""

    _workers = ()
    """Beam counts them for its log."""

    def __init__(self, steps: Any) -> None:
        super().__init__("bundles")
        self._steps = steps

    def shutdown(self) -> None:
        """Wait for the bundle that runs, and tear down all steps."""
        self.submit(self._steps.shutdown).result()
        self.end()


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


def main() -> None:
    """Be a worker, as the environment says."""
    threading.Thread(target=_end_with_input, daemon=True).start()
    setattr(sdk_worker_main, "SdkHarness", KeptHarness)  # noqa: B010 (mypy knows a class there)
    with keeping_clients(readers_only=True):
        sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    main()
