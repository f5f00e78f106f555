"""Kinds of nodes at the ends of a graph: sources and sinks, and what of a batch each sink has."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once import ForEachBatch, ReadFromKafka, WriteToFiles, WriteToSql, read_batches
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.testing.published_rows import published_rows
from graphs import steps
from graphs.kinds import Applied, Given, Kind, Numbers, Plain, Site, no_shape
from graphs.model import Wrong

SCHEMA = pa.schema([("v", pa.int64())])
Batches = dict[int, Plain]
"""What a sink has of each batch, by its number."""


def topic(number: int) -> str:
    return f"topic{number}"


def _source(node: Applied, **options: Any) -> Any:
    return node.begin | f"{node.name}.Read" >> ReadFromKafka(
        node.site.bootstrap_servers,
        [topic(node.number)],
        name=node.name,
        max_batch_offsets=node.site.limit,
        **options,
    )


def _read(node: Applied) -> Sequence[Numbers]:
    return [_source(node) | f"{node.name}.Number" >> beam.Map(steps.number)]


def _read_arrow(node: Applied) -> Sequence[Numbers]:
    numbers = beam.FlatMap(steps.numbers_of_batch).with_output_types(int)
    return [_source(node, as_arrow=True) | f"{node.name}.Numbers" >> numbers]


def _read_rejecting(node: Applied) -> Sequence[Numbers]:
    decoded = _source(node, decoder=steps.number, on_error="reject")
    return [
        decoded.rows | f"{node.name}.Rows" >> beam.Map(steps.same).with_output_types(int),
        decoded.rejected | f"{node.name}.Rejected" >> beam.Map(steps.rejected_record),
    ]


def _plain_rejecting(node: Given) -> Sequence[Plain]:
    records = node.inputs[0]
    return [[value for value in records if value >= 0], [1000 - value for value in records if value < 0]]


def _as_read(node: Given) -> Sequence[Plain]:
    return [node.inputs[0]]


SOURCES: dict[str, Kind] = {
    "read": Kind(_read, _as_read, no_shape, inputs=(0, 0), weight=6),
    "read_arrow": Kind(_read_arrow, _as_read, no_shape, inputs=(0, 0)),
    "read_rejecting": Kind(_read_rejecting, _plain_rejecting, no_shape, inputs=(0, 0), outputs=2),
}
"""Each reads the topic that the node's number says."""


def _rows(node: Applied) -> Any:
    return node.inputs[0] | "Row" >> beam.Map(steps.row)


def _files(format: str) -> Callable[[Applied], Sequence[Numbers]]:
    def build(node: Applied) -> Sequence[Numbers]:
        output = node.site.output(node.name)
        _ = _rows(node) | WriteToFiles(output, format=format, schema=SCHEMA, name=node.name)  # type: ignore[arg-type]
        return []

    return build


def _rejecting_files(node: Applied) -> Sequence[Numbers]:
    rows = node.inputs[0] | "Row" >> beam.Map(steps.misfit_row)
    output = node.site.output(node.name)
    unfit = rows | WriteToFiles(output, schema=SCHEMA, on_error="reject", name=node.name)
    return [unfit | "Rejected" >> beam.Map(steps.rejected_row)]


def _sql(node: Applied) -> Sequence[Numbers]:
    database = database_of(node.site)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {node.name} (v BIGINT)")
    _ = _rows(node) | WriteToSql(f"sqlite:///{database}", node.name, name=node.name)
    return []


def database_of(site: Site) -> str:
    return f"{site.folder}/rows.db"


def _calls(node: Applied) -> Sequence[Numbers]:
    call = partial(steps.store_call, calls_of(node.site, node.name), node.site.armed(node.name))
    _ = _rows(node) | ForEachBatch(call, schema=SCHEMA, name=node.name)
    return []


def calls_of(site: Site, name: str) -> str:
    return f"{site.folder}/calls-{name}"


def _sink(build: Callable[[Applied], Sequence[Numbers]], weight: int) -> Kind:
    return Kind(build, lambda node: [], no_shape, outputs=0, weight=weight)


SINKS: dict[str, Kind] = {
    "json": _sink(_files("json"), 5),
    "parquet": _sink(_files("parquet"), 2),
    "sql": _sink(_sql, 1),
    "each": _sink(_calls, 2),
    "rejecting": Kind(
        _rejecting_files,
        lambda node: [[value + 2000 for value in node.inputs[0] if steps.is_misfit(value)]],
        no_shape,
        weight=2,
    ),
}


def taken(kind: str, values: Plain) -> Plain:
    """What a sink takes of its input."""
    return [value for value in values if not steps.is_misfit(value)] if kind == "rejecting" else values


def found_in_files(site: Site, name: str) -> Batches:
    """What manifests name; and nothing else is visible."""
    output = site.output(name)
    batches = list(read_batches(output))
    visible = {entry.key for entry in open_object_store(output).list() if not entry.key.startswith("_batches/")}
    named = {file.name for batch in batches for file in batch.files}
    if visible != named:
        raise Wrong(f"{name} shows {sorted(visible)}, and manifests name {sorted(named)}")
    found = {batch.batch_id: [row["v"] for row in published_rows(output, batch)] for batch in batches}
    counts = {batch.batch_id: batch.rows_written for batch in batches}
    if counts != {number: len(rows) for number, rows in found.items()}:
        raise Wrong(f"manifests of {name} count {counts}, and files have {found}")
    return found


def found_in_calls(site: Site, name: str) -> Batches:
    """What user code was called with; every call of a batch had the same rows."""
    calls: dict[int, list[Plain]] = defaultdict(list)
    for file in Path(calls_of(site, name)).glob("*"):
        calls[int(file.name.partition("-")[0])].append(sorted(json.loads(file.read_text())))
    for batch_id, of_batch in calls.items():
        if any(rows != of_batch[0] for rows in of_batch):
            raise Wrong(f"calls of batch {batch_id} of {name} differ: {of_batch}")
    return {batch_id: of_batch[0] for batch_id, of_batch in calls.items()}


def found_in_table(site: Site, name: str) -> Plain:
    """Rows of all batches: a table does not say which batch they are of."""
    with contextlib.closing(sqlite3.connect(database_of(site))) as connection:
        return [value for (value,) in connection.execute(f"SELECT v FROM {name}")]
