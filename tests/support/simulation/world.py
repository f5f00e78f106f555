"""A world of many drivers in which exactly one runs at a time, and a policy decides after every call who is next.

Each driver is a thread that waits for its baton. Every call to a simulated store is a scheduling point: there the
policy may crash the caller, freeze it, let others run, and decide what becomes of the request. Nothing depends on time or
on the operating system, so a seed replays word for word.
"""

from __future__ import annotations

import datetime
import enum
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

MAX_STEPS = 20_000
"""A world that takes longer has drivers that never end."""


class Crash(BaseException):
    """The process is gone. Nothing of the driver runs any more."""


class Fate(enum.Enum):
    """What becomes of a request."""

    DONE = "done"
    REQUEST_LOST = "request lost"
    ANSWER_LOST = "answer lost"
    DELAYED = "delayed"
    """No answer; it is carried out later, perhaps much later, perhaps when its sender is long gone."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a store."""

    method: str
    key: str

    @property
    def kind(self) -> tuple[str, str]:
        """Method and first part of the key."""
        return self.method, self.key.partition("/")[0]


@dataclass(slots=True, eq=False)
class Actor:
    """One life of a driver, or one worker that its runner has forgotten."""

    name: str
    thread: threading.Thread | None = None
    baton: threading.Lock = field(default_factory=threading.Lock)
    calls: int = 0
    now_s: float = 0.0
    crashed: bool = False
    ended: bool = False
    error: BaseException | None = None
    frozen_until_step: int = 0
    frozen_until_batch: int = -1
    tolerated: tuple[type[BaseException], ...] = ()
    """Errors that it may end with besides those that every driver may end with."""


class Policy(Protocol):
    """Decides everything that is not the protocol's to decide."""

    def before(self, world: World, actor: Actor, call: Call) -> None:
        """May crash the actor (``actor.crashed``) or freeze it, before the call is made."""
        ...

    def fate(self, world: World, actor: Actor, call: Call) -> Fate:
        """What becomes of the call."""
        ...

    def choose(self, world: World) -> Actor | None:
        """Who runs next; None ends :meth:`World.run`."""
        ...


class World:
    """Actors, requests under way, and one baton."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.actors: list[Actor] = []
        self.current: Actor | None = None
        self.in_flight: list[Callable[[], None]] = []
        self.steps = 0
        self.newest_batch_id = -1
        self.trace: list[tuple[str, str, Call | None]] = []
        self._main = threading.Lock()
        self._main.acquire()
        self._failure: BaseException | None = None

    def spawn(self, name: str, life: Callable[[], None], tolerated: tuple[type[BaseException], ...] = ()) -> Actor:
        """Start a life; it runs when the policy chooses it."""
        actor = Actor(name, tolerated=tolerated)
        actor.baton.acquire()
        actor.thread = threading.Thread(target=self._live, args=(actor, life), name=name, daemon=True)
        actor.thread.start()
        self.actors.append(actor)
        return actor

    def alive(self) -> list[Actor]:
        """Everybody who has not ended."""
        return [actor for actor in self.actors if not actor.ended]

    def run(self) -> None:
        """Let actors run until the policy chooses nobody."""
        chosen = self.policy.choose(self)
        if chosen is not None:
            self._hand_over(chosen)
            self._main.acquire()
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Crash whoever is left, so that no thread stays behind."""
        for actor in self.alive():
            actor.crashed = True
            actor.baton.release()
            assert actor.thread is not None
            actor.thread.join()

    def call(self, method: str, key: str) -> Fate:
        """A scheduling point: returns when the call is to be made.

        Raises:
            Crash: it never is.
        """
        actor = self.current
        if actor is None or actor.crashed:
            raise Crash
        call = Call(method, key)
        actor.calls += 1
        self.steps += 1
        if self.steps > MAX_STEPS:
            self._failure = AssertionError(f"the drivers have not ended after {MAX_STEPS} calls")
        self.policy.before(self, actor, call)
        if actor.crashed:
            self.trace.append((actor.name, "crashes before", call))
            raise Crash
        chosen = None if self._failure is not None else self.policy.choose(self)
        if chosen is not actor:
            self._hand_over(chosen)
            actor.baton.acquire()
            if actor.crashed:
                self.trace.append((actor.name, "is killed before", call))
                raise Crash
        fate = self.policy.fate(self, actor, call)
        self.trace.append((actor.name, fate.value, call))
        return fate

    def deliver(self, number: int) -> None:
        """Carry out a delayed request."""
        self.trace.append(("network", "carries out a delayed request", None))
        self.in_flight.pop(number)()

    def story(self, length: int = 200) -> str:
        """The last calls, for people."""
        return "\n".join(
            f"  {name}: {what}" + ("" if call is None else f" {call.method} {call.key}")
            for name, what, call in self.trace[-length:]
        )

    def _hand_over(self, to: Actor | None) -> None:
        self.current = to
        (self._main if to is None else to.baton).release()

    def _live(self, actor: Actor, life: Callable[[], None]) -> None:
        actor.baton.acquire()
        try:
            if not actor.crashed:
                life()
                self.trace.append((actor.name, "ends", None))
        except Crash:
            actor.crashed = True
        except BaseException as error:
            actor.error = error
            self.trace.append((actor.name, f"ends with {type(error).__name__}: {error}", None))
        actor.ended = True
        if self.current is not actor:  # killed by end()
            return
        chosen = None
        try:
            if self._failure is None:
                chosen = self.policy.choose(self)
        except BaseException as error:
            self._failure = error
        self._hand_over(chosen)


class SimulatedClock:
    """Every actor's own time, which passes only while it waits; waiting is a scheduling point."""

    def __init__(self, world: World) -> None:
        self._world = world

    def utc_now(self) -> datetime.datetime:
        return datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)

    def monotonic_s(self) -> float:
        actor = self._world.current
        return 0.0 if actor is None else actor.now_s

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self._world.call("wait", "")
        actor = self._world.current
        assert actor is not None
        actor.now_s += timeout_s
        return event.is_set()
