"""Timeouts by event time: sessions are those of plain Python, wherever batches are cut."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once import EventTime, GroupState, JsonState, MapGroupsWithState, ReadFromKafka, Record, WriteToFiles
from beam_exactly_once.testing import run_in_memory

GAP_MS = 60_000
AT = datetime(2026, 1, 1, tzinfo=timezone.utc)
START_MS = int(AT.timestamp() * 1000)


def visits(key: str, times: list[int], state: GroupState[list[list[int]]]) -> Iterator[dict[str, Any]]:
    """A session of a key ends when nothing came for a minute of event time; the state is its open sessions."""
    sessions = state.value or []
    assert times == sorted(times)
    for at_ms in times:
        near = [one for one in sessions if one[0] - GAP_MS < at_ms < one[1] + GAP_MS]
        sessions = [one for one in sessions if one not in near]
        firsts, lasts = [at_ms, *(one[0] for one in near)], [at_ms, *(one[1] for one in near)]
        sessions.append([min(firsts), max(lasts), 1 + sum(one[2] for one in near)])
    closed_ms = state.watermark_ms
    for first, last, count in sorted(sessions):
        if closed_ms is not None and last + GAP_MS <= closed_ms:
            yield {"key": key, "first": first, "last": last, "count": count}
    sessions = [one for one in sessions if closed_ms is None or one[1] + GAP_MS > closed_ms]
    if sessions:
        state.update(sessions)
        state.set_timeout(min(last for _, last, _ in sessions) + GAP_MS)
    elif state.value is not None:
        state.remove()


def build(stream: Any) -> None:
    read = ReadFromKafka("broker:9092", ["clicks"], event_time=EventTime(out_of_order_s=40))
    pairs = stream | read | beam.Map(lambda record: (record.value.decode(), record.timestamp_ms))
    sessions = MapGroupsWithState(visits, state=JsonState(), event_time_by=lambda at_ms: at_ms)
    pairs | sessions | WriteToFiles("out", format="json")


def expected(records: list[Record]) -> list[tuple[str, int, int, int]]:
    times = defaultdict(list)
    for record in records:
        times[record.value.decode()].append(record.timestamp_ms)
    found = []
    for key, of_key in times.items():
        of_key.sort()
        edges = [0, *(at for at in range(1, len(of_key)) if of_key[at] - of_key[at - 1] >= GAP_MS), len(of_key)]
        found += [(key, of_key[start], of_key[stop - 1], stop - start) for start, stop in pairwise(edges)]
    return sorted(found)


@pytest.mark.parametrize("seed", [7])
def test_sessions_are_those_of_plain_python(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    records = [
        Record(value=chance.choice([b"a", b"b"]), timestamp_ms=START_MS + 1000 * (25 * number - chance.randrange(40)))
        for number in range(40)
    ]
    end = Record(value=b"end", timestamp_ms=START_MS + 3_000_000)
    for cuts in ([], sorted(chance.sample(range(1, 40), 5)), range(1, 40, 2)):
        batches = [records[start:stop] for start, stop in pairwise([0, *cuts, 40])]
        run = run_in_memory(build, {"clicks": [*batches, [end]]})
        rows = [row for batch in run.published["files"] for row in batch]
        assert sorted((row["key"], row["first"], row["last"], row["count"]) for row in rows) == expected(records)


def test_a_timeout_comes_by_the_watermark_and_not_by_the_clock() -> None:

    def timed(key: str, times: list[int], state: GroupState[int]) -> Iterator[dict[str, Any]]:
        if not state.timed_out:
            state.set_timeout(times[-1] + GAP_MS)
        yield {"key": key, "timed_out": state.timed_out, "now_ms": state.now_ms, "watermark_ms": state.watermark_ms}

    def build(stream: Any) -> None:
        read = ReadFromKafka("broker:9092", ["clicks"], event_time=EventTime(out_of_order_s=0))
        pairs = stream | read | beam.Map(lambda record: (record.value.decode(), record.timestamp_ms))
        by_time = MapGroupsWithState(timed, state=JsonState(), event_time_by=lambda at_ms: at_ms)
        pairs | by_time | WriteToFiles("out", format="json")

    first, later = (Record(value=b"a", timestamp_ms=START_MS), Record(value=b"b", timestamp_ms=START_MS + GAP_MS))
    times = [AT, AT.replace(hour=5), AT.replace(hour=6), AT.replace(hour=7)]
    run = run_in_memory(build, {"clicks": [[first], [], [later]]}, times=times)
    rows = [row for batch in run.published["files"] for row in batch]
    assert [(row["key"], row["timed_out"], row["watermark_ms"]) for row in rows] == [
        ("a", False, None),
        ("b", False, START_MS),
        ("a", True, START_MS + GAP_MS),
    ]
    assert [datetime.fromtimestamp(row["now_ms"] / 1000, timezone.utc).hour for row in rows] == [0, 6, 6]
