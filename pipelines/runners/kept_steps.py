"""The steps that a worker has set up, kept as long as the worker.

Beam has two threads for such steps that cost more than they give here. One tears down what was idle for a minute: behind the
back of who runs it, in a thread in which it was not set up. The other looks every few milliseconds in which step a bundle is,
for figures that nobody reads, and a bundle waits at its end until that one has looked once more: half of a small batch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from apache_beam.runners.worker import bundle_processor, sdk_worker, statecache, statesampler

from beam_exactly_once.pipelines.runners.fresh_side_inputs import FRESH_SIDE_INPUTS
from beam_exactly_once.transforms.batch_task import BatchTask

_LOGGER = logging.getLogger(__name__)


def keep_steps(steps: Any, state_cache: Any) -> None:
    """Keep what a worker sets up until it is closed. May be called again.

    Args:
        steps: Beam's cache of them. One bundle uses it at a time.
        state_cache: of state and side inputs that this worker has read.
    """
    if not isinstance(steps, _KeptSteps):
        steps.periodic_shutdown.cancel()
        steps.__class__ = _KeptSteps
        steps.state_cache, steps.for_one_bundle = state_cache, None
        state_cache.__class__ = _LightlyWeighed


class _LightlyWeighed(statecache.StateCache):
    """Weighs what it keeps, and nothing else. Beam first gathers the globals of all modules for each value: a fifth of a small
    batch.
    """

    def get(self, key: Any, loading_fn: Callable[[Any], Any]) -> Any:
        """The value, loaded if it is not here."""
        value = self.peek(key)
        if value is None:
            value = loading_fn(key)
            self.put(key, value)
        return value

    def put(self, key: Any, value: Any) -> None:
        """Keep a value."""
        super().put(key, statecache.WeightedValue(value, _weight_bytes(value)))


def _weight_bytes(value: Any) -> int:
    """Of all that it refers to, as Beam counts: no types, no functions. Not into tasks: each stage has that of its batch, whose
    lists of state are a thousand small objects."""
    counted: dict[int, Any] = {}
    to_count = [value]
    while to_count:
        one = to_count.pop()
        if id(one) not in counted and statecache._filter_func(one):
            counted[id(one)] = one
            to_count += [] if isinstance(one, BatchTask) else statecache._get_referents_func(one)
    return sum(map(statecache._size_func, counted.values()))


class _KeptSteps(sdk_worker.BundleProcessorCache):
    state_cache: statecache.StateCache
    for_one_bundle: Any | None
    """The steps of the bundle that runs, where they must not be used by another one."""

    def get(self, instruction_id: str, bundle_descriptor_id: str) -> Any:
        """The steps of a stage, for one bundle."""
        are_new = not self.cached_bundle_processors[bundle_descriptor_id]
        begun = FRESH_SIDE_INPUTS.begin()
        try:
            steps = super().get(instruction_id, bundle_descriptor_id)
        finally:
            are_fresh = FRESH_SIDE_INPUTS.end(begun)
        self.for_one_bundle = steps if are_new and not are_fresh else None
        steps.state_sampler.__class__, steps.__class__ = _Unsampled, _Steps
        return steps

    def release(self, instruction_id: str) -> None:
        """The bundle has ended. Nobody can ask for the state and the side inputs that it has read."""
        self.state_cache.invalidate_all()
        descriptor_id, steps = self.active_bundle_processors[instruction_id]
        super().release(instruction_id)
        if steps is self.for_one_bundle:
            self.cached_bundle_processors[descriptor_id].remove(steps)
            _tear_down(steps)

    def shutdown(self) -> None:
        """Tear down all of them, also behind one whose teardown raises."""
        kept = [steps for of_stage in self.cached_bundle_processors.values() for steps in of_stage]
        self.cached_bundle_processors.clear()
        super().shutdown()
        for steps in kept:
            _tear_down(steps)


def _tear_down(steps: Any) -> None:
    try:
        steps.shutdown()
    except Exception:
        _LOGGER.exception("the teardown of a step raised")


class _Steps(bundle_processor.BundleProcessor):
    """Tells what steps have counted by themselves. Beam adds to it, for each step and collection, times that were not sampled
    and counts that nobody reads: a tenth of what a worker does for a small batch."""

    def monitoring_infos(self) -> list[Any]:
        """Those of metrics that steps have."""
        return [info for name, step in self.ops.items() for info in step.user_monitoring_infos(name).values()]


class _Unsampled(statesampler.StateSampler):
    """Knows in which step a bundle is, which metrics ask for."""

    def start(self) -> None:
        """The bundle begins."""
        self.tracked_thread = threading.current_thread()
        statesampler.set_current_tracker(self)
        self.started = True

    def stop(self) -> None:
        """The bundle ends."""
        statesampler.set_current_tracker(None)
        self.finished = True
