"""Scripted histories: one actor runs at a time, up to a chosen call; nothing is random but the content of batches."""

from __future__ import annotations

import random
from collections.abc import Callable

from support.simulation.driver import PARTITIONS, Driver, Scene, Weather, expected_ends
from support.simulation.oracle import faults_of, watch
from support.simulation.store import SimulatedStore
from support.simulation.world import Actor, Call, Fate, World

ROWS_PER_PARTITION = 5


class Script:
    """The policy: whoever was told to runs, until it ends or stands before its chosen call."""

    def __init__(self) -> None:
        self.running: Actor | None = None
        self.stop_before: int | None = None
        self.stop_at_spawn = False
        self.fates: dict[tuple[str, int], Fate] = {}
        self._actors = 0

    def before(self, world: World, actor: Actor, call: Call) -> None:
        spawned = len(world.actors) > self._actors
        self._actors = len(world.actors)
        if actor.calls == self.stop_before or (spawned and self.stop_at_spawn):
            self.running = None

    def fate(self, world: World, actor: Actor, call: Call) -> Fate:
        return self.fates.get((actor.name, actor.calls), Fate.DONE)

    def choose(self, world: World) -> Actor | None:
        return None if self.running is None or self.running.ended else self.running


class Stage:
    """A small stream and its actors: five offsets in each of two partitions, one batch retained."""

    def __init__(self, driver_class: type[Driver] = Driver, script: Script | None = None) -> None:
        chance = random.Random(1)
        self.script = script or Script()
        self.world = World(self.script)
        self.scene = Scene(
            world=self.world,
            checkpoint_store=SimulatedStore("memory://checkpoint", self.world, chance, 1000),
            output=SimulatedStore("memory://output", self.world, chance, 1000),
            random=chance,
            retain_batches=1,
            checks_start=False,
            weather=Weather(),
            latest=dict.fromkeys(PARTITIONS, ROWS_PER_PARTITION),
            grows_to=ROWS_PER_PARTITION,
        )
        self._ledger = watch(self.scene)
        self._driver_class = driver_class
        self._drivers = 0

    def driver(self) -> Actor:
        """A new driver, not running yet."""
        self._drivers += 1
        name = f"driver {self._drivers}"
        return self.world.spawn(name, self._driver_class(self.scene, name).live)

    def run(self, actor: Actor, stop_before: int | None = None, *, stop_at_spawn: bool = False) -> None:
        """Let it run to its end, or until it stands before that call, or until it has spawned another."""
        self.script.running, self.script.stop_before = actor, stop_before
        self.script.stop_at_spawn = stop_at_spawn
        self.world.run()

    def crash(self, actor: Actor) -> None:
        """Kill it where it stands."""
        actor.crashed = True

    def faults(self, *must_be_done: Actor) -> list[str]:
        """End the play; what is not as promised."""
        self.world.end()
        ends = [
            f"{actor.name} ended with {actor.error!r}"
            for actor in self.world.actors
            if actor.error is not None
            and (actor in must_be_done or not isinstance(actor.error, expected_ends() + actor.tolerated))
        ]
        return ends + faults_of(self.scene, self._ledger)


def calls_of(play: Callable[[Stage], Actor]) -> int:
    """How many calls the actor makes that ``play`` returns, undisturbed."""
    stage = Stage()
    actor = play(stage)
    assert stage.faults() == []
    return actor.calls
