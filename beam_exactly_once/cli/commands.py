"""``beam-exactly-once``: run a ready-made pipeline, look at a checkpoint, verify it, pass a batch, see it killed.

Exit codes are those of :mod:`beam_exactly_once.errors`.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.progress import track

from beam_exactly_once.checkpoint.inspection import read_status
from beam_exactly_once.checkpoint.layout import SINKS, SOURCES
from beam_exactly_once.checkpoint.location import Checkpoint
from beam_exactly_once.checkpoint.records import Outcome
from beam_exactly_once.checkpoint.resolution import allow_rejecting, propose
from beam_exactly_once.checkpoint.resolution import resolve as resolve_batch
from beam_exactly_once.checkpoint.verification import verify_checkpoint
from beam_exactly_once.checkpoint.writer import this_process
from beam_exactly_once.cli import tables
from beam_exactly_once.cli.lag import with_lag
from beam_exactly_once.cli.options import JSON, at_location, client_config, print_json
from beam_exactly_once.cli.outputs import KAFKA_TIMEOUT_S, Outputs
from beam_exactly_once.cli.state_commands import state
from beam_exactly_once.cli.wal_commands import wal
from beam_exactly_once.cli.worker_pool import worker_pool
from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import EXIT_CHECKPOINT, EXIT_FAILED, BeamExactlyOnceError
from beam_exactly_once.kafka import ConfigValue, KafkaSettings, read_properties
from beam_exactly_once.object_store import ObjectStore, open_object_store
from beam_exactly_once.secrets import referenced
from beam_exactly_once.sinks.files.verification import file_sinks, refuse_published
from beam_exactly_once.state.upkeep.looking import operators_behind
from beam_exactly_once.state.upkeep.verification import verify_state

READY_MADE = (
    "kafka-to-files",
    "kafka-to-sql",
    "kafka-to-kafka",
    "kafka-to-delta",
    "wal-to-files",
    "wal-to-sql",
    "wal-to-kafka",
    "wal-to-delta",
    "word-count",
    "windowed-counts",
)
"""Named here, so that Beam is loaded only to run one."""
_CLOCK: Clock = SYSTEM_CLOCK


class _Commands(click.Group):
    """Commands that end with an error of this library as its class says."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BeamExactlyOnceError as error:
            click.echo(f"{click.style(type(error).__name__, fg='red', bold=True)}: {error}", err=True)
            ctx.exit(error.exit_code)


def _with_hyphens(word: str) -> str:
    return word.replace("_", "-")


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _with_hyphens},
)
@click.version_option(package_name="beam_exactly_once")
def main() -> None:
    """Run exactly-once streams, look at them, and help them on.

    A LOCATION is the checkpoint_location of a stream: a folder, s3://bucket/prefix or gs://bucket/prefix.

    Exit codes: 0 done, 2 wrong use or configuration, 3 fenced by a newer writer, 4 data loss, 5 the checkpoint has
    a fault, 75 try again, 1 anything else.
    """
    # Libraries warn about what they miss (Beam: its Google extras); that does not concern these commands.
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")


@main.command(
    short_help="Run a ready-made pipeline, such as kafka-to-files.",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("target", required=False)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, target: str | None, flags: tuple[str, ...]) -> None:
    """Run a ready-made pipeline: TARGET is kafka-to-files, kafka-to-sql, kafka-to-kafka, kafka-to-delta,
    their like from a write-ahead log, such as wal-to-files, word-count or windowed-counts.

    Its flags are the arguments of ExactlyOnceStream and of the source by their names, those of the sink with --output- before
    them, those of the sink of rejected records with --rejected-, and of word-count and windowed-counts those of what they count
    with --count-, and of late rows with --late-.
    `run TARGET --help` lists them.
    """
    if target is None or target in ("-h", "--help"):
        click.echo(ctx.get_help())
        return
    if _with_hyphens(target) not in READY_MADE:
        near = difflib.get_close_matches(_with_hyphens(target), READY_MADE, n=1)
        meant = f" Is {near[0]} meant?" if near else f" There are {', '.join(READY_MADE)}."
        raise click.UsageError(f"{target} is not a ready-made pipeline.{meant}")
    from importlib import import_module

    module = import_module(f"beam_exactly_once.pipelines.{target.replace('-', '_')}")
    program = f"beam-exactly-once run {_with_hyphens(target)}"
    ctx.exit(module.main(flags, program=program))


@main.command()
@at_location
@click.option("--bootstrap-servers", metavar="HOST:PORT", help="Ask Kafka, to show the lag.")
@client_config("--client-config")
@click.option(
    "--batches", "recent_batches", type=click.IntRange(min=0), default=10, show_default=True, help="Batches to show."
)
@JSON
def status(
    location: str,
    storage_options: Mapping[str, str] | None,
    bootstrap_servers: str | None,
    client_config: Mapping[str, str] | None,
    client_config_file: str | None,
    recent_batches: int,
    as_json: bool,
) -> None:
    """Show where a stream stands. Reads only."""
    store = open_object_store(location, storage_options)
    found = read_status(store, recent_batches=recent_batches)
    newest = None if found.newest is None else found.newest.marker
    operators = [] if newest is None else operators_behind(Checkpoint(store, found.stream_id), newest)
    kafka = None
    if bootstrap_servers or client_config or client_config_file:
        kafka = _cluster(bootstrap_servers, _config(client_config, client_config_file))
    try:
        found = with_lag(found, Checkpoint(store, found.stream_id).definitions(SOURCES), kafka, storage_options)
    finally:  # without the lag, when a log does not answer
        if as_json:
            print_json({**found.to_json(), "operators": [one.to_json() for one in operators]})
        else:
            tables.show_status(found, operators, _CLOCK.utc_now(), tables.console())


@main.command(short_help="Check a checkpoint and what it says is published.")
@at_location
@click.option("--output-url", metavar="URL", help="Of the database that sinks write to: ${env:NAME} or ${file:/path}.")
@click.option("--output-receipts-table", metavar="TABLE", help="As in the pipeline, if it says one.")
@click.option("--output-bootstrap-servers", metavar="HOST:PORT", help="Of the cluster that sinks write to.")
@client_config("--output-client-config")
@JSON
@click.pass_context
def verify(
    ctx: click.Context,
    location: str,
    storage_options: Mapping[str, str] | None,
    output_url: str | None,
    output_receipts_table: str | None,
    output_bootstrap_servers: str | None,
    output_client_config: Mapping[str, str] | None,
    output_client_config_file: str | None,
    as_json: bool,
) -> None:
    """Check every object of a checkpoint, and that its outputs hold what it says is published. Reads only.

    Files are looked at one by one; of tables and topics, the receipts. Outputs of the checkpoint's scheme are opened with its
    storage options. Exit code 5: there are faults.
    """
    store = open_object_store(location, storage_options)
    verification = verify_checkpoint(store)
    checks = list(verification.checks)
    if verification.contents is not None:
        config = _config(output_client_config, output_client_config_file)
        servers = output_bootstrap_servers or config.pop("bootstrap.servers", None)
        outputs = Outputs(
            store, storage_options, output_url, output_receipts_table, None if servers is None else str(servers), config
        )
        checks += outputs.checks(verification.contents)
        checks += verify_state(verification.contents)
    is_clean = not any(check.faults for check in checks)
    if as_json:
        stream_id = None if verification.contents is None else verification.contents.checkpoint.stream_id
        found = [check.to_json() for check in checks]
        print_json({"location": store.uri, "stream_id": stream_id, "clean": is_clean, "checks": found})
    else:
        tables.show_checks(store.uri, checks, tables.console())
    if not is_clean:
        ctx.exit(EXIT_CHECKPOINT)


@main.command(short_help="Pass a batch that cannot run, or rows that cannot be written.")
@at_location
@click.option("--batch", "batch_id", type=click.IntRange(min=0), required=True, help="The batch that cannot run.")
@click.option("--skip", is_flag=True, help="Go on behind it; its records are lost, and that is recorded.")
@click.option("--abandon", is_flag=True, help="Give it up; the next batch reads its offsets again.")
@click.option("--reject", is_flag=True, help="It is committed: write it without the rows that a sink's system refuses.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def resolve(
    location: str,
    storage_options: Mapping[str, str] | None,
    batch_id: int,
    skip: bool,
    abandon: bool,
    reject: bool,
    yes: bool,
) -> None:
    """Pass a batch that cannot run, or rows of a committed one that cannot be written.

    --skip and --abandon are for a planned batch that fails at every start: its offsets are gone from Kafka, a record cannot
    be processed, its plan is unreadable. The checkpoint records that it was skipped or abandoned.

    --reject is for a committed batch that a database refuses at every start (RowsRefused): the next start writes it without
    the rows that are refused, and records them below rejected/.

    Stop the driver before, and start it afterwards.
    """
    if skip + abandon + reject != 1:
        raise click.UsageError("say what to do with the batch: either --skip, --abandon or --reject.")
    if reject:
        _reject_refused(open_object_store(location, storage_options), batch_id, yes)
        return
    outcome: Outcome = "skipped" if skip else "abandoned"
    store = open_object_store(location, storage_options)
    proposal = propose(store, batch_id, outcome)
    for sink, output in file_sinks(proposal.checkpoint.definitions(SINKS)).items():
        refuse_published(sink, Outputs(store, storage_options).opening(output)(), batch_id)
    out = tables.console()
    tables.show_proposal(proposal, out)
    if not yes:
        click.confirm("Go on?", abort=True)
    resolve_batch(proposal, owner=f"{this_process()} (resolve)", clock=_CLOCK)
    out.print(f"[green]Batch {batch_id} is {outcome}.[/] Start the stream again.")


def _reject_refused(store: ObjectStore, batch_id: int, yes: bool) -> None:
    out = tables.console()

    def confirm() -> None:
        out.print(
            f"The next start writes batch {batch_id} of {store.uri} without the rows that a sink's system refuses, and "
            "records them below rejected/."
        )
        if not yes:
            click.confirm("Go on?", abort=True)

    allow_rejecting(store, batch_id, owner=f"{this_process()} (resolve)", clock=_CLOCK, confirm=confirm)
    out.print(f"[green]Refused rows of batch {batch_id} may be rejected.[/] Start the stream again.")


@main.command(short_help="Kill a pipeline again and again, and count.")
@click.option("--records", type=click.IntRange(min=1), default=100_000, show_default=True, help="Records to produce.")
@click.option("--kills", type=click.IntRange(min=0), default=3, show_default=True, help="How often to kill it.")
@click.option("--work-dir", type=click.Path(file_okay=False), help="Keep checkpoint and output there.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the moments of the kills.")
@click.pass_context
def demo(ctx: click.Context, records: int, kills: int, work_dir: str | None, seed: int) -> None:
    """Kill a pipeline again and again, then count what is lost or there twice.

    Needs nothing but this library: the broker lives in this process.
    """
    from beam_exactly_once.cli.demo import run_demo, show, show_next_steps

    out = tables.console()
    with contextlib.ExitStack() as temporary:
        prefix = "beam-exactly-once-demo-"
        folder = work_dir or temporary.enter_context(tempfile.TemporaryDirectory(prefix=prefix))
        result = run_demo(records, kills, Path(folder), seed, out)
    show(result, out)
    show_next_steps(work_dir, out)
    if not result.is_exact:
        ctx.exit(EXIT_FAILED)


@main.command(short_help="Kill three designs at the same moments, and count.")
@click.option("--svg", type=click.File("w", encoding="utf-8", lazy=False), help="Draw the result into this file.")
@click.option("--work-dir", type=click.Path(file_okay=False), help="Keep there what each run wrote.")
@JSON
@click.pass_context
def lab(ctx: click.Context, svg: TextIO | None, work_dir: str | None, as_json: bool) -> None:
    """Kill three designs at the same moments, and count what is lost or there twice.

    Two of them are older: a receiver that keeps records in memory, and one that keeps them in a write-ahead log. The third one is
    this library, which plans offset ranges. Needs nothing but this library: the broker lives in this process.

    Exit code 1: the third one lost or repeated a record.
    """
    from beam_exactly_once.lab.experiment import RUNS, is_exact, run_lab
    from beam_exactly_once.lab.picture import draw
    from beam_exactly_once.lab.report import show

    with contextlib.ExitStack() as temporary:
        folder = work_dir or temporary.enter_context(tempfile.TemporaryDirectory(prefix="beam-exactly-once-lab-"))
        runs = track(run_lab(Path(folder)), "run and kill", len(RUNS), console=Console(stderr=True), transient=True)
        outcomes = list(runs)
    if svg is not None:
        svg.write(draw(outcomes))
    if as_json:
        print_json({"outcomes": [outcome.to_json() for outcome in outcomes], "exact": is_exact(outcomes)})
    else:
        show(outcomes, tables.console())
    if not is_exact(outcomes):
        ctx.exit(EXIT_FAILED)


def _config(given: Mapping[str, str] | None, file: str | None) -> dict[str, ConfigValue]:
    """Client properties of a file, and over them those of flags."""
    of_flags = {key: referenced(value) for key, value in (given or {}).items()}
    return {**({} if file is None else read_properties(file)), **of_flags}


def _cluster(bootstrap_servers: str | None, config: dict[str, ConfigValue]) -> KafkaSettings:
    in_file = config.pop("bootstrap.servers", "")
    config.setdefault("log_level", 0)  # what the client has to say ends in the error
    return KafkaSettings(bootstrap_servers or str(in_file), config, timeout_s=KAFKA_TIMEOUT_S)


main.add_command(state)
main.add_command(wal)
main.add_command(worker_pool)
