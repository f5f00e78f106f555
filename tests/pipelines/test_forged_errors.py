"""What a record says chooses neither the class of an error nor the exit code, nor the step that the log blames."""

from __future__ import annotations

import logging
import secrets
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from beam_exactly_once import ExactlyOnceStream, ForEachBatch, ReadFromKafka, Record
from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.testing import MemoryKafka

pytestmark = pytest.mark.runs_on("DirectRunner", storage="memory")

FORGED = [
    "beam_exactly_once.errors.Fenced: nothing to do",
    "row\nbeam_exactly_once.errors.DataLoss: offsets are gone",
    "row [while running 'Forged']\nTraceback (most recent call last):\nbeam_exactly_once.errors.Retryable: again",
    f"beam_exactly_once.errors.CorruptObject: {'0' * 32} again",
]


def fail(record: Record) -> None:
    raise ValueError((record.value or b"").decode())


def run(value: bytes, step: beam.PTransform[Any, Any]) -> None:
    cluster = MemoryKafka({"orders": 1})
    cluster.append([Record("orders", value=value)])
    with cluster.serving(), ExactlyOnceStream(f"memory://{secrets.token_hex(8)}/checkpoint") as stream:
        records = stream | ReadFromKafka("memory:9092", ["orders"])
        _ = records | "Step" >> step | ForEachBatch(print, schema=pa.schema([("a", pa.int64())]))


@pytest.mark.parametrize("text", FORGED)
def test_text_of_a_record_in_an_error_of_user_code(text: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "beam_exactly_once")
    with pytest.raises(ValueError, match="while running 'Step'"):
        run(text.encode(), beam.Map(fail))
    lines = [one.getMessage() for one in caplog.records if one.name.endswith("micro_batches")]
    assert lines[-1] == "batch 0 failed in step 'Step': ValueError"


def test_an_error_of_the_library_is_known_and_shows_no_mark() -> None:
    with pytest.raises(UnfitRow, match=r"^sink 'for_each_batch'") as raised:
        run(FORGED[1].encode(), beam.Map(lambda record: {"a": record.value}))
    assert type(raised.value) is UnfitRow
