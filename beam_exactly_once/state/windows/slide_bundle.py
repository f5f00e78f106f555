"""``SlideBundle``: the shards of a ``ReduceByKeyAndWindow``.

Slides and heads are rows of state, those of a key beside each other. A slide expires where the last window ends that has it, a
head where the next window ends. What a batch needs, it finds by when that expires: slides that end, slides that leave, heads. All
slides of a key are read only where they are folded anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from beam_exactly_once.state.garbage import no_collection
from beam_exactly_once.state.hashing import Hashes, Numbers
from beam_exactly_once.state.keyed_chunk import KeyedChunk
from beam_exactly_once.state.keys import decode_keys
from beam_exactly_once.state.ordering import order_of
from beam_exactly_once.state.run import ABSENT, NEVER, Run, empty_values
from beam_exactly_once.state.shard import OpenSlice, Shard
from beam_exactly_once.state.timers import earliest
from beam_exactly_once.state.windows.bundle import MAX_EMITTED_ROWS, ClosingBundle, hashes_within
from beam_exactly_once.state.windows.expiring import expiring, first_expiry, newest_of
from beam_exactly_once.state.windows.operator import WindowResult
from beam_exactly_once.state.windows.slides import BySlide, Closing, Heads, Ring, SlideEach, Slides, objects
from beam_exactly_once.state.windows.window_keys import ends_of, user_keys, with_ends

HEAD_MS = NEVER
"""What the key of a head has in the place of an end."""


class SlideBundle(ClosingBundle[SlideEach]):
    """As :class:`~beam_exactly_once.state.windows.bundle.WindowBundle`; windows share slides."""

    def _change_by(self, groups: KeyedChunk, shard: Shard) -> Iterator[list[WindowResult]]:
        values = groups.values
        if len(values) > len(groups.hashes):  # else each slide has one, which other workers have made
            values = [reduce(self._update.fn, group) for group in groups.groups]
        for one in shard.slices:
            start, stop = hashes_within(groups.hashes, one)
            if stop > start:
                keys = groups.keys.take(pa.array(np.arange(start, stop)))
                self._put_rows(one, groups.hashes[start:stop], keys, values[start:stop])
        return iter(())

    def _put_rows(self, one: OpenSlice, hashes: Hashes, keys: pa.LargeBinaryArray, values: list[Any]) -> None:
        """Bring rows into their slides; where closed windows have a slide already, into the total of the key, too."""
        each, ends_ms = self._update, ends_of(keys)
        expiry_ms = ends_ms + each.stays_ms
        known = newest_of(expiring(one.runs, int(expiry_ms.min()) - 1, int(expiry_ms.max()), exactly_ms=expiry_ms))
        rows = known.find(hashes, keys)
        is_known = rows != ABSENT
        self._keys_added += int(np.count_nonzero(~is_known))
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
            users = user_keys(keys.take(pa.array(past)))
            self._put_heads(one, hashes[past], users, ends_ms[past], [values[row] for row in past])

    def _put_heads(
        self, one: OpenSlice, hashes: Hashes, users: pa.LargeBinaryArray, ends_ms: Numbers, values: list[Any]
    ) -> None:
        """Bring what came into these slides of closed windows into the heads of their keys."""
        assert self._lower_ms is not None
        next_ms = self._update.end_behind(self._lower_ms)
        stored, _ = _heads_and_slides(expiring(one.runs, next_ms - 1, next_ms, hashes=hashes))
        keys, (of_stored, changed) = _Keys.of([(stored.hashes, user_keys(stored.keys)), (hashes, users)])
        heads = self._heads(stored, of_stored, len(keys.hashes))
        for end_ms, more in _by_time(ends_ms, changed, values).items():
            self._update.with_more(heads, more)
            heads.newest_ms[more.places] = np.maximum(heads.newest_ms[more.places], end_ms)
        one.delta = self._beside_heads(one, heads, keys, np.unique(changed), next_ms)

    def _closed(self, one: OpenSlice) -> Iterator[list[WindowResult]]:
        lower_ms = -NEVER if self._lower_ms is None else self._lower_ms
        one.next_due_ms = earliest(one.base.next_due_ms, self._next_due(one.changed, lower_ms))
        if one.next_due_ms is None or one.next_due_ms > self._upper_ms:
            return
        with no_collection():
            closing, keys = self._opened(one.changed + one.runs, lower_ms)
            shown = objects(decode_keys(keys.users))
        size_ms = self._update.windows.size_ms
        for end_ms, places, results in closing.windows(one.next_due_ms, self._upper_ms):
            for start in range(0, len(places), MAX_EMITTED_ROWS):
                part = slice(start, start + MAX_EMITTED_ROWS)
                of_keys = shown[places[part]].tolist()
                with no_collection():
                    given = list(map(WindowResult, of_keys, repeat(end_ms - size_ms), repeat(end_ms), results[part]))
                yield given
        there = np.flatnonzero(closing.heads.is_there)
        if len(there):
            next_ms = self._update.end_behind(self._upper_ms)
            one.delta = self._beside_heads(one, closing.heads, keys, there, next_ms)  # those of before expire now
        one.next_due_ms = self._next_due(one.changed + one.runs, self._upper_ms)

    def _opened(self, runs: Sequence[Run], lower_ms: int) -> tuple[Closing, _Keys]:
        """The windows that close now, and the keys that may be in them."""
        each, stays_ms = self._update, self._update.stays_ms
        heads, leaving = _heads_and_slides(expiring(runs, lower_ms, self._upper_ms))
        _, ending = _heads_and_slides(expiring(runs, lower_ms + stays_ms, self._upper_ms + stays_ms))
        self._keys_added -= len(leaving)
        every = [(run.hashes, user_keys(run.keys)) for run in (heads, leaving, ending)]
        keys, (of_heads, of_leaving, of_ending) = _Keys.of(every)

        def rings(places: Numbers) -> Mapping[int, Ring]:
            until_ms = self._upper_ms + stays_ms
            slides = _heads_and_slides(expiring(runs, lower_ms, until_ms, hashes=keys.hashes[places])).slides
            users = keys.users.take(pa.array(places)).to_pylist()
            return self._rings(slides, dict(zip(users, places.tolist(), strict=True)))

        added = _by_time(ends_of(ending.keys), of_ending, self._values(ending))
        left = _by_time(leaving.expiry_ms, of_leaving, self._values(leaving))
        return Closing(each, self._heads(heads, of_heads, len(keys.hashes)), added, left, rings), keys

    def _next_due(self, runs: Sequence[Run], behind_ms: int) -> int | None:
        """When the next head expires, or the next slide ends."""
        stays_ms = self._update.stays_ms
        ending_ms = first_expiry(runs, behind_ms + stays_ms)
        return earliest(first_expiry(runs, behind_ms), None if ending_ms is None else ending_ms - stays_ms)

    # -- rows as values, and values as rows ------------------------------------------------------------------------------

    def _values(self, run: Run) -> list[Any]:
        return self._update.state_type.decode(run.values, run.versions, operator=self._operator)

    def _heads(self, run: Run, places: Numbers, count: int) -> Heads:
        return Heads.of(count, places, self._values(run), with_totals=self._update.inverse_fn is not None)

    def _rings(self, slides: Run, place_of: Mapping[bytes, int]) -> dict[int, Ring]:
        """Of these keys. Rows of one key may lie among those of another one of its hash, but their ends rise."""
        found = {place: Ring([], []) for place in place_of.values()}
        users, ends_ms = user_keys(slides.keys).to_pylist(), ends_of(slides.keys).tolist()
        for user, end_ms, value in zip(users, ends_ms, self._values(slides), strict=True):
            place = place_of.get(user)
            if place is not None:
                found[place].ends_ms.append(end_ms)
                found[place].values.append(value)
        return found

    def _run_of(self, hashes: Hashes, keys: pa.LargeBinaryArray, values: list[Any], expiry_ms: Numbers) -> Run:
        state_type = self._update.state_type
        column = state_type.encode(values, operator=self._operator).column
        return Run.of(hashes, keys, column, np.full(len(hashes), state_type.version, np.uint8), expiry_ms=expiry_ms)

    def _beside_heads(self, one: OpenSlice, heads: Heads, keys: _Keys, places: Numbers, next_ms: int) -> Run:
        """The slides that the batch changes, beside the heads of these keys."""
        slides = _heads_and_slides(one.changed).slides
        of_heads = with_ends(keys.users.take(pa.array(places)), np.full(len(places), HEAD_MS))
        state_type = self._update.state_type
        column = state_type.encode(heads.stored(places), operator=self._operator).column
        return Run.of(
            np.concatenate([slides.hashes, keys.hashes[places]]),
            pa.concat_arrays([slides.keys, of_heads]),
            pa.concat_arrays([slides.values, column]),
            np.concatenate([slides.versions, np.full(len(places), state_type.version, np.uint8)]),
            expiry_ms=np.concatenate([slides.expiry_ms, np.full(len(places), next_ms)]),
        )


class _Keys(NamedTuple):
    """Different keys of users, by place."""

    hashes: Hashes
    users: pa.LargeBinaryArray

    @classmethod
    def of(cls, runs: Sequence[tuple[Hashes, pa.LargeBinaryArray]]) -> tuple[_Keys, list[Numbers]]:
        """Of rows of some runs, with the place of the key of each row."""
        hashes = np.concatenate([hashes for hashes, _ in runs])
        users = pa.concat_arrays([users for _, users in runs])
        order, repeats = order_of(hashes, users, empty_values(len(users)))
        places = np.empty(len(order), np.int64)
        places[order] = np.cumsum(~repeats) - 1
        firsts = order[~repeats]
        bounds = np.cumsum([len(hashes) for hashes, _ in runs])[:-1]
        return cls(hashes[firsts], users.take(pa.array(firsts))), np.split(places, bounds)


def _by_time(times_ms: Numbers, places: Numbers, values: list[Any]) -> BySlide:
    """Slides by these times, the earliest first. Most often one window closes, so there is one."""
    order = np.argsort(times_ms, kind="stable")
    every = Slides(places, objects(values))
    each_ms, starts = np.unique(times_ms[order], return_index=True)
    parts = np.split(order, starts[1:])
    return {at_ms: every.only(rows) for at_ms, rows in zip(each_ms.tolist(), parts, strict=False)}


class _HeadsAndSlides(NamedTuple):
    heads: Run
    slides: Run


def _heads_and_slides(runs_newest_first: Sequence[Run]) -> _HeadsAndSlides:
    """The newest of each. Most often a run has the ones or the others, and nothing that another one has, too."""
    both: tuple[list[Run], list[Run]] = [], []
    for run in runs_newest_first:
        is_head = ends_of(run.keys) == HEAD_MS
        for parts, is_wanted in zip(both, (is_head, ~is_head), strict=True):
            if is_wanted.any():
                parts.append(run if is_wanted.all() else run.rows_at(np.flatnonzero(is_wanted)))
    return _HeadsAndSlides(*map(newest_of, both))
