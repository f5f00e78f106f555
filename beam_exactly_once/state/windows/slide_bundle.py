"""``SlideBundle``: the shards of a ``ReduceByKeyAndWindow``.

Slides and heads are rows of state, those of a key beside each other. A slide expires where the last window ends that has it, a
head where the next window ends. What a batch needs, it finds by when that expires: slides that end, slides that leave, heads. All
slides of a key are read only where they are folded anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import reduce
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from beam_exactly_once.state.garbage import no_collection
from beam_exactly_once.state.hashing import Hashes, Numbers
from beam_exactly_once.state.keyed_chunk import KeyedChunk
from beam_exactly_once.state.keys import decode_keys
from beam_exactly_once.state.merging import merged
from beam_exactly_once.state.run import ABSENT, NEVER, Run
from beam_exactly_once.state.shard import OpenSlice, Shard
from beam_exactly_once.state.timers import earliest
from beam_exactly_once.state.windows.bundle import MAX_EMITTED_ROWS, ClosingBundle, hashes_within
from beam_exactly_once.state.windows.expiring import expiring, first_expiry, newest_of
from beam_exactly_once.state.windows.operator import WindowResult
from beam_exactly_once.state.windows.slides import BySlide, Closing, Heads, Key, Ring, SlideEach
from beam_exactly_once.state.windows.window_keys import ends_of, user_keys, with_ends

HEAD_MS = NEVER
"""What the key of a head has in the place of an end."""


class SlideBundle(ClosingBundle[SlideEach]):
    """As :class:`~beam_exactly_once.state.windows.bundle.WindowBundle`; windows share slides."""

    def _change_by(self, groups: KeyedChunk, shard: Shard) -> Iterator[list[WindowResult]]:
        values = groups.groups
        for one in shard.slices:
            start, stop = hashes_within(groups.hashes, one)
            if stop > start:
                keys = groups.keys.take(pa.array(np.arange(start, stop)))
                self._put_rows(one, groups.hashes[start:stop], keys, values[start:stop])
        return iter(())

    def _put_rows(self, one: OpenSlice, hashes: Hashes, keys: pa.LargeBinaryArray, groups: list[list[Any]]) -> None:
        """Bring rows into their slides; where closed windows have a slide already, into the total of the key, too."""
        each, ends_ms = self._update, ends_of(keys)
        expiry_ms = ends_ms + each.stays_ms
        known = newest_of(expiring(one.runs, int(expiry_ms.min()) - 1, int(expiry_ms.max()), exactly_ms=expiry_ms))
        rows = known.find(hashes, keys)
        is_known = rows != ABSENT
        self._keys_added += int(np.count_nonzero(~is_known))
        values = [reduce(each.fn, group) for group in groups]
        new, known_at = values, np.flatnonzero(is_known).tolist()
        if known_at:
            new = values.copy()
            for place, stored in zip(known_at, self._values(known.rows_at(rows[is_known])), strict=True):
                new[place] = each.fn(stored, values[place])
        one.delta = self._run_of(hashes, keys, new, expiry_ms)
        if self._lower_ms is None:
            return
        past = np.flatnonzero(ends_ms <= self._lower_ms)
        if len(past):
            users = user_keys(keys.take(pa.array(past))).to_pylist()
            heads = self._heads_with(one, hashes[past], users, ends_ms[past].tolist(), [values[row] for row in past])
            one.delta = merged([heads, one.delta])

    def _heads_with(
        self, one: OpenSlice, hashes: Hashes, users: list[Key], ends_ms: list[int], values: list[Any]
    ) -> Run:
        """The heads of some keys, with what came into these slides of them."""
        assert self._lower_ms is not None
        each, next_ms = self._update, self._update.end_behind(self._lower_ms)
        stored, _ = _heads_and_slides(expiring(one.runs, next_ms - 1, next_ms, hashes=hashes))
        heads = self._heads(stored, _users(stored))
        for user, end_ms, value in zip(users, ends_ms, values, strict=True):
            each.with_more(heads, {user: value})
            heads.newest_ms[user] = max(heads.newest_ms.get(user, end_ms), end_ms)
        return self._run_of_heads(heads, dict(zip(users, hashes.tolist(), strict=True)), next_ms)

    def _closed(self, one: OpenSlice) -> Iterator[list[WindowResult]]:
        lower_ms = -NEVER if self._lower_ms is None else self._lower_ms
        one.next_due_ms = earliest(one.base.next_due_ms, self._next_due(one.changed, lower_ms))
        if one.next_due_ms is None or one.next_due_ms > self._upper_ms:
            return
        with no_collection():
            closing, hash_of = self._opened(one.changed + one.runs, lower_ms)
            shown = dict(zip(hash_of, decode_keys(pa.array([*hash_of], pa.large_binary())), strict=True))
        size_ms = self._update.windows.size_ms
        for end_ms, users, results in closing.windows(one.next_due_ms, self._upper_ms):
            for start in range(0, len(users), MAX_EMITTED_ROWS):
                part = slice(start, start + MAX_EMITTED_ROWS)
                keys = [shown[user] for user in users[part]]
                yield list(map(WindowResult, keys, repeat(end_ms - size_ms), repeat(end_ms), results[part]))
        if closing.heads.totals:
            of_heads = {user: hash_of[user] for user in closing.heads.totals}
            heads = self._run_of_heads(closing.heads, of_heads, self._update.end_behind(self._upper_ms))
            # All heads of before expire now. Behind the slides of their keys, the new ones are in order.
            slides = [] if one.delta is None else [_heads_and_slides(one.changed).slides]
            one.delta = merged([*slides, heads])
        one.next_due_ms = self._next_due(one.changed + one.runs, self._upper_ms)

    def _opened(self, runs: Sequence[Run], lower_ms: int) -> tuple[Closing, dict[Key, int]]:
        """The windows that close now, and the hash of each key that may be in them."""
        each, stays_ms = self._update, self._update.stays_ms
        heads, leaving = _heads_and_slides(expiring(runs, lower_ms, self._upper_ms))
        _, ending = _heads_and_slides(expiring(runs, lower_ms + stays_ms, self._upper_ms + stays_ms))
        self._keys_added -= len(leaving)
        of_heads, of_leaving, of_ending = users_of = [_users(run) for run in (heads, leaving, ending)]
        hash_of: dict[Key, int] = {}
        for run, users in zip((heads, leaving, ending), users_of, strict=True):
            hash_of.update(zip(users, run.hashes.tolist(), strict=True))

        def rings(users: Collection[Key]) -> Mapping[Key, Ring]:
            hashes = np.array([hash_of[user] for user in users], np.uint64)
            until_ms = self._upper_ms + stays_ms
            return self._rings(_heads_and_slides(expiring(runs, lower_ms, until_ms, hashes=hashes)).slides)

        added = self._by_time(ending, of_ending, ends_of(ending.keys))
        left = self._by_time(leaving, of_leaving, leaving.expiry_ms)
        return Closing(each, self._heads(heads, of_heads), added, left, rings), hash_of

    def _next_due(self, runs: Sequence[Run], behind_ms: int) -> int | None:
        """When the next head expires, or the next slide ends."""
        stays_ms = self._update.stays_ms
        ending_ms = first_expiry(runs, behind_ms + stays_ms)
        return earliest(first_expiry(runs, behind_ms), None if ending_ms is None else ending_ms - stays_ms)

    # -- rows as values, and values as rows ------------------------------------------------------------------------------

    def _values(self, run: Run) -> list[Any]:
        return self._update.state_type.decode(run.values, run.versions, operator=self._operator)

    def _heads(self, run: Run, users: list[Key]) -> Heads:
        return Heads.of(users, self._values(run), with_totals=self._update.inverse_fn is not None)

    def _by_time(self, slides: Run, users: list[Key], times_ms: Numbers) -> BySlide:
        values = self._values(slides)
        if len(values) and times_ms.min() == times_ms.max():  # most often one window closes
            return {int(times_ms[0]): dict(zip(users, values, strict=True))}
        found: BySlide = defaultdict(dict)
        for user, at_ms, value in zip(users, times_ms.tolist(), values, strict=True):
            found[at_ms][user] = value
        return found

    def _rings(self, slides: Run) -> dict[Key, Ring]:
        """Rows of one key may lie among those of another one, but their ends rise."""
        found: dict[Key, Ring] = defaultdict(lambda: Ring([], []))
        for user, end_ms, value in zip(
            _users(slides), ends_of(slides.keys).tolist(), self._values(slides), strict=True
        ):
            ring = found[user]
            ring.ends_ms.append(end_ms)
            ring.values.append(value)
        return found

    def _run_of(self, hashes: Hashes, keys: pa.LargeBinaryArray, values: list[Any], expiry_ms: Numbers) -> Run:
        state_type = self._update.state_type
        column = state_type.encode(values, operator=self._operator).column
        return Run.of(hashes, keys, column, np.full(len(hashes), state_type.version, np.uint8), expiry_ms=expiry_ms)

    def _run_of_heads(self, heads: Heads, hash_of: Mapping[Key, int], next_ms: int) -> Run:
        """Of these keys."""
        keys = with_ends(pa.array([*hash_of], pa.large_binary()), np.full(len(hash_of), HEAD_MS))
        hashes = np.array([*hash_of.values()], np.uint64)
        return self._run_of(hashes, keys, heads.stored(hash_of), np.full(len(hash_of), next_ms))


class _HeadsAndSlides(NamedTuple):
    heads: Run
    slides: Run


def _users(run: Run) -> list[Key]:
    """The key of each row."""
    users: list[Key] = user_keys(run.keys).to_pylist()
    return users


def _heads_and_slides(runs_newest_first: Sequence[Run]) -> _HeadsAndSlides:
    """The newest of each. Most often a run has the ones or the others, and nothing that another one has, too."""
    both: tuple[list[Run], list[Run]] = [], []
    for run in runs_newest_first:
        is_head = ends_of(run.keys) == HEAD_MS
        for parts, is_wanted in zip(both, (is_head, ~is_head), strict=True):
            if is_wanted.any():
                parts.append(run if is_wanted.all() else run.rows_at(np.flatnonzero(is_wanted)))
    return _HeadsAndSlides(*map(newest_of, both))
