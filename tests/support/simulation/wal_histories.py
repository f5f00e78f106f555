"""One seed, one history of a write-ahead log.

Act 1: chaos. Act 2: requests under way are carried out, and all that are left wake, beside fresh receivers. Act 3: senders try
once more, and fresh drivers read to the end. Then every answered record must be there once, and every stream must have read
exactly what is in the log.
"""

from __future__ import annotations

import random

from support.simulation.wal_scene import (
    EXPECTED_ENDS,
    Parts,
    Receiver,
    Stream,
    StreamDriver,
    WalScene,
    noted,
    sweep_all,
)
from support.simulation.world import Actor, Call, Fate, World

CHAOS_STEPS = 700
CALM_STEPS = 400


class WalChaos:
    """The policy: everything random, from one seed."""

    def __init__(self, chance: random.Random, history: WalHistory) -> None:
        self.chance = chance
        self.history = history
        self.act = 1
        self.until_step = CHAOS_STEPS
        self._crash = chance.choice((0.0, 0.002, 0.006))
        self._pause = chance.choice((0.002, 0.01, 0.03))
        self._pause_create = chance.choice((0.0, 0.1, 0.3))
        self._fault = chance.choice((0.0, 0.05, 0.2))
        self._switch = chance.choice((0.1, 0.3, 0.6))
        self._deliver = chance.choice((0.01, 0.05, 0.2))
        self._send = chance.choice((0.1, 0.25, 0.5))

    def before(self, world: World, actor: Actor, call: Call) -> None:
        if self.act != 1:
            return
        if self.chance.random() < self._crash:
            actor.crashed = True
        elif self.chance.random() < (self._pause_create if call.method == "create" else self._pause):
            actor.frozen_until_step = world.steps + int(2 ** (self.chance.random() * 9))

    def fate(self, world: World, actor: Actor, call: Call) -> Fate:
        if self.act != 1 or call.method == "wait" or self.chance.random() >= self._fault:
            return Fate.DONE
        return self.chance.choice((Fate.REQUEST_LOST, Fate.ANSWER_LOST, Fate.DELAYED, Fate.DELAYED))

    def choose(self, world: World) -> Actor | None:
        chance = self.chance
        if world.steps > self.until_step:
            return None
        if world.in_flight and chance.random() < self._deliver:
            world.deliver(chance.randrange(len(world.in_flight)))
        if self.act == 1:
            self.history.something_happens(self._send)
        awake = [
            one for one in world.actors if not one.ended and (self.act > 1 or one.frozen_until_step <= world.steps)
        ]
        current = world.current
        if current is not None and chance.random() >= self._switch and any(one is current for one in awake):
            return current
        if awake:
            return chance.choice(awake)
        return self.history.start_anything() if self.act == 1 else None


class WalHistory:
    """One seed.

    Args:
        seed: decides everything.
        parts: the protocol, or a mutant of it.
    """

    def __init__(self, seed: int, parts: Parts) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.world = World(WalChaos(self.chance, self))
        self.parts = parts
        self.scene = WalScene(
            self.world,
            self.chance,
            parts,
            partitions=self.chance.choice((1, 1, 2)),
            id_window=self.chance.choice((0, 12, 12, 40)),
        )
        self._driver_class = parts.driver or StreamDriver
        self._lives = 0

    def faults(self) -> list[str]:
        """Play all acts; returns what is not as promised."""
        try:
            self._play()
        except AssertionError as error:
            return [str(error)]
        finally:
            self.world.end()
        for actor in self.world.actors:
            noted(self.scene, actor.name, actor.error)
        return self.scene.verdict()

    def assert_sound(self) -> None:
        """Play, and fail with the story if anything is not as promised."""
        faults = self.faults()
        assert not faults, f"seed {self.seed}: {faults}\n{self.world.story()}"

    # -- what happens --------------------------------------------------------------------------------------------------

    def something_happens(self, send: float) -> None:
        """Between two calls."""
        chance, scene = self.chance, self.scene
        if chance.random() < send:
            scene.send_new() if chance.random() < 0.6 else scene.send_again()
        drawn = chance.random()
        if drawn < 0.01:
            self.start_receiver(chance.randrange(scene.partitions))
        elif drawn < 0.02:
            self.start_driver(chance.choice(scene.streams))
        elif drawn < 0.035:
            self._start("sweeper", lambda: sweep_all(scene))
        elif drawn < 0.038 and len(scene.streams) < 3:
            self.start_driver(self._new_stream())
        elif drawn < 0.05:
            self._heal()

    def start_anything(self) -> Actor:
        """Nobody is awake."""
        return self.start_receiver(self.chance.randrange(self.scene.partitions))

    def start_receiver(self, partition: int) -> Actor:
        receiver = self.parts.receiver(self.scene, f"receiver {self._lives}", partition)
        return self._start(f"receiver of {partition}", receiver.live)

    def start_driver(self, stream: Stream) -> Actor:
        return self._start(f"driver of {stream.name}", self._driver_class(self.scene, stream).live)

    def _start(self, name: str, life: object) -> Actor:
        self._lives += 1
        return self.world.spawn(f"{name} ({self._lives})", life, EXPECTED_ENDS)  # type: ignore[arg-type]

    def _heal(self) -> None:
        """Something that has ended starts again, as supervisors see to it."""
        for partition in range(self.scene.partitions):
            if not any(one.listens and one.partition == partition for one in self.scene.receivers):
                self.start_receiver(partition)

    def _new_stream(self) -> Stream:
        stream = Stream(f"stream-{len(self.scene.streams)}")
        self.scene.streams.append(stream)
        return stream

    def _play(self) -> None:
        policy, scene = self.world.policy, self.scene
        assert isinstance(policy, WalChaos)
        self.start_driver(self._new_stream())
        for partition in range(scene.partitions):
            self.start_receiver(partition)
        self.world.run()
        policy.act = 2
        for partition in range(scene.partitions):
            self.start_receiver(partition)
        self._run_on(CALM_STEPS)
        while self.world.in_flight:
            self.world.deliver(0)
        scene.loses_answers = False
        for _ in range(10):
            scene.send_again()
        self._run_on(CALM_STEPS)
        self._all_read_to_the_end()

    def _all_read_to_the_end(self) -> None:
        for actor in self.world.alive():
            actor.crashed = True
        self.world.end()
        for actor in self.world.actors:
            actor.ended = True
        self.scene.is_over = True
        for stream in self.scene.streams:
            self.start_driver(stream)
        self._run_on(20_000 - self.world.steps - 1)
        for stream in self.scene.streams:
            for source in self._driver_class.sources:
                at = stream.next_offsets(source, len(stream.commits.get(source, ()))) if source in stream.first else {}
                if any(at.get(partition, 0) < end for partition, end in self.scene.ends.items()):
                    self.scene.faults.append(
                        f"{stream.name}/{source} does not reach the end: {at} of {self.scene.ends}"
                    )

    def _run_on(self, steps: int) -> None:
        policy = self.world.policy
        assert isinstance(policy, WalChaos)
        policy.until_step = self.world.steps + steps
        self.world.run()


def protocol(**mutants: object) -> Parts:
    """The product's code, or with some of it replaced."""
    return Parts(**{"receiver": Receiver, **mutants})  # type: ignore[arg-type]
