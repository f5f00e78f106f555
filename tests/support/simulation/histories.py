"""One seed, one history: drivers pause, crash, restart and wake; requests are lost, answered late, carried out later.

Act 1: chaos. Act 2: whoever is left is killed or frozen, and a fresh driver goes to the end undisturbed. Act 3: the
frozen wake and delayed requests are carried out, in any order. Act 4: a last driver starts, and goes to the end.
Then every record must be there once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from support.simulation.driver import PARTITIONS, Driver, Scene, Weather, expected_ends
from support.simulation.human_operator import OPERATOR_ENDS, pass_next_batch
from support.simulation.oracle import faults_of, watch
from support.simulation.store import SimulatedStore
from support.simulation.world import Actor, Call, Fate, World

MAX_CHAOS_STEPS = 1200
HOT_SPOTS = (
    ("create", "commits"),
    ("create", "offsets"),
    ("create", "writers"),
    ("create", "_batches"),
    ("get", "writers"),
    ("get", "commits"),
    ("get", "offsets"),
    ("list", "commits"),
    ("list", "offsets"),
    ("list", "writers"),
    ("delete", "offsets"),
    ("delete", "commits"),
    ("list_staged", ""),
    ("publish", None),
    ("stage", None),
)
"""Where drivers like to pause; each seed prefers a few. None stands for any file."""


@dataclass(frozen=True, slots=True)
class Focus:
    """Where to look for what is rare: these spots are hot, and runners forget workers this often."""

    hot_spots: tuple[tuple[str, str | None], ...]
    worker_forgotten: float = 0.0
    operators: float = 0.0
    request_fails: float | None = None


OPERATORS = Focus((("create", "commits"), ("get", "commits")), operators=0.4)
"""Where people pass batches."""
LATE_WORKER = Focus((("stage", None), ("create", "commits"), ("get", "commits")), worker_forgotten=0.1)
LATE_WORKER_WITH_STATE = Focus((*LATE_WORKER.hot_spots, ("create", "state")), worker_forgotten=0.1)


class Chaos:
    """The policy: everything random, from one seed; some calm in acts 2 to 4."""

    def __init__(self, chance: random.Random, lives: int, focus: Focus | None) -> None:
        self.chance = chance
        self.act = 1
        self.lives_left = lives
        self.start_life: Callable[[], Actor]
        self.undisturbed: Actor | None = None
        chosen = chance.sample(HOT_SPOTS, chance.randint(0, 4)) if focus is None else focus.hot_spots
        self._pause_at = dict.fromkeys(chosen, chance.choice((0.2, 0.5, 0.8)))
        self._pause = chance.choice((0.0, 0.005, 0.02))
        self._crash = chance.choice((0.0, 0.002, 0.01))
        self._fault = chance.choice((0.0, 0.02, 0.1))
        if focus is not None and focus.request_fails is not None:
            self._fault = focus.request_fails
        self._switch = chance.choice((0.02, 0.1, 0.5))
        self._start = chance.choice((0.0, 0.005, 0.02))
        self._deliver = chance.choice((0.005, 0.05, 0.3))
        self._max_batches_asleep = chance.choice((1, 3, 8, 12))

    def before(self, world: World, actor: Actor, call: Call) -> None:
        if self.act != 1:
            return
        chance = self.chance
        if chance.random() < self._crash:
            actor.crashed = True
            return
        method, prefix = call.kind
        spot = (method, None) if method in ("publish", "stage") else (method, prefix)
        if chance.random() < self._pause_at.get(spot, self._pause):
            self._freeze(world, actor)

    def _freeze(self, world: World, actor: Actor) -> None:
        """For some steps, or until the others have gone some batches further."""
        if self.chance.random() < 0.4:
            actor.frozen_until_step = world.steps + int(2 ** (self.chance.random() * 9))
        else:
            actor.frozen_until_step = MAX_CHAOS_STEPS
            actor.frozen_until_batch = world.newest_batch_id + self.chance.randint(1, self._max_batches_asleep)

    def fate(self, world: World, actor: Actor, call: Call) -> Fate:
        if self.act != 1 or call.method == "wait" or self.chance.random() >= self._fault:
            return Fate.DONE
        return self.chance.choice((Fate.REQUEST_LOST, Fate.ANSWER_LOST, Fate.DELAYED, Fate.DELAYED))

    def choose(self, world: World) -> Actor | None:
        if self.act in (2, 4):
            undisturbed = self.undisturbed
            return None if undisturbed is None or undisturbed.ended else undisturbed
        chance = self.chance
        if world.in_flight and chance.random() < self._deliver:
            world.deliver(chance.randrange(len(world.in_flight)))
        if self.act == 3:
            alive = world.alive()
            return chance.choice(alive) if alive else None
        if world.steps > MAX_CHAOS_STEPS:
            return None
        if self.lives_left and chance.random() < self._start:
            self._start_one()
        awake = [actor for actor in world.actors if not actor.ended and _is_awake(world, actor)]
        current = world.current
        if current is not None and chance.random() >= self._switch and any(one is current for one in awake):
            return current
        if not awake:
            return self._nobody_awake(world)
        return chance.choice(awake)

    def _nobody_awake(self, world: World) -> Actor | None:
        if self.lives_left:
            return self._start_one()
        alive = world.alive()
        if not alive or self.chance.random() < 0.3:
            return None
        woken = self.chance.choice(alive)
        woken.frozen_until_step = 0
        return woken

    def _start_one(self) -> Actor:
        self.lives_left -= 1
        return self.start_life()


def _is_awake(world: World, actor: Actor) -> bool:
    if actor.frozen_until_step <= world.steps:
        return True
    return 0 <= actor.frozen_until_batch <= world.newest_batch_id


class Simulation:
    """One seed.

    Args:
        seed: decides everything.
        driver_class: the protocol, or a mutant of it.
        store_class: where it keeps its checkpoint and output.
        focus: what is to happen more often than by chance.
    """

    def __init__(
        self,
        seed: int,
        driver_class: type[Driver] = Driver,
        store_class: type[SimulatedStore] = SimulatedStore,
        focus: Focus | None = None,
    ) -> None:
        self.seed = seed
        chance = random.Random(seed)
        self.policy = Chaos(chance, chance.randint(2, 6), focus)
        self.world = World(self.policy)
        page_entries = chance.choice((1, 3, 1000))
        self.scene = Scene(
            world=self.world,
            checkpoint_store=store_class("memory://checkpoint", self.world, chance, page_entries),
            output=store_class("memory://output", self.world, chance, page_entries),
            random=chance,
            retain_batches=chance.randint(1, 4),
            checks_start=chance.random() < 0.25,
            weather=Weather(*(chance.choice((0.0, 0.0, 0.05)) for _ in range(4))),
            latest=dict.fromkeys(PARTITIONS, 0),
            grows_to=chance.choice((6, 15, 30)),
        )
        self.ledger = watch(self.scene)
        self.policy.start_life = self._start_life
        self._driver_class = driver_class
        self._operators = chance.choice((0.0, 0.0, 0.3))
        if focus is not None:
            self.scene.weather.worker_forgotten = focus.worker_forgotten
            self._operators = focus.operators
        self._lives = 0

    def faults(self) -> list[str]:
        """Play all acts; returns what is not as promised."""
        try:
            self._act_1_chaos()
            ends = self._act_2_undisturbed()
            self._act_3_the_frozen_wake()
            ends += self._act_2_undisturbed(act=4)
        except AssertionError as error:
            return [str(error)]
        finally:
            self.world.end()
        return self._ends() + ends + faults_of(self.scene, self.ledger)

    def assert_sound(self) -> None:
        """Play, and fail with the story if anything is not as promised."""
        faults = self.faults()
        assert not faults, f"seed {self.seed}: {faults}\n{self.world.story()}"

    def _act_1_chaos(self) -> None:
        self._start_life()
        self.world.run()

    def _act_2_undisturbed(self, act: int = 2) -> list[str]:
        chance = self.scene.random
        for actor in self.world.alive():
            if chance.random() < 0.3:
                actor.crashed = True
        self.policy.act = act
        self.scene.weather = Weather()
        self.scene.grows_to += 5
        self.scene.latest = dict.fromkeys(PARTITIONS, self.scene.grows_to)
        fresh = self.policy.undisturbed = self._start_life()
        self.world.run()
        return [] if fresh.error is None else [f"{fresh.name}, undisturbed, ended with {fresh.error!r}"]

    def _act_3_the_frozen_wake(self) -> None:
        self.policy.act = 3
        self.world.run()
        while self.world.in_flight:
            self.world.deliver(0)

    def _start_life(self) -> Actor:
        self._lives += 1
        if self.policy.act == 1 and self._lives > 1 and self.scene.random.random() < self._operators:
            name = f"operator {self._lives}"
            return self.world.spawn(name, lambda: pass_next_batch(self.scene, name), OPERATOR_ENDS)
        name = f"driver {self._lives}"
        return self.world.spawn(name, self._driver_class(self.scene, name).live)

    def _ends(self) -> list[str]:
        """Drivers that ended as none may."""
        return [
            f"{actor.name} ended with {actor.error!r}"
            for actor in self.world.actors
            if actor.error is not None and not isinstance(actor.error, expected_ends() + actor.tolerated)
        ]
