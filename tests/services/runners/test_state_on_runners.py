"""State by key where workers are other threads and processes: by value, over several starts, killed in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows, SlidingWindows

from beam_exactly_once import (
    AggregateByWindow,
    AvailableNow,
    CheckpointAt,
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
from services.streams.topics import Topic
from support.ending import ends_with

PROCESSES = ["--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"]


PORTABLE = [
    pytest.param("prism", marks=pytest.mark.runs_on("PrismRunner")),
    pytest.param("flink", marks=pytest.mark.runs_on("FlinkRunner cluster")),
]


@pytest.fixture(params=[pytest.param("processes", marks=pytest.mark.runs_on("DirectRunner")), *PORTABLE])
def options(request: pytest.FixtureRequest) -> PipelineOptions:
    match request.param:
        case "prism":
            location = request.getfixturevalue("prism_location")
            return PipelineOptions(["--runner=PrismRunner", f"--prism_location={location}"])
        case "flink":
            return PipelineOptions(request.getfixturevalue("shared_flink"))
        case _:
            return PipelineOptions(PROCESSES)


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
    source: Topic,
    folder: Path,
    options: PipelineOptions,
    *,
    sessions: bool = False,
    windows: bool = False,
    place: str = "",
    **of_stream: Any,
) -> None:
    """One start of sums by key, and of sessions and windows if asked for, to files."""
    with ExactlyOnceStream(f"{folder}/checkpoint{place}", options=options, **of_stream) as stream:
        event_time = EventTime(second_of, out_of_order_s=0) if windows else None
        read = ReadFromKafka(source.bootstrap_servers, [source.name], max_batch_offsets=30, event_time=event_time)
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


def test_sums_windows_joins_and_slides_go_on_over_batches_starts_and_a_kill(
    new_topic: Callable[..., Topic], options: PipelineOptions, tmp_path: Path
) -> None:
    source = new_topic(2)
    for start in (0, 50):
        for partition in range(2):
            source.send([b"%d" % number for number in range(start, start + 50) if number % 2 == partition], partition)
        if start:
            kill = StoreCalls(KillPoint("put_if_absent", "offsets/", 2), stop)
            with watching(kill), ends_with("killed here"):
                run(source, tmp_path, options, windows=True)
        run(source, tmp_path, options, windows=True, trigger=AvailableNow(drain=bool(start)))
    assert newest("sums", tmp_path / "output") == {key: sum(numbers) for key, numbers in of_keys(range(100)).items()}
    assert newest("windows", tmp_path / "output") == {
        f"{key} {1000 * start}": sum(numbers)
        for start in range(0, 100, 20)
        for key, numbers in of_keys(range(start, start + 20)).items()
    }
    assert newest("slides", tmp_path / "output") == {
        f"{key} {1000 * start}": sum(numbers)
        for start in range(-20, 100, 20)
        for key, numbers in of_keys(range(max(0, start), min(100, start + 40))).items()
    }
    assert newest("joined", tmp_path / "output") == {
        f"key {number % 7} {number}": number + 7 if number + 7 < 100 else None for number in range(0, 100, 2)
    }
    assert newest("late", tmp_path / "output") == {}


@pytest.mark.parametrize("options", PORTABLE, indirect=True)
def test_timeouts_fire_and_operators_are_dropped_and_carried_along(
    new_topic: Callable[..., Topic], options: PipelineOptions, tmp_path: Path
) -> None:
    source = new_topic()
    source.send([b"%d" % number for number in range(20)])
    run(source, tmp_path, options, sessions=True)
    assert newest("sessions", tmp_path / "output") == {}

    run(source, tmp_path, options, sessions=True)  # there is nothing to read
    assert newest("sessions", tmp_path / "output") == of_keys(range(20))

    source.send([b"%d" % number for number in range(20, 30)])
    run(source, tmp_path, options, without=["operators/sessions"])
    assert newest("sums", tmp_path / "output") == {key: sum(numbers) for key, numbers in of_keys(range(30)).items()}

    source.send([b"%d" % number for number in range(30, 40)])
    run(source, tmp_path, options, place="-2", continue_from=CheckpointAt(f"{tmp_path}/checkpoint"))
    assert newest("sums", tmp_path / "output-2") == {key: sum(numbers) for key, numbers in of_keys(range(40)).items()}


def stop() -> None:
    raise RuntimeError("killed here")
