"""Ready-made pipeline: Kafka topics to exactly-once files.

    python -m beam_exactly_once.pipelines.kafka_to_files \\
        --bootstrap_servers localhost:9092 --topics orders \\
        --output s3://lake/orders --checkpoint_location s3://checkpoints/orders

Every option of Beam is taken too. Exit codes: 0 done, 2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start
the same command again, 1 anything else.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once.errors import EXIT_DONE, BeamExactlyOnceError, ConfigurationError
from beam_exactly_once.kafka import EVENT_DATE, RECORD_SCHEMA, read_config_file, with_event_date
from beam_exactly_once.pipelines.progress import JsonLinesListener, ProgressListener
from beam_exactly_once.pipelines.progress_bar import live_bar
from beam_exactly_once.pipelines.stream import BATCH_TIMEOUT_S, ExactlyOnceStream
from beam_exactly_once.pipelines.triggers import AvailableNow, ProcessingTime, Trigger
from beam_exactly_once.transforms import ReadFromKafka, WriteToFiles

PARTITION_COLUMNS = ("topic", "partition", EVENT_DATE)

_LOGGER = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the pipeline; returns the exit code."""
    flags, beam_flags = _parser().parse_known_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("beam_exactly_once").setLevel(logging.INFO)
    try:
        _run(flags, PipelineOptions(beam_flags))
    except BeamExactlyOnceError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        _LOGGER.debug("the whole traceback", exc_info=True)
        return error.exit_code
    return EXIT_DONE


def _run(flags: argparse.Namespace, options: PipelineOptions) -> None:
    with (
        contextlib.ExitStack() as listening,
        ExactlyOnceStream(
            flags.checkpoint_location,
            trigger=_trigger(flags),
            options=options,
            store_options=_store_options(flags.checkpoint_location, flags.store_option),
            progress=_listeners(flags, listening),
            batch_timeout_s=flags.batch_timeout_s or None,
        ) as stream,
    ):
        records = stream | "ReadFromKafka" >> ReadFromKafka(
            flags.bootstrap_servers,
            _list(flags.topics),
            topic_pattern=flags.topic_pattern,
            start=flags.start,
            output="arrow",
            consumer_config=_kafka_config(flags.kafka_config),
            isolation_level=flags.isolation_level,
            max_offsets_per_batch=flags.max_offsets_per_batch,
            fail_on_data_loss=flags.fail_on_data_loss,
            startup_timeout_s=flags.startup_timeout_s,
        )
        partition_by = _partition_by(flags.partition_by)
        if EVENT_DATE in partition_by:
            records |= "EventDate" >> beam.Map(with_event_date).with_output_types(pa.RecordBatch)
        rejected = records | "WriteToFiles" >> WriteToFiles(
            flags.output,
            file_format=flags.file_format,
            schema=_schema(flags.file_format, partition_by),
            compression=flags.compression,
            partition_by=partition_by,
            store_options=_store_options(flags.output, flags.store_option),
            on_encode_error="fail" if flags.rejected_output is None else "reject",
        )
        if flags.rejected_output is not None:
            _ = rejected | "WriteRejected" >> WriteToFiles(flags.rejected_output, name="rejected")


def _partition_by(text: str) -> list[str]:
    columns = _list(text)
    unknown = [column for column in columns if column not in PARTITION_COLUMNS]
    if unknown:
        raise ConfigurationError(
            f"--partition_by={text}: {', '.join(unknown)} is not known. Records can be partitioned by "
            f"{', '.join(PARTITION_COLUMNS)}; for anything else write a pipeline with WriteToFiles(partition_by=[…])."
        )
    return columns


def _schema(file_format: str, partition_by: Sequence[str]) -> pa.Schema | None:
    """What CSV and text hold of a record; None: all of it."""
    if file_format not in ("csv", "text"):
        return None
    columns = {field.name: field for field in RECORD_SCHEMA}
    columns[EVENT_DATE] = pa.field(EVENT_DATE, pa.date32())
    names = [name for name in RECORD_SCHEMA.names if name != "headers"] if file_format == "csv" else ["value"]
    return pa.schema([columns[name] for name in dict.fromkeys([*names, *partition_by])])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m beam_exactly_once.pipelines.kafka_to_files",
        description="Kafka topics to files, exactly once.",
        epilog="Every option of Apache Beam is taken too.",
        allow_abbrev=False,
    )
    parser.add_argument("--bootstrap_servers", required=True, help="host:port, several with commas")
    read = parser.add_mutually_exclusive_group(required=True)
    read.add_argument("--topics", default="", help="several with commas")
    read.add_argument("--topic_pattern", default=None, help="regular expression of whole names, instead of --topics")
    parser.add_argument("--output", required=True, help="folder, s3://bucket/prefix or gs://bucket/prefix")
    parser.add_argument("--checkpoint_location", required=True, help="folder or URI; one for each stream")
    parser.add_argument(
        "--store_option",
        action="append",
        default=[],
        type=_key_and_value,
        metavar="KEY=VALUE",
        help="for checkpoint and output on S3 or GCS, such as endpoint_url=http://localhost:9000; repeatable",
    )
    parser.add_argument(
        "--file_format",
        choices=["parquet", "csv", "json", "text"],
        default="parquet",
        help="csv: without headers, keys and values must be UTF-8; text: the value, a line each",
    )
    parser.add_argument("--compression", default=None, help="parquet: zstd (default), snappy, …; others: gzip, zstd")
    parser.add_argument(
        "--partition_by",
        default="",
        metavar="COLUMNS",
        help=f"folders, such as topic=orders/event_date=2026-01-31: of {', '.join(PARTITION_COLUMNS)}, several with commas; "
        "event_date is the UTC date of the record's timestamp",
    )
    parser.add_argument(
        "--rejected_output",
        default=None,
        metavar="OUTPUT",
        help="where records go, as Parquet, that the file format cannot hold; without it they fail the batch",
    )
    parser.add_argument("--trigger", choices=["available_now", "processing_time"], default="available_now")
    parser.add_argument("--interval_s", type=float, default=10.0, help="seconds between batches of processing_time")
    parser.add_argument("--start", choices=["earliest", "latest"], default="earliest", help="of a new stream")
    parser.add_argument("--max_offsets_per_batch", type=int, default=None)
    parser.add_argument("--isolation_level", choices=["read_committed", "read_uncommitted"], default="read_committed")
    parser.add_argument(
        "--fail_on_data_loss",
        type=_boolean,
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
    return parser


def _trigger(flags: argparse.Namespace) -> Trigger:
    return AvailableNow() if flags.trigger == "available_now" else ProcessingTime(seconds=flags.interval_s)


def _listeners(flags: argparse.Namespace, listening: contextlib.ExitStack) -> list[ProgressListener]:
    """A live bar when a person watches, and JSON lines where asked for."""
    listeners: list[ProgressListener] = []
    if flags.progress_file is not None:
        listeners.append(JsonLinesListener(flags.progress_file))
    if sys.stderr.isatty():
        listeners.append(listening.enter_context(live_bar()))
    return listeners


def _kafka_config(path: str | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        return read_config_file(path)
    except OSError as error:
        raise ConfigurationError(f"--kafka_config {path} cannot be read: {error.strerror}.") from None


def _store_options(uri: str, given: list[tuple[str, str]]) -> dict[str, str] | None:
    """A folder of this machine takes no options."""
    return dict(given) if given and uri.partition("://")[0] in ("s3", "s3a", "gs") else None


def _key_and_value(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError("use true or false")
    return text.lower() == "true"


if __name__ == "__main__":
    sys.exit(main())
