"""Joins of two topics in a stream in memory."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.transforms.combiners import CountCombineFn
from apache_beam.transforms.window import FixedWindows

from beam_exactly_once import (
    AggregateByWindow,
    EventTime,
    ExactlyOnceStream,
    JoinWithinInterval,
    JsonState,
    MapGroupsWithState,
    ReadFromKafka,
    Record,
    StatefulCombinePerKey,
    WriteToFiles,
)
from beam_exactly_once.errors import ConfigurationError, PipelineChanged, UnsupportedPipeline
from beam_exactly_once.testing import run_in_memory


def sent(user: str, at_s: float) -> Record:
    return Record(value=user.encode(), timestamp_ms=int(1000 * at_s))


def topic(stream: Any, name: str, out_of_order_s: float = 0) -> Any:
    read = ReadFromKafka("broker:9092", [name], event_time=EventTime(out_of_order_s=out_of_order_s), name=name)
    return (
        stream
        | read
        | f"Pairs of {name}" >> beam.Map(lambda record: (record.value.decode(), {"at_ms": record.timestamp_ms}))
    )


def shown(user: str, pair: Any) -> dict[str, Any]:
    show_ms, click_ms = (None if one is None else one["at_ms"] for one in pair)
    return {"user": user, "shown": show_ms, "clicked": click_ms}


def clicks_of_shows(stream: Any, out_of_order_s: float = 0, **how: Any) -> None:
    sides = topic(stream, "shows", out_of_order_s), topic(stream, "clicks", out_of_order_s)
    rows, late = sides | JoinWithinInterval(**{"after_s": 60, "event_time_by": "at_ms", **how})
    rows | beam.MapTuple(shown) | WriteToFiles("out", format="json")
    late | beam.MapTuple(lambda user, one: {"user": user, **one}) | WriteToFiles("late", format="json", name="late")


def found(rows: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted(((row["user"], row.get("shown"), row.get("clicked")) for row in rows), key=repr)


def all_of(batches: Sequence[Sequence[Any]]) -> list[Any]:
    return [row for batch in batches for row in batch]


BATCHES = {
    "shows": [[sent("ann", 0), sent("bob", 1)], [sent("ann", 100)], [sent("ann", 99), sent("cid", 300)]],
    "clicks": [
        [sent("ann", 10)],
        [sent("bob", 61), sent("ann", 61)],
        [sent("dan", 60), sent("ann", 161), sent("eve", 300)],
    ],
}


def test_rows_of_one_batch_and_of_two_match_within_the_interval() -> None:
    run = run_in_memory(clicks_of_shows, BATCHES)
    assert [found(batch) for batch in run.published["files"]] == [[("ann", 0, 10_000)], [("bob", 1000, 61_000)], []]
    assert [dict(batch.rows_late) for batch in run.progress] == [{"join_within_interval": late} for late in (0, 0, 0)]


def test_what_nothing_matched_is_given_when_both_sides_have_passed_it() -> None:
    run = run_in_memory(lambda stream: clicks_of_shows(stream, how="full"), BATCHES)
    given = [found(batch) for batch in run.published["files"]]
    assert given[:2] == [[("ann", 0, 10_000)], [("bob", 1000, 61_000)]]
    assert sorted(all_of(given[2:]), key=repr) == [
        ("ann", 100_000, None),
        ("ann", 99_000, None),
        ("ann", None, 161_000),
        ("ann", None, 61_000),
        ("dan", None, 60_000),
    ]
    assert [batch.records_read for batch in run.progress] == [3, 3, 5, 0]


def test_each_side_is_late_by_its_own_watermark() -> None:
    run = run_in_memory(
        clicks_of_shows,
        {
            "shows": [[sent("ann", 100)], [], [sent("ann", 99), sent("ann", 101)]],
            "clicks": [[sent("ann", 10)], [sent("ann", 50)], [sent("ann", 49), sent("ann", 101)]],
        },
    )
    assert all_of(run.published["late"]) == [{"user": "ann", "at_ms": 99_000}]
    assert found(all_of(run.published["files"])) == [("ann", 100_000, 101_000), ("ann", 101_000, 101_000)]


def test_a_join_does_not_depend_on_where_batches_are_cut() -> None:
    """Each side is out of order by less than it may be."""
    chance = random.Random(7)
    sides = [
        [sent(chance.choice("abc"), 10 * number - chance.randrange(30) + 100) for number in range(24)]
        + [sent("z", end_s)]
        for end_s in (9000, 9900)
    ]
    given = []
    for cuts in ([], [7, 11, 20]):
        edges = [0, *cuts, 25]
        shows, clicks = ([side[start:stop] for start, stop in pairwise(edges)] for side in sides)
        run = run_in_memory(
            lambda stream: clicks_of_shows(stream, 60, how="full", before_s=15), {"shows": shows, "clicks": clicks}
        )
        given.append(found(all_of(run.published["files"])))
        assert all_of(run.published["late"]) == []
    near = {
        (one.value.decode(), one.timestamp_ms, two.timestamp_ms)
        for one in sides[0]
        for two in sides[1]
        if one.value == two.value and -15_000 <= two.timestamp_ms - one.timestamp_ms <= 60_000
    }
    assert {one for one in given[0] if None not in one} == near
    assert given[0] == given[1]


def test_windows_of_a_join_miss_nothing() -> None:
    """What a join gives may have happened up to its interval before what its sides have come to."""

    def build(stream: Any) -> None:
        sides = topic(stream, "shows"), topic(stream, "clicks")
        rows = sides | JoinWithinInterval(after_s=60, how="left", event_time_by="at_ms", on_late="drop")
        counts, late = rows | AggregateByWindow(
            CountCombineFn(), FixedWindows(10), event_time_by=lambda pair: pair[0]["at_ms"]
        )
        counts | WriteToFiles("out", format="json")
        late | beam.MapTuple(shown) | WriteToFiles("late", format="json", name="late")

    run = run_in_memory(
        build,
        {
            "shows": [[sent("ann", 1), sent("ann", 2)], [sent("ann", 70)], [sent("bob", 500)]],
            "clicks": [[sent("bob", 60)], [sent("ann", 61)], [sent("bob", 500)]],
        },
    )
    rows = [(row["key"], row["window_start_ms"], row["value"]) for row in all_of(run.published["files"])]
    assert sorted(rows) == [("ann", 0, 2), ("ann", 70_000, 1)]
    assert all_of(run.published["late"]) == []


def test_a_topic_is_joined_with_itself() -> None:
    def build(stream: Any) -> None:
        shows = topic(stream, "shows")
        rows = (shows, shows) | JoinWithinInterval(
            after_s=5, event_time_by=("at_ms", lambda one: one["at_ms"]), on_late="drop"
        )
        rows | beam.MapTuple(shown) | WriteToFiles("out", format="json")

    run = run_in_memory(build, {"shows": [[sent("ann", 1)], [sent("ann", 3)]]})
    assert [found(batch) for batch in run.published["files"]] == [
        [("ann", 1000, 1000)],
        [("ann", 1000, 3000), ("ann", 3000, 3000)],
    ]


def test_rows_are_not_read_as_those_of_another_interval() -> None:
    hows = iter([{"after_s": 60}, {"after_s": 90}])
    with pytest.raises(PipelineChanged, match=r"'after_ms': 60000.*'after_ms': 90000"):
        run_in_memory(lambda stream: clicks_of_shows(stream, **next(hows)), BATCHES)


# -- what cannot be --------------------------------------------------------------------------------------------------

JOIN: dict[str, Any] = {"event_time_by": "at_ms", "on_late": "drop"}


def refused(tmp_path: Any, sides: Any) -> None:
    with ExactlyOnceStream(str(tmp_path / "checkpoint")) as stream:
        _ = sides(stream) | JoinWithinInterval(**JOIN)


def totals(rows: Any) -> Any:
    return rows | beam.MapTuple(lambda user, one: (user, one["at_ms"])) | StatefulCombinePerKey(max)


def any_time(rows: Any) -> Any:
    return rows | MapGroupsWithState(lambda key, values, state: [(key, 1)], state=JsonState())


@pytest.mark.parametrize(("before", "said"), [(totals, "counted again"), (any_time, "any time")])
@pytest.mark.parametrize("side", [0, 1])
def test_rows_that_come_again_or_may_have_any_time_are_refused(
    tmp_path: Any, before: Any, said: str, side: int
) -> None:
    def sides(stream: Any) -> Any:
        both = [topic(stream, "shows"), topic(stream, "clicks")]
        both[side] = before(both[side])
        return tuple(both)

    with pytest.raises(UnsupportedPipeline, match=said):
        refused(tmp_path, sides)


def test_a_side_without_event_time_is_refused(tmp_path: Any) -> None:
    def sides(stream: Any) -> Any:
        read = ReadFromKafka("broker:9092", ["plain"], name="plain")
        return topic(stream, "shows"), stream | read | beam.WithKeys(lambda record: record.key)

    with pytest.raises(UnsupportedPipeline, match=r"source 'plain'.*EventTime"):
        refused(tmp_path, sides)


@pytest.mark.parametrize("sides_of", [lambda one: one, lambda one: (one, one, one), lambda one: {"left": one}])
def test_something_else_than_two_collections_is_refused(tmp_path: Any, sides_of: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"\(left, right\)"):
        refused(tmp_path, lambda stream: sides_of(topic(stream, "shows")))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"before_s": -1}, "before_s"),
        ({"after_s": float("inf")}, "after_s"),
        ({"how": "outer"}, "how"),
        ({"on_late": "fail"}, "on_late"),
        ({"event_time_by": None}, "event_time_by"),
        ({"event_time_by": ("at_ms", None)}, "event_time_by"),
        ({"event_time_by": ("a", "b", "c")}, "both sides"),
        ({"shards": 0}, "shards"),
    ],
)
def test_arguments_that_are_not_possible(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        JoinWithinInterval(**{**JOIN, **how})
