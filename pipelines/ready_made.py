"""What ready-made pipelines share: flags, the stream and its listeners, exit codes.

A ready-made pipeline says which flags it adds and how it goes on from Kafka; see
:mod:`beam_exactly_once.pipelines.kafka_to_files`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once.errors import EXIT_DONE, BeamExactlyOnceError, ConfigurationError
from beam_exactly_once.kafka import read_properties
from beam_exactly_once.pipelines.progress import JsonLinesListener, ProgressListener
from beam_exactly_once.pipelines.progress.bar import live_bar
from beam_exactly_once.pipelines.stream import BATCH_TIMEOUT_S, ExactlyOnceStream
from beam_exactly_once.pipelines.triggers import AvailableNow, ProcessingTime, Trigger
from beam_exactly_once.rows.rejected import OnError
from beam_exactly_once.transforms.read_kafka import ReadFromKafka
from beam_exactly_once.transforms.write_files import WriteToFiles

_LOGGER = logging.getLogger(__name__)


def run_ready_made(
    argv: Sequence[str] | None,
    *,
    module: str,
    description: str,
    add_flags: Callable[[argparse.ArgumentParser], None],
    wire: Callable[[ExactlyOnceStream, argparse.Namespace], None],
) -> int:
    """Run a pipeline by its flags; returns the exit code, see :mod:`beam_exactly_once.errors`.

    Args:
        argv: flags; those of the process if None.
        module: name of the module below ``beam_exactly_once.pipelines``.
        description: one line for ``--help``.
        add_flags: adds what the shared flags lack.
        wire: puts the graph into the stream.
    """
    parser = ready_made_parser(module, description, add_flags)
    flags, beam_flags = parser.parse_known_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("beam_exactly_once").setLevel(logging.INFO)
    try:
        with (
            contextlib.ExitStack() as listening,
            ExactlyOnceStream(
                flags.checkpoint_location,
                trigger=_trigger(flags),
                options=PipelineOptions(beam_flags),
                storage_options=storage_options(flags, flags.checkpoint_location),
                listeners=_listeners(flags, listening),
                batch_timeout_s=flags.batch_timeout_s or None,
            ) as stream,
        ):
            wire(stream, flags)
    except BeamExactlyOnceError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        _LOGGER.debug("the whole traceback", exc_info=True)
        return error.exit_code
    return EXIT_DONE


def source(flags: argparse.Namespace, *, as_arrow: bool) -> ReadFromKafka:
    """The source that the flags describe."""
    return ReadFromKafka(
        flags.bootstrap_servers,
        comma_separated(flags.topics),
        topic_pattern=flags.topic_pattern,
        start=flags.start,
        as_arrow=as_arrow,
        client_config=kafka_config(flags.kafka_config),
        isolation_level=flags.isolation_level,
        max_batch_offsets=flags.max_offsets_per_batch,
        on_data_loss="fail" if flags.fail_on_data_loss else "skip",
        timeout_s=flags.startup_timeout_s,
    )


def add_rejected_output(parser: argparse.ArgumentParser, what: str) -> None:
    """The flag for records that the sink cannot write: ``what``, for ``--help``."""
    parser.add_argument(
        "--rejected_output",
        default=None,
        metavar="OUTPUT",
        help=f"where records go, as Parquet, {what}; without it they fail the batch",
    )


def on_error(flags: argparse.Namespace) -> OnError:
    """What becomes of records that do not fit, by :func:`add_rejected_output`."""
    return "fail" if flags.rejected_output is None else "reject"


def write_rejected(flags: argparse.Namespace, *rejected: Any) -> None:
    """Write what steps rejected, if they were told to."""
    if flags.rejected_output is not None:
        options = storage_options(flags, flags.rejected_output)
        together = rejected | "Rejected" >> beam.Flatten()
        _ = together | "WriteRejected" >> WriteToFiles(flags.rejected_output, name="rejected", storage_options=options)


def kafka_config(path: str | None) -> Mapping[str, Any]:
    """The client properties in a file; none without one.

    Raises:
        ConfigurationError: it cannot be read.
    """
    if path is None:
        return {}
    try:
        return read_properties(path)
    except OSError as error:
        raise ConfigurationError(f"the client properties {path} cannot be read: {error.strerror}.") from None


def comma_separated(text: str) -> list[str]:
    """The parts of a flag's value that are not empty."""
    return [part.strip() for part in text.split(",") if part.strip()]


def storage_options(flags: argparse.Namespace, uri: str) -> dict[str, str] | None:
    """The options of the store at ``uri``; a folder of this machine takes none."""
    given = flags.store_option
    return dict(given) if given and uri.partition("://")[0] in ("s3", "s3a", "gs") else None


def boolean(text: str) -> bool:
    """An argparse type."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError("use true or false")
    return text.lower() == "true"


def ready_made_parser(
    module: str, description: str, add_flags: Callable[[argparse.ArgumentParser], None]
) -> argparse.ArgumentParser:
    """The shared flags and those that ``add_flags`` adds."""
    parser = argparse.ArgumentParser(
        prog=f"python -m beam_exactly_once.pipelines.{module}",
        description=description,
        epilog="Every option of Apache Beam is taken too.",
        allow_abbrev=False,
    )
    parser.add_argument("--bootstrap_servers", required=True, help="host:port, several with commas")
    read = parser.add_mutually_exclusive_group(required=True)
    read.add_argument("--topics", default="", help="several with commas")
    read.add_argument("--topic_pattern", default=None, help="regular expression of whole names, instead of --topics")
    parser.add_argument("--checkpoint_location", required=True, help="folder or URI; one for each stream")
    parser.add_argument(
        "--store_option",
        action="append",
        default=[],
        type=_key_and_value,
        metavar="KEY=VALUE",
        help="for what is on S3 or GCS, such as endpoint_url=http://localhost:9000; repeatable",
    )
    parser.add_argument("--trigger", choices=["available_now", "processing_time"], default="available_now")
    parser.add_argument("--interval_s", type=float, default=10.0, help="seconds between batches of processing_time")
    parser.add_argument("--start", choices=["earliest", "latest"], default="earliest", help="of a new stream")
    parser.add_argument("--max_offsets_per_batch", type=int, default=None)
    parser.add_argument("--isolation_level", choices=["read_committed", "read_uncommitted"], default="read_committed")
    parser.add_argument(
        "--fail_on_data_loss",
        type=boolean,
        default=True,
        metavar="true|false",
        help="false: go on when Kafka no longer has offsets, and record the lost range",
    )
    parser.add_argument(
        "--kafka_config", default=None, metavar="FILE", help="client properties; ${env:NAME}, ${file:/path}"
    )
    parser.add_argument("--startup_timeout_s", type=float, default=30.0)
    parser.add_argument(
        "--batch_timeout_s", type=float, default=BATCH_TIMEOUT_S, help="of Flink and Prism; 0: wait for ever"
    )
    parser.add_argument("--progress_file", default=None, metavar="FILE", help="one JSON line a batch; - is stdout")
    add_flags(parser)
    return parser


def _key_and_value(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _trigger(flags: argparse.Namespace) -> Trigger:
    return AvailableNow() if flags.trigger == "available_now" else ProcessingTime(flags.interval_s)


def _listeners(flags: argparse.Namespace, listening: contextlib.ExitStack) -> list[ProgressListener]:
    """A live bar when a person watches, and JSON lines where asked for."""
    listeners: list[ProgressListener] = []
    if flags.progress_file is not None:
        listeners.append(JsonLinesListener(flags.progress_file))
    if sys.stderr.isatty():
        listeners.append(listening.enter_context(live_bar()))
    return listeners
