"""Checkpoints in memory and the records in them, for stories and for hypothesis."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import orjson
from hypothesis import settings
from hypothesis import strategies as st

from beam_exactly_once import TopicPartition
from beam_exactly_once.checkpoint import Attempt, Checkpoint, Marker, Piece, Plan, Predecessor, SourceCommit, SourcePlan
from beam_exactly_once.checkpoint.records import WriterClaim
from beam_exactly_once.object_store import ObjectStore, open_object_store
from beam_exactly_once.offsets import OffsetRange

repeatable = settings(derandomize=True, deadline=None, database=None)
"""The same examples in every run; a slow machine is no fault."""

NOW = 1_767_225_600_000
"""The first moment of 2026."""
P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)


def orders(partition: int, start: int, stop: int) -> OffsetRange:
    return OffsetRange("orders", partition, start, stop)


def fresh_store() -> ObjectStore:
    """An empty place in memory, unlike any other."""
    return open_object_store(f"memory://checkpoint-{secrets.token_hex(8)}")


def fresh_checkpoint() -> Checkpoint:
    return Checkpoint.open(fresh_store())


def plan(batch_id: int, writer_epoch: int = 1) -> Plan:
    """Ten offsets of orders-0 a batch."""
    start, stop = 10 * batch_id, 10 * batch_id + 10
    return Plan(batch_id, writer_epoch, NOW, {"kafka": SourcePlan((orders(0, start, stop),), (), {P0: stop})})


def marker(batch_id: int, writer_epoch: int = 1, nonce: str = "a") -> Marker:
    stop = 10 * batch_id + 10
    return Marker(
        batch_id,
        "committed",
        Attempt(writer_epoch, batch_id, nonce),
        {"kafka": SourceCommit({P0: stop}, (), 10, 100)},
        {"files": ({"final_key": f"part-{batch_id}-{nonce}", "rows": 10, "size_bytes": 100},)},
        NOW,
    )


def overwrite(store: ObjectStore, key: str, change: Callable[[bytes], bytes]) -> None:
    """Damage an object, as only an accident can."""
    body = store.get(key)
    assert body is not None
    store.delete([key])
    store.put_if_absent(key, change(body))


def change_field(**fields: Any) -> Callable[[bytes], bytes]:
    """Replaces fields of the envelope."""
    return lambda data: orjson.dumps({**orjson.loads(data), **fields})


# -- any record ------------------------------------------------------------------------------------------------------

_texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
_offsets = st.integers(0, 2**60)
_moments_ms = st.integers(0, 2**45)
partitions = st.builds(TopicPartition, _texts, st.integers(0, 2**31 - 1))


@st.composite
def ranges(draw: st.DrawFn) -> OffsetRange:
    start, stop = sorted((draw(_offsets), draw(_offsets)))
    return OffsetRange(draw(_texts), draw(st.integers(0, 1000)), start, stop)


sorted_ranges = st.lists(ranges(), max_size=5).map(lambda found: tuple(sorted(found)))
next_offsets = st.dictionaries(partitions, _offsets, max_size=5)
attempts = st.builds(Attempt, st.integers(1, 2**40), st.integers(0, 2**40), _texts)
writer_claims = st.builds(WriterClaim, st.integers(1, 2**40), _texts, _moments_ms)
source_plans = st.builds(SourcePlan, sorted_ranges, sorted_ranges, next_offsets)
plans = st.builds(
    Plan,
    st.integers(0, 2**40),
    st.integers(1, 2**40),
    _moments_ms,
    st.dictionaries(_texts, source_plans, max_size=3),
    st.dictionaries(_texts, _texts, max_size=3),
)
source_commits = st.builds(SourceCommit, next_offsets, sorted_ranges, st.integers(0, 2**60), st.integers(0, 2**60))
committables = st.fixed_dictionaries({"rows": st.integers(0, 2**40), "name": _texts, "staged": st.just({"part": [1]})})
shards = st.dictionaries(_texts, st.integers(1, 64), max_size=3)
markers = st.builds(
    Marker,
    st.integers(0, 2**40),
    st.sampled_from(["committed", "skipped", "abandoned"]),
    attempts,
    st.dictionaries(_texts, source_commits, max_size=3),
    st.dictionaries(_texts, st.lists(committables, max_size=4).map(tuple), max_size=3),
    _moments_ms,
    st.none() | st.builds(Predecessor, attempts, shards),
    shards,
    st.dictionaries(_texts, st.integers(1, 2**40), max_size=3),
)
pieces = st.builds(
    Piece, _texts, ranges(), st.integers(0, 2**40), st.integers(0, 2**40), st.lists(ranges(), max_size=3).map(tuple)
)
