"""``SessionBundle``: the shards of an ``AggregateByWindow`` with sessions.

Rows come as they are, since only here it is known into which sessions they fall, and which of them are late. All rows of a batch
are taken together, so their order does not matter: a row that would be late alone is not, if others of its batch join it to a
session that is open.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import chain

import numpy as np
import pyarrow as pa

from beam_exactly_once.state.garbage import no_collection
from beam_exactly_once.state.hashing import Hashes
from beam_exactly_once.state.keyed_chunk import KeyedChunk
from beam_exactly_once.state.keys import decode_key
from beam_exactly_once.state.merging import merged
from beam_exactly_once.state.run import NEVER, TOMBSTONE, Run
from beam_exactly_once.state.shard import Shard
from beam_exactly_once.state.updates import MISSING
from beam_exactly_once.state.windows.bundle import AggregatingBundle, hashes_within
from beam_exactly_once.state.windows.expiring import unexpired
from beam_exactly_once.state.windows.sessions import Part, Session, SessionEach, sessions_of
from beam_exactly_once.state.windows.window_keys import ends_of, user_keys, with_ends


class SessionBundle(AggregatingBundle[SessionEach]):
    """As :class:`~beam_exactly_once.state.windows.bundle.WindowBundle`; windows merge when rows come between them."""

    finds_late = True

    def _touched(self, groups: KeyedChunk, shard: Shard) -> Run:
        parts, hash_of = self._parts(groups, shard)
        gap_ms = self._update.gap_ms
        changed: list[tuple[bytes, Session]] = []
        for key, of_key in parts.items():
            for session in sessions_of(of_key, gap_ms):
                if self._lower_ms is not None and session.last_ms + gap_ms <= self._lower_ms:
                    shown = decode_key(key)
                    self.late += [(shown, value) for part in session.parts for value in part.content]
                elif not all(part.is_stored for part in session.parts):
                    changed.append((key, session))
        return self._run_of(changed, hash_of)

    def _parts(self, groups: KeyedChunk, shard: Shard) -> tuple[dict[bytes, list[Part]], dict[bytes, int]]:
        """The batch's rows and the open sessions of each key, and the hash of the key."""
        parts: dict[bytes, list[Part]] = defaultdict(list)
        with no_collection():
            keys = user_keys(groups.keys).to_pylist()
            hash_of = dict(zip(keys, groups.hashes.tolist(), strict=True))
            for key, at_ms, values in zip(keys, ends_of(groups.keys).tolist(), groups.groups, strict=True):
                parts[key].append(Part(at_ms, at_ms, False, values))
            known = self._open_sessions(groups.hashes, shard)
            accumulators = self._update.state_type.decode(known.values, known.versions, operator=self._operator)
            rows = ends_of(known.keys).tolist(), (known.expiry_ms - self._update.gap_ms).tolist(), accumulators
            for key, first_ms, last_ms, accumulator in zip(user_keys(known.keys).to_pylist(), *rows, strict=True):
                if key in parts:  # else another key of the same hash
                    parts[key].append(Part(first_ms, last_ms, True, accumulator))
        return parts, hash_of

    def _open_sessions(self, hashes: Hashes, shard: Shard) -> Run:
        lower_ms = -NEVER if self._lower_ms is None else self._lower_ms
        found = []
        for one in shard.slices:
            start, stop = hashes_within(hashes, one)
            if stop > start:
                found.append(unexpired(one.runs, np.unique(hashes[start:stop]), lower_ms))
        return merged(found)

    def _run_of(self, changed: list[tuple[bytes, Session]], hash_of: dict[bytes, int]) -> Run:
        """The rows of sessions that change. Those that merged away stay as tombstones until they would have ended."""
        combine, state_type = self._update.combine, self._update.state_type
        new, states, gone = [], [], []
        for key, session in changed:
            stored = [part for part in session.parts if part.is_stored]
            values = list(chain.from_iterable(part.content for part in session.parts if not part.is_stored))
            new.append([combine.accumulator(values), *(part.content for part in stored[1:])])
            states.append(stored[0].content if stored else MISSING)
            gone += [(key, part) for part in stored if part.first_ms != session.first_ms]
            self._keys_added += 1 - len(stored)
        values_after = state_type.encode(combine.new_states(new, states), operator=self._operator).column
        keys = [key for key, _ in changed] + [key for key, _ in gone]
        firsts_ms = [session.first_ms for _, session in changed] + [part.first_ms for _, part in gone]
        lasts_ms = [session.last_ms for _, session in changed] + [part.last_ms for _, part in gone]
        versions = np.repeat(np.array([state_type.version, TOMBSTONE], np.uint8), [len(changed), len(gone)])
        return Run.of(
            np.array([hash_of[key] for key in keys], np.uint64),
            with_ends(pa.array(keys, pa.large_binary()), np.array(firsts_ms, np.int64)),
            pa.concat_arrays([values_after, pa.nulls(len(gone), state_type.arrow_type)]),
            versions,
            expiry_ms=np.array(lasts_ms, np.int64) + self._update.gap_ms,
        )
