"""``beam-exactly-once wal``: a write-ahead log, which holds what producers sent who cannot be asked again."""

from __future__ import annotations

from collections.abc import Mapping

import click

from beam_exactly_once.checkpoint.findings import Check, Fault
from beam_exactly_once.cli import tables
from beam_exactly_once.cli.options import JSON, at_location, print_json
from beam_exactly_once.cli.wal_receive import receive
from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import EXIT_CHECKPOINT
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.looking import WalStatus
from beam_exactly_once.wal.readers import readers_of_stream
from beam_exactly_once.wal.sweeping import Sweeper
from beam_exactly_once.wal.verification import verify_log

_CLOCK: Clock = SYSTEM_CLOCK


@click.group()
def wal() -> None:
    """Receive records into a write-ahead log, and look after it. Its LOCATION is that of its writers."""


@wal.command()
@at_location
@JSON
def status(location: str, storage_options: Mapping[str, str] | None, as_json: bool) -> None:
    """Show its partitions, who writes them, and which streams keep what. Reads only."""
    found = WalStatus.of(WalLocation.on(open_object_store(location, storage_options)))
    if as_json:
        print_json(found.to_json())
    else:
        tables.show_log(found, _CLOCK.utc_now(), tables.console())


@wal.command()
@at_location
@JSON
@click.pass_context
def verify(ctx: click.Context, location: str, storage_options: Mapping[str, str] | None, as_json: bool) -> None:
    """Read every segment that a stream may read, and check that none is missing. Reads only.

    Exit code 5: there are faults.
    """
    log = WalLocation.on(open_object_store(location, storage_options))
    looked = verify_log(log)
    checks = [Check(one.name, one.examined, [Fault(*fault) for fault in one.faults]) for one in looked]
    is_clean = not any(check.faults for check in checks)
    if as_json:
        found = [check.to_json() for check in checks]
        print_json({"location": log.store.uri, "log_id": log.log_id, "clean": is_clean, "checks": found})
    else:
        tables.show_checks(log.store.uri, checks, tables.console())
    if not is_clean:
        ctx.exit(EXIT_CHECKPOINT)


@wal.command()
@at_location
@JSON
def sweep(location: str, storage_options: Mapping[str, str] | None, as_json: bool) -> None:
    """Delete what every stream that reads the log has finished with.

    Any number may sweep at once, beside writers and streams. A log that no stream reads is kept whole.
    """
    log = WalLocation.on(open_object_store(location, storage_options))
    sweeper = Sweeper(log)
    swept = {partition: sweeper.sweep(partition) for partition in log.partitions()}
    if as_json:
        found = [
            {"partition": one, "begins_at": of.floor, "segments_deleted": of.segments, "id_pages_deleted": of.pages}
            for one, of in swept.items()
        ]
        print_json({"location": log.store.uri, "log_id": log.log_id, "partitions": found})
    else:
        tables.show_swept(swept, tables.console())


@wal.command()
@at_location
@click.option("--stream", "stream_id", required=True, metavar="ID", help="As `wal status` and `status` show it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def release(location: str, storage_options: Mapping[str, str] | None, stream_id: str, yes: bool) -> None:
    """Keep nothing of the log for a stream any more, for ever.

    For a stream that will not come back. What goes on in its place from its checkpoint must have started before, and so holds the
    log itself. The stream that is let go refuses to start.
    """
    log = WalLocation.on(open_object_store(location, storage_options))
    readers = readers_of_stream(log, stream_id)
    sources = ", ".join(sorted(one.source for one in readers))
    if not yes:
        click.echo(f"Stream {stream_id} will never read {log.store.uri} again (source {sources}).")
        click.confirm("Go on?", abort=True)
    for one in readers:
        one.of(log).release()
    click.echo(f"Nothing of {log.store.uri} is kept for stream {stream_id} any more.")


wal.add_command(receive)
