"""Sums, sessions, windows, slides and a join of numbers, to files. A number happened as many seconds after the start of 1970."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows, SlidingWindows

from beam_exactly_once import (
    AggregateByWindow,
    Continuous,
    EventTime,
    ExactlyOnceStream,
    GroupState,
    JoinWithinInterval,
    JsonState,
    MapGroupsWithState,
    ReadFromKafka,
    Record,
    ReduceByKeyAndWindow,
    StatefulCombinePerKey,
    WriteToFiles,
)
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching


def keyed(record: Record) -> tuple[str, int]:
    number = int(record.value or b"")
    return f"key {number % 7}", number


def row_of(emitted: tuple[str, Any], what: str) -> dict[str, Any]:
    key, value = emitted
    return {"what": what, "key": key, "value": value}


def session(key: str, numbers: list[int], state: GroupState[list[int]]) -> Iterator[tuple[str, list[int]]]:
    """The numbers of a key, at the first start behind them."""
    if state.timed_out:
        yield key, state.value or []
        state.remove()
    else:
        state.update(sorted([*(state.value or []), *numbers]))
        state.set_timeout(state.now_ms + 1)


def second_of(one: Any) -> int:
    """A number happened as many seconds after the start of 1970."""
    return 1000 * int(one.value if isinstance(one, Record) else one)


def by_event_time(numbers: Any) -> dict[str, Any]:
    """What windows, windows upon slides and a join give, as pairs. Of seven numbers each has another key, so 0 meets 7."""
    of_window, late = numbers | AggregateByWindow(sum, FixedWindows(20), event_time_by=second_of)
    of_slides = numbers | ReduceByKeyAndWindow(
        int.__add__, int.__sub__, window=SlidingWindows(40, 20), event_time_by=second_of, on_late="drop"
    )
    halves = [numbers | f"Half {half}" >> beam.Filter(lambda one, half: one[1] % 2 == half, half) for half in (0, 1)]
    joined = tuple(halves) | JoinWithinInterval(after_s=10, how="left", event_time_by=second_of, on_late="drop")
    windows = {"windows": of_window, "slides": of_slides}
    return {
        "late": late,
        "joined": joined | beam.MapTuple(lambda key, pair: (f"{key} {pair[0]}", pair[1])),
        **{what: rows | f"Pairs-{what}" >> beam.Map(pair_of_window) for what, rows in windows.items()},
    }


def pair_of_window(one: Any) -> tuple[str, int]:
    return f"{one.key} {one.window_start_ms}", one.value


def run(
    source: tuple[str, str],
    folder: Path,
    options: PipelineOptions,
    *,
    sessions: bool = False,
    windows: bool = False,
    place: str = "",
    **of_stream: Any,
) -> None:
    """One start of sums by key, and of sessions and windows if asked for, to files.

    ``source`` is the address of a broker, and a topic.
    """
    bootstrap_servers, topic = source
    with ExactlyOnceStream(f"{folder}/checkpoint{place}", options=options, **of_stream) as stream:
        event_time = EventTime(second_of, out_of_order_s=0) if windows else None
        read = ReadFromKafka(bootstrap_servers, [topic], max_batch_offsets=30, event_time=event_time)
        numbers = stream | read | beam.Map(keyed)
        emitted = {"sums": numbers | StatefulCombinePerKey(sum, name="sums")}
        if sessions:
            emitted["sessions"] = numbers | MapGroupsWithState(session, state=JsonState(), name="sessions")
        if windows:
            emitted |= by_event_time(numbers)
        rows = [values | f"Row-{what}" >> beam.Map(row_of, what) for what, values in emitted.items()]
        _ = rows | beam.Flatten() | WriteToFiles(f"{folder}/output{place}", format="json")


def newest(what: str, output: Path) -> dict[str, Any]:
    """The last that was written of each key; of windows and joins the only one."""
    rows = [orjson.loads(line) for file in sorted(output.glob("*.json")) for line in file.read_bytes().splitlines()]
    found = [(row["key"], row["value"]) for row in rows if row["what"] == what]
    assert what in ("sums", "sessions") or len(found) == len(dict(found))
    return dict(found)


def of_keys(numbers: range) -> dict[str, list[int]]:
    return {f"key {key}": [number for number in numbers if number % 7 == key] for key in range(7)}


def expected(count: int) -> dict[str, dict[str, Any]]:
    """What all of the numbers below ``count``, a multiple of 20, give by event time; of those who open no more."""
    return {
        "windows": {
            f"{key} {1000 * start}": sum(numbers)
            for start in range(0, count, 20)
            for key, numbers in of_keys(range(start, start + 20)).items()
        },
        "slides": {
            f"{key} {1000 * start}": sum(numbers)
            for start in range(-20, count, 20)
            for key, numbers in of_keys(range(max(0, start), min(count, start + 40))).items()
        },
        "joined": {
            f"key {number % 7} {number}": number + 7 if number + 7 < count else None for number in range(0, count, 2)
        },
        "late": {},
    }


def killed_at_its_first_commit(prism: str, source: tuple[str, str], folder: Path) -> None:
    """A life of one unbounded pipeline."""
    options = PipelineOptions(["--runner=PrismRunner", f"--prism_location={prism}"])
    with watching(StoreCalls(KillPoint("put_if_absent", "commits/", 1), kill_this_process)):
        run(source, folder, options, windows=True, trigger=Continuous(0))


def killed_behind_its_first_batch(options: list[str], source: tuple[str, str], folder: Path) -> None:
    """The same on any runner, killed in its driver; a job on a cluster lives on."""
    run(source, folder, PipelineOptions(options), trigger=Continuous(0), listeners=kill_this_process)


def kill_this_process(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
