"""A driver whose operator is the real one of ``ReduceByKeyAndWindow``: its bundles run on the simulated store.

A value is the offsets that it is made of. So the result of a window says which rows it has, and one that an inverse took away too
often, or too seldom, is seen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import orjson

from beam_exactly_once.checkpoint import Attempt, Marker
from beam_exactly_once.state.hashing import hash_keys
from beam_exactly_once.state.keyed_chunk import Sorted
from beam_exactly_once.state.keys import encode_keys
from beam_exactly_once.state.near.cache import SectionCache, StateCache
from beam_exactly_once.state.run import NEVER, Run
from beam_exactly_once.state.section import Fetch
from beam_exactly_once.state.shard_seed import ShardSeed, shards_of
from beam_exactly_once.state.state_list import Section, Slice, StateChange
from beam_exactly_once.state.updates import lifted
from beam_exactly_once.state.windows.slide_bundle import SlideBundle
from beam_exactly_once.state.windows.slides import SlideEach
from beam_exactly_once.state.windows.windows import Windows
from support.simulation.driver import SINK, SOURCE, Scene
from support.simulation.stateful_driver import OPERATOR, Task
from support.simulation.tables import Offsets
from support.simulation.windowed_driver import LATE, WindowedDriver, happened_ms, is_in_order

SLIDING = Windows(40, 10)
HASH_SEED = bytes(range(16)).hex()
KEYS = [f"{partition}-{number}" for partition in (0, 1) for number in (0, 1, 2)]
HASH_OF = dict(zip(KEYS, hash_keys(encode_keys(KEYS), bytes.fromhex(HASH_SEED)).tolist(), strict=True))

Rows: TypeAlias = tuple[tuple[int, int], ...]


def add(one: Rows, other: Rows) -> Rows:
    return tuple(sorted(one + other))


def subtract(total: Rows, one: Rows) -> Rows:
    left = list(total)
    for row in one:
        left.remove(row)
    return tuple(left)


def time_of(value: Rows) -> int:
    return happened_ms(list(value[0]))


def key_of(row: list[int]) -> str:
    return f"{row[0]}-{row[1] % 3}"


def last_end_ms(row: list[int]) -> int:
    """Where the last window ends that has it."""
    at_ms = happened_ms(row)
    return at_ms - at_ms % SLIDING.period_ms + SLIDING.size_ms


class OneByOne(SectionCache):
    """Threads that nobody knows of may not call the store."""

    def get_all(self, refs: Sequence[Section], fetch: Fetch) -> list[Run]:
        return [self.get(ref, fetch) for ref in refs]


class SlidingDriver(WindowedDriver):
    """One life, with an inverse or without. Mutants replace its parts."""

    bundle: type[SlideBundle] = SlideBundle

    def __init__(self, scene: Scene, name: str) -> None:
        super().__init__(scene, name)
        self.each = SlideEach(add, scene.random.choice((subtract, None)), SLIDING, time_of)
        self.sections = OneByOne(StateCache(max_bytes=0))

    def hash_of(self, row: list[int]) -> int:
        return HASH_OF[key_of(row)]

    def sent(self, task: Task, rows: Offsets) -> Offsets:
        self.late = [rows[number] for number in self.sorted_out(task, rows).late_rows.tolist()]
        return [row for row in rows if row not in self.late]

    def update_shard(
        self, task: Task, shard: list[Slice], attempt: Attempt, rows: Offsets
    ) -> tuple[StateChange, dict[str, Offsets]]:
        """One bundle, of one worker or several, whose rows came in two parts."""
        chance = self.scene.random
        of_workers = shards_of(shard, chance.choice((1, 1, 2, 3)))
        times = task.base.fired_ms, task.fires_to_ms, 0
        seeds = [ShardSeed(self.checkpoint.stream_id, attempt, HASH_SEED, slices, *times) for slices in of_workers]
        bundle = self.bundle(OPERATOR, self.each, self.scene.checkpoint_store, StateCache(max_bytes=0), seeds[0])
        bundle._opener.cache = self.sections
        cut = chance.randint(0, len(rows))
        parts = [self.sorted_out(task, part).chunk for part in (rows[:cut], rows[cut:])]
        fired: dict[str, Offsets] = {}
        for seed in seeds:
            first, last = seed.slices[0].first_hash, seed.slices[-1].end_hash - 1
            chunks = [part.only((part.hashes >= first) & (part.hashes <= last)) for part in parts]
            for results in bundle.aggregate(seed, [lifted(self.each, one) for one in chunks if one.rows_in]):
                fired |= {f"{one.key}@{one.window_end_ms}": list(map(list, one.value)) for one in results}
        return bundle.finish(), fired

    def sorted_out(self, task: Task, rows: Offsets) -> Sorted:
        pairs = [key_of(row) for row in rows], [((row[0], row[1]),) for row in rows]
        bounds = {"closed_ms": task.base.fired_ms, "latest_ms": NEVER}
        return self.each.sorted_out(pairs, hash_seed=HASH_SEED, operator=OPERATOR, **bounds)


def slide_faults(scene: Scene, markers: Mapping[int, Marker]) -> list[str]:
    """What the batches have given of their windows that is not what a list of all rows says, and what they took for late."""
    faults: list[str] = []
    closed_ms, every = 0, defaultdict[str, Offsets](list)
    has_ended = False  # then every row is late
    for batch_id, marker in sorted(markers.items()):
        if OPERATOR not in marker.state:
            continue
        bodies = [scene.output.objects.get(one["final_key"]) for one in marker.committables.get(SINK, ())]
        rows, given, late = [], {}, []
        for one in map(orjson.loads, filter(None, bodies)):
            rows, given = one["rows"], one["fired"]
            late = given.pop(LATE, [])
        wanted_late = [row for row in rows if last_end_ms(row) <= closed_ms]
        if sorted(late) != sorted(wanted_late):
            faults.append(f"batch {batch_id} took {late} for late, not {wanted_late}")
        faults += [f"{row} was taken for late" for row in late if not has_ended and is_in_order(row)]
        for row in rows:
            if row not in late:
                every[key_of(row)].append(row)
        closes_ms = marker.state[OPERATOR]["fired_ms"] or 0
        wanted = dict(windows_between(every, closed_ms, closes_ms))
        if given != wanted:
            faults.append(f"batch {batch_id} has given {given}, not {wanted}")
        closed_ms = closes_ms
        times = marker.sources[SOURCE].event_time
        has_ended = has_ended or (times is not None and times.have_ended)
    return faults


def windows_between(every: Mapping[str, Offsets], closed_ms: int, closes_ms: int) -> Iterator[tuple[str, Offsets]]:
    """The windows with rows that end behind the one and no later than the other."""
    size_ms, period_ms = SLIDING.size_ms, SLIDING.period_ms
    for key, rows in every.items():
        times_ms = [(happened_ms(row), row) for row in rows]
        greatest_ms = max((at_ms for at_ms, _ in times_ms), default=0)
        first_ms = closed_ms - closed_ms % period_ms + period_ms
        for end_ms in range(first_ms, min(closes_ms, greatest_ms + size_ms) + 1, period_ms):
            inside = [row for at_ms, row in times_ms if end_ms - size_ms <= at_ms < end_ms]
            if inside:
                yield f"{key}@{end_ms}", sorted(inside)
