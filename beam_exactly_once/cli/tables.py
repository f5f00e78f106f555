"""What the commands of ``beam-exactly-once`` show to people."""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from beam_exactly_once.checkpoint.findings import Check
from beam_exactly_once.checkpoint.inspection import BatchSummary, Position, StreamStatus
from beam_exactly_once.checkpoint.resolution import Proposal
from beam_exactly_once.checkpoint.source_times import TimeReached, has_ended
from beam_exactly_once.clock import moment_text
from beam_exactly_once.state.upkeep.looking import OperatorSummary
from beam_exactly_once.wal.looking import WalStatus, state_of
from beam_exactly_once.wal.sweeping import Swept

WIDTH_WITHOUT_TERMINAL = 120
MAX_PARTITIONS = 50
"""Partitions shown to people."""
_STATE_STYLES = {"planned": "cyan", "committed": "green", "skipped": "yellow", "abandoned": "yellow"}


def console() -> Console:
    """Where to print; wide enough for whole lines when it is a file or a pipe."""
    has_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if has_width else WIDTH_WITHOUT_TERMINAL, highlight=False)


def show_status(
    status: StreamStatus, operators: Sequence[OperatorSummary], now: datetime.datetime, to: Console
) -> None:
    """The stream, where it stands, what it remembers, and its newest batches."""
    to.print(f"[bold]Stream {status.stream_id}[/] at {escape(status.location)}", soft_wrap=True)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("created", _moment(status.created_at_ms, now))
    facts.add_row("batches", _batches(status))
    facts.add_row("newest", _newest(status.newest, now))
    facts.add_row("writer", _writer(status, now))
    for name, sink in sorted(status.sinks.items()):
        facts.add_row(f"sink {escape(name)}", escape(", ".join(str(value) for value in sink.values())))
    for name, reached in ({} if status.newest is None else status.newest.event_time).items():
        facts.add_row(f"time of {escape(name)}", _reached(reached, now))
    lags = status.lag_offsets
    if lags is not None:
        facts.add_row("lag", f"{sum(sum(of_source.values()) for of_source in lags.values()):,} offsets")
    to.print(facts)
    if status.sources:
        to.print()
        _show_positions(status, to)
    if operators and status.newest is not None:
        to.print()
        show_operators(status.newest.batch_id, operators, to)
    if status.in_flight or status.recent:
        to.print()
        to.print(_recent((*reversed(status.in_flight), *status.recent), now))


def show_checks(location: str, checks: Sequence[Check], to: Console) -> None:
    """A table of what was checked, then every fault and every note."""
    table = _table("Checks", "checked", ">looked at", "result")
    for check in checks:
        result = f"[red]{_faults(len(check.faults))}[/]" if check.faults else "[green]ok[/]"
        table.add_row(escape(check.name), f"{check.examined:,}", result + (" [yellow](note)[/]" if check.notes else ""))
    to.print(table)
    to.print()
    for check in checks:
        for note in check.notes:
            to.print(f"[yellow]note[/]   {escape(check.name)}: {escape(note)}", soft_wrap=True)
    faults = [fault for check in checks for fault in check.faults]
    for number, fault in enumerate(faults, start=1):
        to.print(f"\n[red]fault {number}[/]  [bold]{escape(fault.where)}[/]\n  {escape(fault.message)}", soft_wrap=True)
    verdict = f"[red]{_faults(len(faults))} found in[/]" if faults else "[green]No fault in[/]"
    to.print(f"{chr(10) if faults else ''}{verdict} {escape(location)}", soft_wrap=True)


def _faults(count: int) -> str:
    return f"{count} fault{'s' if count > 1 else ''}"


def show_operators(batch_id: int, operators: Sequence[OperatorSummary], to: Console) -> None:
    """What each operator remembers; ``a slice``: in how many sections a key may be looked for."""
    columns = ("operator", "kind", "state", ">keys", ">bytes", ">sections", ">a slice", ">objects")
    table = _table(f"State behind batch {batch_id}", *columns)
    for one in operators:
        counts = (one.keys, one.size_bytes, one.sections, one.max_sections_a_slice, one.objects)
        table.add_row(escape(one.name), one.kind, one.state, *(f"{count:,}" for count in counts))
    to.print(table)
    for one in operators:
        if one.next_due_ms is not None:
            to.print(f"{escape(one.name)} is open, next until {moment_text(one.next_due_ms)}", soft_wrap=True)


def show_proposal(proposal: Proposal, to: Console) -> None:
    """What passing a batch would do."""
    store_uri, batch_id = proposal.checkpoint.store.uri, proposal.batch_id
    if proposal.plan is None:
        to.print(f"Batch {batch_id} of {escape(store_uri)}: its plan cannot be read.", soft_wrap=True)
    else:
        table = _table(f"Batch {batch_id} was to read", "source", "partition", ">from", ">up to", ">offsets")
        for name, planned in proposal.ranges:
            where = str(planned.topic_partition)
            table.add_row(escape(name), escape(where), str(planned.start), str(planned.stop), f"{planned.size:,}")
        to.print(table)
        to.print()
    if proposal.outcome == "skipped":
        to.print(
            f"[bold]--skip[/] goes on behind these {proposal.offsets:,} offsets. Their records will [bold]never[/] be "
            "written; the checkpoint records the offsets as lost."
        )
    else:
        to.print(
            "[bold]--abandon[/] gives the batch up and loses nothing: the next batch reads from where this one began, "
            "within the limits and through the pipeline of the next start."
        )
    to.print(f"A driver that still runs on {escape(store_uri)} will stop as fenced.", soft_wrap=True)


def show_log(status: WalStatus, now: datetime.datetime, to: Console) -> None:
    """A write-ahead log: its partitions, their writers, and the streams that keep it."""
    to.print(f"[bold]Log {status.log_id}[/] at {escape(status.location)}", soft_wrap=True)
    to.print()
    table = _table("Partitions", ">partition", ">begins at", ">ends at", ">kept from", "newest record", "claimed", "by")
    for one in status.partitions:
        kept_from = "" if one.kept_from is None else str(one.kept_from)
        row = [str(one.partition), str(one.begin), str(one.end), kept_from]
        table.add_row(*row, _age(one.arrived_ms, now), _age(one.claimed_at_ms, now), escape(one.owner))
    to.print(table)
    to.print()
    if not status.readers:
        to.print("No stream reads it, so sweeps delete nothing.")
        return
    table = _table("Streams that read it", "stream", "source", "done with", ">behind the end")
    for reader in status.readers:
        behind = sum(max(0, one.end - max(one.begin, reader.next_offset(one.partition))) for one in status.partitions)
        table.add_row(reader.stream_id, reader.source, state_of(reader), "" if reader.is_released else f"{behind:,}")
    to.print(table)


def show_swept(swept: Mapping[int, Swept], to: Console) -> None:
    """What a sweep has done in each partition."""
    table = _table("Swept", ">partition", ">begins at", ">segments deleted", ">id pages deleted")
    for partition, one in swept.items():
        table.add_row(str(partition), str(one.floor), f"{one.segments:,}", f"{one.pages:,}")
    to.print(table)


def _table(title: str, *columns: str) -> Table:
    """A table; a column that begins with ``>`` holds numbers."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    table.padding = (0, 1, 0, 0)  # so that a line fits a terminal of 80 columns
    for column in columns:
        is_number = column.startswith(">")
        folds = column in ("source", "partition", "checked")
        table.add_column(
            column.removeprefix(">"), justify="right" if is_number else "left", no_wrap=not folds, overflow="fold"
        )
    return table


def _batches(status: StreamStatus) -> str:
    in_flight = ", ".join(str(batch.batch_id) for batch in status.in_flight)
    starts = status.starts_since_planned
    again = f" [yellow](started {starts} more time{'s'[: starts > 1]} since)[/]" if starts else ""
    return f"{status.decided:,} decided, " + (f"batch {in_flight} in flight{again}" if in_flight else "none in flight")


def _newest(newest: BatchSummary | None, now: datetime.datetime) -> str:
    if newest is None or newest.marker is None:
        return "none decided yet"
    written = "; ".join(f"{rows:,} rows to {escape(sink)}" for sink, rows in newest.rows_written.items())
    return (
        f"batch {newest.batch_id} [{_STATE_STYLES[newest.state]}]{newest.state}[/] {_age(newest.marker.committed_at_ms, now)}: "
        f"{newest.marker.records_read:,} records read" + (f", {written}" if written else "")
    )


def _reached(reached: TimeReached, now: datetime.datetime) -> str:
    if reached.watermark_ms is None:
        said = ["no watermark yet"]
    elif has_ended(reached.watermark_ms):
        said = ["ended: the stream was drained, and what comes now is late"]
    else:
        said = [f"watermark {_moment(reached.watermark_ms, now)}"]
    if reached.held_by is not None:
        since = (
            ""
            if reached.held_since_ms is None
            else f", of which nothing came since {_moment(reached.held_since_ms, now)}"
        )
        said.append(f"held back by {escape(str(reached.held_by))}{since}")
    if reached.future_records:
        said.append(f"[yellow]{reached.future_records:,} records from the future[/]")
    return "; ".join(said)


def _writer(status: StreamStatus, now: datetime.datetime) -> str:
    if status.writer is None:
        return "none yet"
    claimed = _moment(status.writer.claimed_at_ms, now)
    return f"epoch {status.writer.writer_epoch}, {escape(status.writer.owner)}, since {claimed}"


def _show_positions(status: StreamStatus, to: Console) -> None:
    positions = [(name, position) for name, of_source in status.sources.items() for position in of_source]
    asked = any(position.bounds is not None for _, position in positions)
    if len(positions) > MAX_PARTITIONS:  # those that need a look; the sort is stable
        positions.sort(key=lambda named: (-(named[1].offsets_lost or 0), -(named[1].lag_offsets or 0)))
    table = _table("Where it stands", "source", "partition", ">next offset", *((">log has", ">lag") if asked else ()))
    for name, position in positions[:MAX_PARTITIONS]:
        row = [escape(name), escape(str(position.topic_partition)), str(position.next_offset)]
        table.add_row(*row, *(_bounds(position) if asked else ()))
    to.print(table)
    if len(positions) > MAX_PARTITIONS:
        to.print(f"[dim]and {len(positions) - MAX_PARTITIONS:,} partitions more; --json shows all[/]")


def _bounds(position: Position) -> tuple[str, str]:
    if position.bounds is None:
        return "", ""
    lost = f" [red]({position.offsets_lost:,} lost)[/]" if position.offsets_lost else ""
    return f"{position.bounds.earliest} to {position.bounds.latest}", f"{position.lag_offsets:,}{lost}"


def _recent(batches: Iterable[BatchSummary], now: datetime.datetime) -> Table:
    batches = list(batches)
    sinks = sorted({sink for batch in batches for sink in batch.rows_written})
    loses = any(batch.offsets_lost for batch in batches)
    has_late = any(batch.rows_late for batch in batches)
    columns = ["batch", "state", ">offsets", ">records", *(f">rows to {escape(sink)}" for sink in sinks)]
    columns += [*([">late"] if has_late else ()), *([">lost"] if loses else ())]
    table = _table("Newest batches", *columns, ">epoch", "planned", ">took")
    for batch in batches:
        marker = batch.marker
        table.add_row(
            str(batch.batch_id),
            f"[{_STATE_STYLES[batch.state]}]{batch.state}[/]",
            "" if batch.planned_offsets is None else f"{batch.planned_offsets:,}",
            "" if marker is None else f"{marker.records_read:,}",
            *("" if marker is None else f"{batch.rows_written.get(sink, 0):,}" for sink in sinks),
            *(() if not has_late else ("",) if marker is None else (f"{batch.rows_late:,}",)),
            *(() if not loses else ("",) if marker is None else (f"{batch.offsets_lost:,}",)),
            "" if marker is None else str(marker.attempt.writer_epoch),
            "" if batch.plan is None else _age(batch.plan.planned_at_ms, now),
            _took(batch),
        )
    return table


def _took(batch: BatchSummary) -> str:
    """From plan to marker."""
    if batch.plan is None or batch.marker is None:
        return ""
    return f"{(batch.marker.committed_at_ms - batch.plan.planned_at_ms) / 1000:.1f} s"


def _moment(at_ms: int, now: datetime.datetime) -> str:
    return f"{moment_text(at_ms)} ({_age(at_ms, now)})"


def _age(at_ms: int, now: datetime.datetime) -> str:
    seconds = now.timestamp() - at_ms / 1000
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if seconds >= 2 * unit_s or (unit_s == 1 and seconds >= 1):
            return f"{int(seconds // unit_s)} {unit} ago"
    return "just now"
