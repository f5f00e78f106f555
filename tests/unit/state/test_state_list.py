from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.checkpoint import Attempt, Checkpoint, Marker, StreamWriter, layout, location
from beam_exactly_once.checkpoint.resolution import propose, resolve
from beam_exactly_once.checkpoint.retention import Retention
from beam_exactly_once.clock import SYSTEM_CLOCK
from beam_exactly_once.errors import IncompleteBatch
from beam_exactly_once.state.state_list import HASHES, Section, Slice, SliceChange, StateChange, StateList, state_lists
from beam_exactly_once.state.upkeep.sweeping import sweep_state
from support.checkpoints import fresh_store, marker, plan, repeatable

ATTEMPT = Attempt(2, 7, "a1")
KEY = layout.state_key("counts", 7, "a1", "0123456789abcdef")


def section(number: int, key: str = KEY) -> Section:
    return Section(key, 100 * number, 100, f"{number:032x}", 10, 1)


def old_section(number: int) -> Section:
    return section(number, layout.state_key("counts", number, "a0", "0123456789abcdef"))


def base() -> StateList:
    """Two slices; the first has three sections."""
    empty = StateList.empty(slices=2)
    first = replace(empty.slices[0], sections=(old_section(3), old_section(2), old_section(1)))
    return replace(empty, slices=(first, empty.slices[1]), fired_ms=1000, keys=5)


def untouched(one: Slice) -> SliceChange:
    return SliceChange(one.first_hash, one.end_hash, one.digest)


def behind(state: StateList, *slices: SliceChange, rows_in: int = 4, rows_sent: int = 4) -> StateList:
    changes = [StateChange("counts", (one,), 0, 0) for one in slices[:-1]]
    changes.append(StateChange("counts", slices[-1:], rows_in, 2))
    return state.behind(changes, operator="counts", attempt=ATTEMPT, fired_ms=2000, rows_sent=rows_sent)


def test_a_batch_puts_its_rows_in_front_merged_with_the_newest_sections() -> None:
    first, second = base().slices
    change = SliceChange(first.first_hash, first.end_hash, first.digest, section(7), 2, 5000)
    after = behind(base(), untouched(second), change)
    assert after.slices[0].sections == (section(7), old_section(1))
    assert after.slices[1] == second
    assert (after.fired_ms, after.keys, after.next_due_ms) == (2000, 7, 5000)
    assert after.object_keys == {KEY, old_section(1).object_key}


def test_a_slice_is_split_in_the_batch_that_changes_it() -> None:
    first, second = base().slices
    middle = first.end_hash // 2
    left = SliceChange(0, middle, first.digest, section(1))
    right = SliceChange(middle, first.end_hash, first.digest, section(2))
    after = behind(base(), left, right, untouched(second))
    assert [(one.first_hash, one.end_hash) for one in after.slices] == [
        (0, middle),
        (middle, first.end_hash),
        (first.end_hash, HASHES),
    ]
    assert after.slices[0].sections == (section(1), *first.sections)
    assert after.slices[1].sections == (section(2), *first.sections)


FIRST, SECOND = base().slices
HERE = untouched(FIRST)
THERE = untouched(SECOND)
STALE = replace(FIRST, sections=FIRST.sections[1:])


@pytest.mark.parametrize(
    ("changes", "rows_in", "message"),
    [
        ([HERE], 4, "hashes from 8000000000000000 on were changed by none"),
        ([THERE], 4, "from 0 to 8000000000000000 were changed by none or by two"),
        ([HERE, HERE, THERE], 4, "from 8000000000000000 to 0 were changed by none or by two"),
        ([untouched(STALE), THERE], 4, "stand on another list than that of the batch before"),
        ([replace(HERE, merged=4), THERE], 4, "stand on another list"),
        ([SliceChange(0, HASHES, FIRST.digest)], 4, "are not of one slice"),
        ([HERE, THERE], 3, "4 rows were sent to it, and 3 came"),
        ([HERE, replace(THERE, section=old_section(7))], 4, "is of another attempt"),
        ([HERE, replace(THERE, next_due_ms=2000)], 4, "a timer at 2000 is behind 2000"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_part_that_is_not_as_it_must_be_is_not_committed(
    changes: list[SliceChange], rows_in: int, message: str
) -> None:
    with pytest.raises(IncompleteBatch, match=f"state of operator 'counts' did not come whole: .*{message}"):
        behind(base(), *changes, rows_in=rows_in)


@st.composite
def any_lists(draw: st.DrawFn) -> StateList:
    inner = draw(st.lists(st.integers(1, HASHES - 1), max_size=5, unique=True))
    dues = st.none() | st.integers(0, 2**60)
    slices = tuple(
        Slice(first, end, tuple(map(old_section, draw(st.lists(st.integers(0, 9), max_size=4)))), draw(dues))
        for first, end in pairwise([0, *sorted(inner), HASHES])
    )
    return StateList(draw(st.integers(1, 9)), slices, draw(dues), draw(st.integers(0, 2**60)))


@repeatable
@given(any_lists())
def test_what_is_stored_comes_back(state: StateList) -> None:
    assert StateList.from_json(orjson.loads(orjson.dumps(state.to_json()))) == state
    assert [Slice.from_json(orjson.loads(orjson.dumps(one.to_json()))) for one in state.slices] == list(state.slices)


@repeatable
@given(st.lists(st.integers(0, 9), max_size=4).map(lambda numbers: tuple(map(section, numbers))))
def test_a_change_comes_back(sections: tuple[Section, ...]) -> None:
    for one in sections:
        change = StateChange("counts", (SliceChange(0, HASHES, "d", one, 2, 5),), 3, -1)
        assert StateChange.from_json(orjson.loads(orjson.dumps(change.to_json()))) == change


# -- in a checkpoint -------------------------------------------------------------------------------------------------


def with_state(batch_id: int, *numbers: int) -> Marker:
    """A marker whose state is in these objects."""
    first = replace(StateList.empty().slices[0], sections=tuple(map(old_section, numbers)))
    state = replace(StateList.empty(), slices=(first, *StateList.empty().slices[1:]))
    return replace(marker(batch_id), state={"counts": state.to_json()})


def stream(*markers: Marker) -> StreamWriter:
    checkpoint = Checkpoint.open(fresh_store())
    writer = StreamWriter.claim(checkpoint, owner="ann", claimed_at_ms=1)
    for one in markers:
        checkpoint.create_plan(plan(one.batch_id))
        checkpoint.create_marker(one)
        for key in StateList.from_json(one.state["counts"]).object_keys:
            checkpoint.store.put_if_absent(key, b"rows")
    return writer


def test_older_versions_do_not_read_a_marker_with_state() -> None:
    """They would decide the next batch without it."""
    writer = stream(with_state(0, 0))
    writer.checkpoint.create_marker(marker(1))
    stored = [orjson.loads(writer.checkpoint.store.get(layout.commits_key(number)) or b"") for number in (0, 1)]
    assert [one["min_reader_version"] for one in stored] == [3, 2]


@pytest.mark.parametrize("outcome", ["skipped", "abandoned"])
def test_a_batch_that_is_passed_keeps_a_list_of_its_own(outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the list is kept beside the marker, and what is beside the marker before is swept."""
    monkeypatch.setattr(location, "MAX_MARKER_BYTES", 10)
    writer = stream(with_state(0, 0), with_state(1, 0, 1))
    checkpoint = writer.checkpoint
    checkpoint.create_plan(plan(2))
    resolve(propose(checkpoint.store, 2, outcome), owner="ann", clock=SYSTEM_CLOCK)  # type: ignore[arg-type]
    Retention(checkpoint, 1).sweep_all(2)
    passed = checkpoint.read_marker(2)
    assert passed is not None
    assert passed.state == with_state(1, 0, 1).state


def test_a_sweep_leaves_what_a_retained_list_or_a_running_batch_needs() -> None:
    writer = stream(with_state(0, 0), with_state(1, 1), with_state(2, 1, 2), with_state(3, 3))
    store = writer.checkpoint.store
    lost, running = (layout.state_key("counts", number, "lost", "0123456789abcdef") for number in (1, 4))
    for key in (lost, running, "state/counts/note.txt"):
        store.put_if_absent(key, b"")
    newest = writer.checkpoint.read_marker(3)
    assert newest is not None
    sweep_state(writer, oldest_retained=2, newest=state_lists(newest))
    kept = [old_section(number).object_key for number in (1, 2, 3)]
    assert [entry.key for entry in store.list(layout.STATE)] == sorted([*kept, running, "state/counts/note.txt"])


@pytest.mark.parametrize("oldest_retained", [-1, 9])
def test_without_the_marker_of_the_oldest_batch_nothing_is_swept(oldest_retained: int) -> None:
    writer = stream(with_state(0, 0), with_state(1, 1))
    sweep_state(writer, oldest_retained=oldest_retained, newest={})
    assert len(list(writer.checkpoint.store.list(layout.STATE))) == 2
