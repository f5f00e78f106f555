"""What a stream says in the log: one line for what it does, none besides."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles
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
