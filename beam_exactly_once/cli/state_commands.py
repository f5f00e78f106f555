"""``beam-exactly-once state``: look at what operators remember, and take a copy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq

from beam_exactly_once.cli import tables
from beam_exactly_once.cli.options import JSON, at_location, print_json
from beam_exactly_once.errors import EXIT_FAILED
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.state.upkeep.looking import RememberedKey, StateView

EXPORTED = pa.schema(
    [
        ("key", pa.string()),
        ("value", pa.string()),
        ("at_ms", pa.int64()),
        ("version", pa.uint8()),
        ("expires_at_ms", pa.int64()),
    ]
)
"""Of an exported file. Key and value are JSON; ``at_ms`` is where a window ends, or when a row to be joined happened."""
ROWS_AT_ONCE = 10_000

_AT_BATCH = click.option("--at-batch", type=click.IntRange(min=0), help="Behind that batch; the newest, if not given.")


@click.group()
def state() -> None:
    """Look at what the operators of a stream remember."""


@state.command()
@at_location
@click.argument("operator", required=False)
@click.option("--key", help='Of one key: as JSON (7, "7", ["a", 7] for a tuple), or plain text.')
@_AT_BATCH
@JSON
@click.pass_context
def show(
    ctx: click.Context,
    location: str,
    storage_options: Mapping[str, str] | None,
    operator: str | None,
    key: str | None,
    at_batch: int | None,
    as_json: bool,
) -> None:
    """Show the operators, or what one remembers of a key. Reads only."""
    view = StateView(open_object_store(location, storage_options), at_batch)
    if key is None:
        found = [one for one in view.operators() if operator in (None, one.name)]
        if as_json:
            print_json({"batch_id": view.marker.batch_id, "operators": [one.to_json() for one in found]})
        else:
            tables.show_operators(view.marker.batch_id, found, tables.console())
        return
    if operator is None:
        raise click.UsageError("--key needs the OPERATOR whose key it is.")
    remembered = view.of_key(operator, _key(key))
    if not remembered:
        click.echo(f"operator {operator} remembers nothing of this key behind batch {view.marker.batch_id}.", err=True)
        ctx.exit(EXIT_FAILED)
    for one in remembered:
        print_json(one.to_json())


@state.command()
@at_location
@click.argument("operator")
@click.argument("file", type=click.Path(dir_okay=False))
@_AT_BATCH
def export(
    location: str, storage_options: Mapping[str, str] | None, operator: str, file: str, at_batch: int | None
) -> None:
    """Write all that OPERATOR remembers to FILE, as Parquet. Reads the checkpoint only."""
    view = StateView(open_object_store(location, storage_options), at_batch)
    rows = 0
    with pq.ParquetWriter(file, EXPORTED, compression="zstd") as writer:
        waiting: list[RememberedKey] = []
        for one in view.all_keys(operator):
            waiting.append(one)
            if len(waiting) >= ROWS_AT_ONCE:
                writer.write_batch(_batch(waiting))
                rows, waiting = rows + len(waiting), []
        writer.write_batch(_batch(waiting))
    click.echo(
        f"{rows + len(waiting):,} keys of operator {operator} behind batch {view.marker.batch_id} are in {file}."
    )


def _batch(found: list[RememberedKey]) -> pa.RecordBatch:
    stored = [one.to_json() for one in found]
    texts = {name: [_json(one[name]) for one in stored] for name in ("key", "value")}
    plain = {name: [one.get(name) for one in stored] for name in ("at_ms", "version", "expires_at_ms")}
    return pa.RecordBatch.from_pydict({**texts, **plain}, schema=EXPORTED)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _key(text: str) -> Any:
    """A key as people write it. With the standard library: to ``orjson`` an int beyond 64 bits is a float."""
    try:
        return _tuples(json.loads(text, parse_constant=_no_json))
    except ValueError:
        return text


def _no_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
