"""Ready-made pipeline: how many records there were of each key in each window of event time, over all batches.

    beam-exactly-once run windowed-counts \\
        --bootstrap-servers localhost:9092 --topics clicks --checkpoint-location s3://checkpoints/clicks \\
        --event-time '{"by": "at_ms", "out_of_order_s": 30}' \\
        --count-event-time-by at_ms --count-key-columns page --count-window fixed=60 \\
        --output-location s3://lake/clicks --output-format json --late-location s3://lake/late

writes ``page``, ``window_start``, ``window_end`` and ``count`` of each minute once, when it is complete. With ``--output-url``
and ``--output-table`` instead, a table has what was counted so far: each batch upserts the windows that it changed, by the key
columns and ``window_start``. ``--count-emit`` says otherwise. With ``--output-format delta``, each window is appended once to the
Delta table at ``--output-location``; its key columns are texts.

A record's value is a JSON object. A window is ``fixed=SECONDS``, ``{"sliding": {"size_s": 3600, "period_s": 60}}`` or
``sessions=SECONDS``; without key columns, all records are counted together. Rows that come too late are counted, and written to
``--late-location`` if it is given.

``python -m beam_exactly_once.pipelines.windowed_counts`` is the same. Every option of Beam is taken too. Exit codes: 0 done,
2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start the same command again, 1 anything else.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.combiners import CountCombineFn
from apache_beam.transforms.window import FixedWindows, Sessions, SlidingWindows

from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.pipelines.kafka_to_sql import json_kind, row_of_json
from beam_exactly_once.pipelines.ready_made import Given, ReadyMade
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.pipelines.word_count import refuse_strangers
from beam_exactly_once.state.windows.operator import WindowResult
from beam_exactly_once.transforms.stateful.windowed import AggregateByWindow
from beam_exactly_once.transforms.write_delta import WriteToDelta
from beam_exactly_once.transforms.write_files import WriteToFiles
from beam_exactly_once.transforms.write_sql import WriteToSql

DELTA = "delta"
"""A word of ``--output-format``."""
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def _wire(stream: ExactlyOnceStream, given: Given) -> None:
    if "event_time" not in given.source:
        raise ConfigurationError(
            """--event-time must be given: when did records happen? --event-time '{"by": "at_ms", "out_of_order_s": 30}'"""
        )
    step = dict(given.step)
    columns: Sequence[str] = step.pop("key_columns", ())
    emit, sink = _sink(given, columns)
    step = {"emit": emit, **step, "on_late": "keep" if given.late else "drop"}
    decoded = stream | given.read(decoder=given.source.get("decoder", row_of_json), on_error=given.on_error)
    rows, undecodable = (decoded, None) if given.on_error == "fail" else decoded
    counted = (
        rows
        | "ByKey" >> beam.Map(_keyed, columns).with_output_types(tuple[Any, Any])
        | AggregateByWindow(CountCombineFn(), **step, name="counts")
    )
    counts, late = counted if given.late else (counted, None)
    unfit = counts | "Row" >> beam.Map(_row, columns).with_output_types(dict[str, Any]) | sink
    if late is not None:
        _ = late | "LateRow" >> beam.Values() | WriteToFiles(**given.late, name="late")
    if undecodable is not None:
        given.write_rejected(undecodable, unfit)


def _sink(given: Given, columns: Sequence[str]) -> tuple[str, beam.PTransform]:
    """What a window is emitted as, unless flags say, and what writes the counts.

    Raises:
        ConfigurationError: the flags name no place, or two.
    """
    places = [name for name in ("location", "url") if name in given.output]
    if len(places) != 1:
        raise ConfigurationError(
            "say where the counts go: either --output-location, or --output-url and --output-table."
            + (" Both are given." if places else "")
        )
    if given.output.get("format") == DELTA:
        output = {name: value for name, value in given.output.items() if name != "format"}
        refuse_strangers(WriteToDelta, output, f"--output-format {DELTA}")
        return "final", WriteToDelta(**output, schema=_schema(columns), on_error=given.on_error)
    if places == ["location"]:
        refuse_strangers(WriteToFiles, given.output, "--output-location")
        return "final", WriteToFiles(**given.output, on_error=given.on_error)
    refuse_strangers(WriteToSql, given.output, "--output-url")
    if "table" not in given.output:
        raise ConfigurationError("--output-table must be given: which table of --output-url takes the counts?")
    by = [*columns, "window_start"]
    return "updates", WriteToSql(**given.output, mode="upsert", key_columns=by, on_error=given.on_error)


def _schema(columns: Sequence[str]) -> pa.Schema:
    """Of a table that must know its columns before the first row."""
    bounds = {name: pa.timestamp("us", "UTC") for name in ("window_start", "window_end")}
    return pa.schema({**dict.fromkeys(columns, pa.string()), **bounds, "count": pa.int64()})


def _keyed(row: dict[str, Any], columns: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """
    Raises:
        UnfitRow: the row lacks a column.
    """
    missing = [column for column in columns if column not in row]
    if missing:
        raise UnfitRow(f"a record has no field {missing[0]!r}, which --count-key-columns names")
    return tuple(row[column] for column in columns), row


def _row(counted: WindowResult, columns: Sequence[str]) -> dict[str, Any]:
    bounds = {"window_start": _moment(counted.window_start_ms), "window_end": _moment(counted.window_end_ms)}
    return {**dict(zip(columns, counted.key, strict=True)), **bounds, "count": counted.value}


def _moment(at_ms: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(milliseconds=at_ms)


def _fixed(size_s: float, offset_s: float = 0.0) -> FixedWindows:
    return FixedWindows(size_s, offset_s)


def _sliding(size_s: float, period_s: float, offset_s: float = 0.0) -> SlidingWindows:
    return SlidingWindows(size_s, period_s, offset_s)


def _sessions(gap_s: float) -> Sessions:
    return Sessions(gap_s)


_WINDOWS: dict[str, Callable[..., Any]] = {"fixed": _fixed, "sliding": _sliding, "sessions": _sessions}

PIPELINE = ReadyMade(
    "windowed-counts",
    "Counts of Kafka records by key and window of event time, to files, a Delta table or one of a database, exactly once.",
    WriteToFiles,
    _wire,
    source_set=("as_arrow",),
    sink_set=("mode", "key_columns", "newest_by", "columns", "direct"),
    other_sink=WriteToSql,
    formats={DELTA: WriteToDelta},
    step=AggregateByWindow,
    step_set=("fn", "on_late"),
    kinds={"decoder": {"json": json_kind}},
    step_kinds={"window": _WINDOWS},
    gives_late=True,
)
main = PIPELINE.main

if __name__ == "__main__":
    sys.exit(main())
