"""What travels to the worker of a shard: which attempt, on which lists it stands, up to when timers fire. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from beam_exactly_once.checkpoint.records import Attempt, Json
from beam_exactly_once.state.state_list import Slice, StateList


@dataclass(frozen=True, slots=True)
class OperatorTask:
    """What one batch needs of an operator's state."""

    hash_seed: str
    """Of the hash of its keys: 32 hexadecimal digits, which no log shows."""
    base: StateList
    """What it remembers of the batch before."""
    fires_to_ms: int | None
    """Timers fire up to here. None where event time has not begun."""
    now_ms: int
    """Time of the batch, by the clock."""
    latest_ms: int
    """A row that happened later is from the future."""
    late_ms: tuple[int | None, ...] = ()
    """Rows of each input that happened before are late, of an operator whose inputs have times of their own."""

    def to_json(self) -> Json:
        """As it travels to the workers."""
        return {
            "hash_seed": self.hash_seed,
            "base": self.base.to_json(),
            "fires_to_ms": self.fires_to_ms,
            "now_ms": self.now_ms,
            "latest_ms": self.latest_ms,
            "late_ms": list(self.late_ms),
        }

    @classmethod
    def from_json(cls, sent: Json) -> OperatorTask:
        """The inverse of :meth:`to_json`."""
        base = StateList.from_json(sent["base"])
        return cls(
            sent["hash_seed"], base, sent["fires_to_ms"], sent["now_ms"], sent["latest_ms"], tuple(sent["late_ms"])
        )


@dataclass(frozen=True, slots=True)
class ShardSeed:
    """What the worker of one shard needs. Lists and attempt come in one element: of two, one could be of another batch."""

    stream_id: str
    attempt: Attempt
    hash_seed: str
    slices: tuple[Slice, ...]
    fired_ms: int | None
    """Up to where timers have fired, as the marker of the batch before says."""
    fires_to_ms: int | None
    """What expires no later has expired: the time of the batch, or of its events."""
    now_ms: int
    """Time of the batch, by the clock."""

    def to_json(self) -> Json:
        """As it travels to the worker."""
        return {
            "stream_id": self.stream_id,
            "attempt": self.attempt.to_json(),
            "hash_seed": self.hash_seed,
            "slices": [one.to_json() for one in self.slices],
            "fired_ms": self.fired_ms,
            "fires_to_ms": self.fires_to_ms,
            "now_ms": self.now_ms,
        }

    @classmethod
    def from_json(cls, sent: Json) -> ShardSeed:
        """The inverse of :meth:`to_json`."""
        slices = tuple(map(Slice.from_json, sent["slices"]))
        attempt = Attempt.from_json(sent["attempt"])
        times = sent["fired_ms"], sent["fires_to_ms"], sent["now_ms"]
        return cls(sent["stream_id"], attempt, sent["hash_seed"], slices, *times)


def shards_of(slices: Sequence[Slice], shards: int) -> list[tuple[Slice, ...]]:
    """The slices in so many runs of nearly equal length. A slice has one worker, so where there are fewer, all are cut."""
    if len(slices) < shards:
        slices = [part for one in slices for part in one.parts(-(-shards // len(slices)))]
    bounds = [len(slices) * number // shards for number in range(shards + 1)]
    return [tuple(slices[start:stop]) for start, stop in pairwise(bounds)]
