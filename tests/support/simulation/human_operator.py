"""An operator who passes a batch with ``beam-exactly-once resolve``, perhaps while drivers run, which the manual forbids."""

from __future__ import annotations

import contextlib
import threading

from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.checkpoint.resolution import propose, resolve
from beam_exactly_once.errors import CheckpointError, ConfigurationError
from support.simulation.driver import Scene
from support.simulation.world import SimulatedClock

OPERATOR_ENDS = (ConfigurationError, CheckpointError)
"""A command may find nothing to pass, or look at what a sweep removes at this moment."""

MAX_TRIES = 30


def pass_next_batch(scene: Scene, name: str) -> None:
    """Skip or abandon the first batch that is planned and not decided; look for one again and again."""
    clock = SimulatedClock(scene.world)
    for _ in range(MAX_TRIES):
        clock.wait(threading.Event(), 1.0)
        with contextlib.suppress(*OPERATOR_ENDS):
            _pass_next(scene, name, clock)
            return


def _pass_next(scene: Scene, name: str, clock: SimulatedClock) -> None:
    store = scene.checkpoint_store
    checkpoint = Checkpoint.open_existing(store)
    newest = None if checkpoint is None else checkpoint.newest_marker()
    batch_id = 0 if newest is None else newest.batch_id + 1
    proposal = propose(store, batch_id, scene.random.choice(("skipped", "abandoned")))
    resolve(proposal, owner=name, clock=clock)
