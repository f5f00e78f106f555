"""Keys with a state and a timeout are called as a plain dict says, whatever batches are cut and attempts lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_exactly_once import ArrowState, GroupState, JsonState, Record, StateCache
from beam_exactly_once.errors import ConfigurationError, IncompleteBatch, UnfitRow
from beam_exactly_once.state import bundle as state_bundle
from beam_exactly_once.state.groups import bundle as groups_bundle
from beam_exactly_once.state.groups.calls import CallEach, left_by
from beam_exactly_once.state.merging import merged
from beam_exactly_once.state.run import NEVER
from beam_exactly_once.state.timers import due_rows, earliest, first_due, is_batch_due, next_due
from support.timers.obedient_calls import DELAYS, DOES, Both
from support.timers.operator_in_memory import OperatorInMemory

DO, DELAY = st.sampled_from(DOES), st.sampled_from(DELAYS)
ORDER = st.tuples(DO, DELAY, st.tuples(DO, DELAY))
"""What a call does, when its key is due, and what is done then."""
BATCH = st.tuples(
    st.lists(st.tuples(st.integers(0, 5), ORDER), max_size=6),
    st.integers(-10, 20),  # since the batch before, by a clock that may go back
    st.integers(1, 4),  # shards
    st.sampled_from(["committed", "committed", "attempt lost", "passed"]),
)


@given(st.lists(BATCH, max_size=15))
@settings(deadline=None, max_examples=60)
def test_keys_are_called_as_a_dict_says(batches: list[Any]) -> None:
    both, clock_ms = Both(), 1_000
    for pairs, elapsed_ms, shards, outcome in batches:
        clock_ms += elapsed_ms
        if outcome != "committed":
            both.operator.attempt(pairs, clock_ms + 5, shards=shards)
        if outcome != "passed":
            both.run(pairs, clock_ms, shards)


@given(st.lists(BATCH, max_size=12), st.integers(-10, 40))
@settings(deadline=None, max_examples=30)
def test_batches_for_timers_alone_end_with_nothing_due(batches: list[Any], later_ms: int) -> None:
    """Also where each call sets its timeout again, or the clock has gone back."""
    both = Both()
    for pairs, at_ms, shards, _ in batches:
        both.run(pairs, 1_000 + at_ms, shards)
    now_ms, count = 1_020 + later_ms, 0
    while is_batch_due([both.operator.state], now_ms, now_ms):
        both.run([], now_ms)
        count += 1
        assert count <= 2
    entries = both.oracle.entries
    assert [key for key, one in entries.items() if one.due_ms is not None and one.due_ms <= now_ms] == []


@given(st.lists(BATCH, max_size=15), st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_keys_are_called_as_a_dict_says_few_at_once(batches: list[Any], keys_at_once: int) -> None:
    both, clock_ms = Both(), 1_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups_bundle.GroupBundle, "keys_at_once", keys_at_once)
        for pairs, elapsed_ms, shards, _ in batches:
            clock_ms += elapsed_ms
            both.run(pairs, clock_ms, shards)


def test_a_clock_that_jumps_far_ahead_and_back_loses_nothing() -> None:
    """All that was set fires then, once; what is set later waits until clocks have come there again, and asks for no batch."""
    both, year_ms = Both(), 365 * 86_400_000
    stays = ("update", 20, ("update", 20))
    both.run([(key, stays) for key in range(4)], 1_000)
    both.run([(0, stays)], 1_000 + year_ms)
    for at_ms in (1_010, 1_030, 5_000):
        assert not is_batch_due([both.operator.state], at_ms, None)
        both.run([(at_ms, stays)], at_ms)
    assert is_batch_due([both.operator.state], year_ms + 2_000, None)
    both.run([], year_ms + 2_000)
    assert {one["calls"] for one, _ in both.operator.remembered().values()} >= {2, 3}


@pytest.mark.parametrize("keys_at_once", [1, 7, 1_000])
def test_many_that_are_due_at_once_are_called_few_at_once(keys_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the calls gave is emitted before the next are made."""
    monkeypatch.setattr(groups_bundle.GroupBundle, "keys_at_once", keys_at_once)
    made = 0

    def counted(key: int, values: list[int], state: GroupState[int]) -> Iterator[int]:
        nonlocal made
        made += 1
        state.set_timeout(200)
        yield key

    given: list[int] = []
    for_each = groups_bundle.GroupBundle.call

    def watched(*arguments: Any) -> Iterator[Any]:
        for emitted in for_each(*arguments):
            given.extend(emitted.rows)
            assert made == len(given)
            assert len(emitted.rows) <= keys_at_once
            yield emitted

    monkeypatch.setattr(groups_bundle.GroupBundle, "call", watched)
    operator = operator_of(counted)
    operator.run([(key, 0) for key in range(100)], 100)
    operator.run([], 300)
    assert sorted(given) == sorted([*range(100)] * 2)


# -- one rule each ---------------------------------------------------------------------------------------------------


def operator_of(fn: Any, **given: Any) -> OperatorInMemory:
    return OperatorInMemory(CallEach(fn, given.pop("state", JsonState()), **given))


def test_a_timeout_in_the_past_fires_in_the_next_batch() -> None:
    def late(key: str, values: list[int], state: GroupState[int]) -> Iterator[Any]:
        if not state.timed_out:
            state.set_timeout(values[0])
        yield key, state.timed_out, state.now_ms

    operator = operator_of(late)
    assert operator.run([("a", 3), ("b", 100), ("c", 101)], 100).rows.count(("a", False, 100)) == 1
    assert sorted(operator.run([], 101).rows) == [("a", True, 101), ("b", True, 101), ("c", True, 101)]
    assert operator.run([], 500).rows == []


def test_a_key_with_values_is_not_called_for_its_timeout() -> None:
    def seen(key: str, values: list[int], state: GroupState[int]) -> Iterator[Any]:
        yield key, values, state.timed_out
        if values == [1]:
            state.set_timeout(20)

    operator = operator_of(seen)
    operator.run([("a", 1)], 10)
    assert operator.run([("a", 2)], 30).rows == [("a", [2], False)]
    assert operator.run([], 99).rows == []  # and it was cleared


def test_what_is_removed_is_readable_until_the_call_returns() -> None:
    def forget(key: str, values: list[int], state: GroupState[int]) -> Iterator[Any]:
        before = state.value
        state.remove()
        yield before, state.value
        if before is None:
            state.update(7)

    operator = operator_of(forget)
    assert operator.run([("a", 1)], 1).rows == [(None, None)]
    assert operator.run([("a", 1)], 2).rows == [(7, 7)]
    assert operator.remembered() == {}


def test_a_value_that_is_changed_inside_is_kept_only_when_it_is_given() -> None:
    def add(key: str, values: list[int], state: GroupState[list[int]]) -> None:
        seen = state.value or []
        seen += values
        if state.value is None or values == [3]:
            state.update(seen)
        state.set_timeout(state.now_ms + 100)

    operator = operator_of(add)
    for number, expected in ((1, [1]), (2, [1]), (3, [1, 3])):
        operator.run([("a", number)], number)
        assert operator.remembered() == {"a": (expected, number + 100)}


@pytest.mark.parametrize(
    ("state", "value"),
    [(ArrowState(pa.schema([("n", pa.int64())])), {"n": 5}), (JsonState(), [5])],
    ids=["arrow", "json"],
)
def test_a_state_stays_as_it_is_stored_while_its_timeout_moves(state: Any, value: Any) -> None:
    def move(key: str, values: list[int], state: GroupState[Any]) -> list[Any]:
        if values == [1]:
            state.update(value)
        if values:
            state.set_timeout(state.now_ms + 10)
        return [(key, state.value, state.timed_out)]

    operator = operator_of(move, state=state)
    operator.run([("a", 1), ("bare", 0)], 1)
    operator.run([("a", 2)], 5)
    assert operator.remembered() == {"a": (value, 15), "bare": (None, 11)}
    assert sorted(operator.run([], 20).rows) == [("a", value, True), ("bare", None, True)]
    assert operator.remembered() == {"a": (value, None)}


def test_a_call_that_fails_gives_nothing_and_leaves_the_others() -> None:
    """Its rows are rejected and its state stays; at a timeout the state is rejected, else it would fail again for ever."""

    def fragile(key: str, values: list[int], state: GroupState[int]) -> Iterator[Any]:
        yield key, values
        if key == "bad" and (state.timed_out or 13 in values):
            raise ValueError("no 13")
        state.update(len(values))
        state.set_timeout(10 if values else None)

    operator = operator_of(fragile, rejects=True)
    operator.run([("bad", 1), ("good", 1)], 1)
    in_data = operator.run([("bad", 13), ("bad", 2), ("good", 13)], 12)
    assert in_data.rows == [("good", [13])]
    assert sorted(one.row or "" for one in in_data.rejected) == ["('bad', 13)", "('bad', 2)"]
    assert {(one.step, one.error, one.reason) for one in in_data.rejected} == {("calls", "ValueError", "no 13")}
    assert operator.remembered() == {"bad": (1, 13), "good": (1, 13)}
    at_timeout = operator.run([], 13)
    assert at_timeout.rows == [("good", [])]
    assert [one.row for one in at_timeout.rejected] == ["{'key': 'bad', 'state': 1}"]
    assert operator.remembered() == {"good": (0, None)}


def test_a_rejected_record_is_as_it_was_in_kafka() -> None:
    def fail(key: str, values: list[Any], state: GroupState[int]) -> None:
        raise ValueError

    (rejected,) = operator_of(fail, rejects=True).run([("a", Record("t", 3, 7, value=b"x"))], 1).rejected
    assert (rejected.topic, rejected.partition, rejected.offset, rejected.value) == ("t", 3, 7, b"x")


def test_a_state_that_cannot_be_stored_is_rejected_with_its_rows() -> None:
    def keep(key: str, values: list[float], state: GroupState[float]) -> Iterator[str]:
        state.update(values[0])
        yield key

    batch = operator_of(keep, rejects=True).run([("a", 1.0), ("nan", float("nan")), ("b", 2.0)], 1)
    assert sorted(batch.rows) == ["a", "b"]
    assert [(one.error, one.row) for one in batch.rejected] == [("beam_exactly_once.errors.UnfitRow", "('nan', nan)")]
    with pytest.raises(UnfitRow, match="float cannot be stored"):
        operator_of(keep).run([("nan", float("nan"))], 1)


@pytest.mark.parametrize("wrong", [True, 1.5, "12", 2**63 - 1])
def test_a_timeout_is_whole_milliseconds(wrong: Any) -> None:
    with pytest.raises(UnfitRow, match=f"whole milliseconds since 1970 UTC, and got a {type(wrong).__name__}"):
        GroupState(None, now_ms=0).set_timeout(wrong)


def test_none_is_no_state() -> None:
    with pytest.raises(UnfitRow, match="Call remove"):
        GroupState(1, now_ms=0).update(None)


@pytest.mark.parametrize("emitted", ["text", b"bytes", {"a": 1}])
def test_one_value_is_not_taken_to_pieces(emitted: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"gave a {type(emitted).__name__}; it must yield"):
        operator_of(lambda key, values, state: emitted, rejects=True).run([("a", 1)], 1)


def test_an_idle_slice_is_not_opened() -> None:
    """A worker on a new machine reads what has rows or is due, and nothing else."""

    def remind(key: int, values: list[int], state: GroupState[int]) -> None:
        state.update(1)
        if values:
            state.set_timeout(values[0])

    operator = OperatorInMemory(CallEach(remind, JsonState()), cache=StateCache(max_bytes=0, max_memory_bytes=0))
    operator.run([(key, 50) for key in range(40)], 1)
    fetched: list[str] = []
    get_range = operator.store.get_range
    operator.store.get_range = lambda *args: fetched.append(args[0]) or get_range(*args)  # type: ignore[method-assign,func-returns-value]
    operator.run([], 49)
    assert fetched == []
    operator.run([], 50)
    assert len(fetched) == len(operator.state.slices)


# -- each rule left out ----------------------------------------------------------------------------------------------


def not_raised(calls: Any, old_ms: Any, upper_ms: int, *, timed_out: bool) -> Any:
    """What is due already is stored as it was asked for."""
    return left_by(calls, old_ms, -NEVER, timed_out=timed_out)


def not_cleared(calls: Any, old_ms: Any, upper_ms: int, *, timed_out: bool) -> Any:
    left = left_by(calls, old_ms, upper_ms, timed_out=timed_out)
    return left._replace(due_ms=np.where((left.due_ms == NEVER) & (old_ms > upper_ms), old_ms, left.due_ms))


def failing_timeouts_stay(calls: Any, old_ms: Any, upper_ms: int, *, timed_out: bool) -> Any:
    return left_by(calls, old_ms, upper_ms, timed_out=False)


def failing_rows_forget(calls: Any, old_ms: Any, upper_ms: int, *, timed_out: bool) -> Any:
    return left_by(calls, old_ms, upper_ms, timed_out=True)


def superseded_fire(runs: Any, lower_ms: Any, upper_ms: int) -> Any:
    return [due for run in runs for due in due_rows([run], lower_ms, upper_ms)]


def all_but_the_newest(runs: Any, lower_ms: Any, upper_ms: int) -> Any:
    """What the batch itself has changed supersedes nothing."""
    return due_rows(runs[1:], lower_ms, upper_ms)


def next_is_late(one: Any, upper_ms: int) -> Any:
    due_ms = next_due(one, upper_ms)
    return None if due_ms is None else due_ms + 3


def next_of_the_newest(one: Any, upper_ms: int) -> Any:
    return first_due([*one.changed, *one.runs][:1], upper_ms)


def next_is_as_before(one: Any, upper_ms: int) -> Any:
    """Though what was due then was set again."""
    return earliest(one.base.next_due_ms, first_due(one.changed, upper_ms)) if one.delta else next_due(one, upper_ms)


def next_is_superseded(one: Any, upper_ms: int) -> Any:
    return min((first_due([run], upper_ms) or NEVER for run in one.changed + one.runs), default=None)


def without_what_expires(runs: Any, *, drop_tombstones: bool = False) -> Any:
    """As if nothing were called for it."""
    run = merged(runs, drop_tombstones=drop_tombstones)
    return run.rows_at(np.flatnonzero(run.expiry_ms > 1_150)) if drop_tombstones else run


MUTANTS: dict[Any, tuple[Any, str]] = {
    not_raised: (groups_bundle, "left_by"),
    not_cleared: (groups_bundle, "left_by"),
    failing_timeouts_stay: (groups_bundle, "left_by"),
    failing_rows_forget: (groups_bundle, "left_by"),
    superseded_fire: (groups_bundle, "due_rows"),
    all_but_the_newest: (groups_bundle, "due_rows"),
    next_is_late: (groups_bundle, "next_due"),
    next_of_the_newest: (groups_bundle, "next_due"),
    next_is_as_before: (groups_bundle, "next_due"),
    next_is_superseded: (groups_bundle, "next_due"),
    without_what_expires: (state_bundle, "merged"),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_rule_left_out_is_caught(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MUTANTS[mutant], mutant)
    with pytest.raises((AssertionError, IncompleteBatch)):
        play_all(100)


def test_random_batches_are_as_a_dict_says() -> None:
    """Else the test above could pass by a fault of its own."""
    play_all(10)


def play_all(seeds: int) -> None:
    for seed in range(seeds):
        play(random.Random(seed))


def play(chance: random.Random) -> None:
    both = Both()
    for number in range(12):
        orders = [
            (chance.choice(DOES), chance.choice(DELAYS), (chance.choice(DOES), chance.choice(DELAYS))) for _ in range(3)
        ]
        both.run([(chance.randint(0, 4), order) for order in orders], 1_000 + 10 * number)
