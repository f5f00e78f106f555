"""What a stream says in the log: one line for what it does, none besides."""

from __future__ import annotations

import json
import logging
import secrets
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import ExactlyOnceStream, ForEachBatch, ReadFromKafka, Record, WriteToFiles
from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.testing import MemoryKafka

pytestmark = pytest.mark.runs_on("DirectRunner")


def run(kafka: MemoryKafka, folder: Path) -> None:
    with kafka.serving(), ExactlyOnceStream(f"{folder}/checkpoint") as stream:
        records = stream | ReadFromKafka("in-memory:9092", ["orders"], max_batch_offsets=2)
        _ = (
            records
            | "Parse" >> beam.Map(lambda one: json.loads(one.value))
            | WriteToFiles(f"{folder}/output", format="json")
        )


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the library's own loggers said, without seconds."""
    lines = [one.getMessage() for one in caplog.records if one.name.startswith("beam_exactly_once")]
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
    with pytest.raises(RuntimeError, match="JSONDecodeError"):
        run(kafka, tmp_path)
    assert said(caplog)[1:] == [
        "recovery publishes batch 1 again, and replays 0 planned batches",
        "batch 2 failed in step 'Parse': RuntimeError",
    ]


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
    with pytest.raises(ValueError, match="while running 'Step'"):
        run_one(text.encode(), beam.Map(fail_with_text))
    lines = [one.getMessage() for one in caplog.records if one.name.endswith("micro_batches")]
    assert lines[-1] == "batch 0 failed in step 'Step': ValueError"


def test_an_error_of_the_library_is_known_and_shows_no_mark() -> None:
    with pytest.raises(UnfitRow, match=r"^sink 'for_each_batch'") as raised:
        run_one(FORGED[1].encode(), beam.Map(lambda record: {"a": record.value}))
    assert type(raised.value) is UnfitRow
