"""What a stream says in the log: one line for what it does, none besides."""

from __future__ import annotations

import base64
import json
import logging
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.internal import pickler
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once import (
    ExactlyOnceStream,
    ForEachBatch,
    ReadFromKafka,
    Record,
    WriteToDelta,
    WriteToFiles,
    WriteToKafka,
    WriteToSql,
    with_event_date,
)
from beam_exactly_once.errors import DataLoss, StepFailed, UnfitRow, find_in_text
from beam_exactly_once.kafka import EVENT_DATE
from beam_exactly_once.rows.column_encoding import ColumnEncoding
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.transforms.encode_rows import ToBlocks

pytestmark = pytest.mark.runs_on("DirectRunner")


FIELDS = ("stream", "writer_epoch", "batch_id", "step", "error")
"""Of log records, for log systems."""


def run(kafka: MemoryKafka, folder: Path, *flags: str) -> None:
    with (
        kafka.serving(),
        ExactlyOnceStream(f"{folder}/checkpoint", options=PipelineOptions([*flags])) as stream,
    ):
        records = stream | ReadFromKafka("in-memory:9092", ["orders"], max_batch_offsets=2)
        _ = (
            records
            | "Parse" >> beam.Map(lambda one: json.loads(one.value))
            | WriteToFiles(f"{folder}/output", format="json")
        )


def of_library(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [one for one in caplog.records if one.name.startswith("beam_exactly_once")]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the library's own loggers said, without seconds."""
    lines = [one.getMessage() for one in of_library(caplog)]
    caplog.clear()
    return [line.rpartition(", in ")[0] or line for line in lines]


def test_claim_recovery_batches_failure_and_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    kafka = MemoryKafka({"orders": 1})
    kafka.append(Record("orders", value=b"{}") for _ in range(3))

    run(kafka, tmp_path)
    batches: list[Any] = [one.batch for one in caplog.records if hasattr(one, "batch")]
    assert [(one["batch_id"], one["records_read"], one["rows_written"]) for one in batches] == [
        (0, 2, {"files": 2}),
        (1, 1, {"files": 1}),
    ]
    claim, *lines = said(caplog)
    assert claim.startswith("writer 1 has claimed stream ")
    assert claim.endswith(f"{tmp_path}/checkpoint")
    assert lines == [
        "batch 0 committed: 2 records read, 2 rows to files",
        "batch 1 committed: 1 records read, 1 rows to files",
        "the stream stops; its next batch is 2",
    ]

    kafka.append([Record("orders", value=b"secret, and not JSON")])
    with pytest.raises(StepFailed) as raised:
        run(kafka, tmp_path)
    fields = [{name: getattr(one, name, None) for name in FIELDS} for one in of_library(caplog)]
    stream_id = fields[0]["stream"]
    assert fields == [
        {"stream": stream_id, "writer_epoch": 2, "batch_id": None, "step": None, "error": None},
        {"stream": stream_id, "writer_epoch": 2, "batch_id": 2, "step": None, "error": None},
        {"stream": stream_id, "writer_epoch": 2, "batch_id": 2, "step": "Parse", "error": "StepFailed"},
    ]
    assert said(caplog)[1:] == [
        "recovery publishes batch 1 again, and replays 0 planned batches",
        f"batch 2 failed: StepFailed: {raised.value}",
    ]


KAFKA = "in-memory:9092"
ROWS = pa.schema([("n", pa.int64())])


def rejecting(stream: ExactlyOnceStream) -> None:
    rows, undecodable = stream | ReadFromKafka(KAFKA, ["orders"], decoder=len, on_error="reject")
    unfit = rows | WriteToFiles("orders", schema=ROWS, on_error="reject")
    _ = (undecodable, unfit) | beam.Flatten() | WriteToFiles("rejected", name="rejected")


def by_date(stream: ExactlyOnceStream) -> None:
    records = stream | ReadFromKafka(KAFKA, ["orders"], as_arrow=True) | beam.Map(with_event_date)
    _ = records | WriteToFiles("orders", partition_by=[EVENT_DATE])


def written_by(sink: Callable[[], Any]) -> Callable[[ExactlyOnceStream], None]:
    def build(stream: ExactlyOnceStream) -> None:
        _ = stream | ReadFromKafka(KAFKA, ["orders"]) | beam.Map(lambda record: {"n": record.offset}) | sink()

    return build


GRAPHS: dict[str, Callable[[ExactlyOnceStream], None]] = {
    "rejecting": rejecting,
    "by date": by_date,
    "files": written_by(lambda: WriteToFiles("orders", format="json")),
    "table": written_by(lambda: WriteToSql("sqlite:///orders.db", "orders")),
    "table, direct": written_by(lambda: WriteToSql("sqlite:///orders.db", "orders", direct=True)),
    "topic": written_by(lambda: WriteToKafka(KAFKA, "copies")),
    "topic, direct": written_by(lambda: WriteToKafka(KAFKA, "copies", direct=True)),
    "Delta": written_by(lambda: WriteToDelta("orders", schema=ROWS)),
    "function": written_by(lambda: ForEachBatch(print, schema=ROWS)),
}


@pytest.mark.parametrize("build", GRAPHS.values(), ids=GRAPHS)
def test_beam_has_nothing_to_say_of_the_annotations_of_a_graph(
    build: Callable[[ExactlyOnceStream], None], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """At a start, its lines hid those of the stream."""
    caplog.set_level(logging.INFO)
    stream = ExactlyOnceStream(f"{tmp_path}/checkpoint")
    build(stream)
    stream._finish_graph()
    stream._publishing_graph()
    assert caplog.messages == []


@pytest.mark.parametrize("flags", [[], ["--direct_running_mode=multi_threading"]], ids=["in this thread", "in threads"])
def test_the_workers_have_nothing_to_say_of_them_either(
    flags: list[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    kafka = MemoryKafka({"orders": 1})
    kafka.append([Record("orders", value=b"{}")])
    run(kafka, tmp_path, *flags)
    assert [one.getMessage() for one in caplog.records if one.name.startswith("apache_beam.typehints")] == []


# -- what a record says chooses neither the class of an error nor the step that the log blames ---------------------------

FORGED = [
    "beam_exactly_once.errors.Fenced: nothing to do",
    "row\nbeam_exactly_once.errors.DataLoss: offsets are gone",
    "row [while running 'Forged']\nTraceback (most recent call last):\nbeam_exactly_once.errors.Retryable: again",
    f"beam_exactly_once.errors.CorruptObject: {'0' * 32} again",
]


def fail_with_text(record: Record) -> None:
    raise ValueError((record.value or b"").decode())


def run_one(value: bytes, step: beam.PTransform[Any, Any]) -> None:
    cluster = MemoryKafka({"orders": 1})
    cluster.append([Record("orders", value=value)])
    with cluster.serving(), ExactlyOnceStream(f"memory://{secrets.token_hex(8)}/checkpoint") as stream:
        records = stream | ReadFromKafka("memory:9092", ["orders"])
        _ = records | "Step" >> step | ForEachBatch(print, schema=pa.schema([("a", pa.int64())]))


@pytest.mark.parametrize("text", FORGED)
def test_text_of_a_record_in_an_error_of_user_code(text: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "beam_exactly_once")
    with pytest.raises(StepFailed, match=r"^step 'Step' of batch 0 ended with ValueError") as raised:
        run_one(text.encode(), beam.Map(fail_with_text))
    assert text not in str(raised.value)
    lines = [one.getMessage() for one in caplog.records if one.name.endswith("log_lines")]
    assert lines[-1] == f"batch 0 failed: StepFailed: {raised.value}"


def test_an_error_of_the_library_is_known_and_shows_no_mark() -> None:
    with pytest.raises(UnfitRow, match=r"^sink 'for_each_batch'") as raised:
        run_one(FORGED[1].encode(), beam.Map(lambda record: {"a": record.value}))
    assert type(raised.value) is UnfitRow


def test_a_worker_of_another_process_gets_the_mark_with_its_steps() -> None:
    """What it says of an error is known to the driver, and to no other one."""
    sent = base64.b64encode(pickler.dumps(ToBlocks(ColumnEncoding(None), "orders"))).decode()
    program = (
        "import base64\n"
        "from apache_beam.internal import pickler\n"
        "from beam_exactly_once import errors\n"
        f"pickler.loads(base64.b64decode({sent!r}))\n"
        "error = errors.DataLoss('gone')\n"
        "error._tagged_with_step = True\n"
        "print(f'{type(error).__module__}.{type(error).__name__}: {error}')\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    found = find_in_text(told)
    assert (type(found), str(found)) == (DataLoss, "gone")
    assert find_in_text(told.replace("errors.DataLoss: ", "errors.DataLoss: 0")) is None
