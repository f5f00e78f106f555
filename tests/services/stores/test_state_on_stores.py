"""State by key whose checkpoint is on an S3 server and on a GCS server, through kills, on machines without a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once import (
    ExactlyOnceStream,
    ReadFromKafka,
    Record,
    StateCache,
    StatefulCombinePerKey,
    WriteToFiles,
    read_batches,
)
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from beam_exactly_once.testing.published_rows import published_rows
from support.command_line import run
from support.ending import ends_with

KILLED_AFTER = [("put_if_absent", "offsets/"), ("put_if_absent", "state/"), ("put_if_absent", "commits/")]


@pytest.fixture(
    params=[
        pytest.param("bucket", marks=pytest.mark.runs_on("DirectRunner", storage="S3")),
        pytest.param("gcs_bucket", marks=pytest.mark.runs_on("DirectRunner", storage="GCS")),
    ]
)
def place(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def keyed(record: Record) -> tuple[str, int]:
    number = int(record.value or b"")
    return f"key {number % 7}", number


def row_of(key: str, total: int) -> dict[str, Any]:
    return {"key": key, "total": total}


def start(place: str, cache: Path) -> None:
    """One start on a machine of its own, which nothing is near to."""
    with ExactlyOnceStream(f"{place}/checkpoint", state_cache=StateCache(str(cache)), retain_batches=2) as stream:
        _ = (
            stream
            | ReadFromKafka("memory:9092", ["numbers"], max_batch_offsets=10)
            | beam.Map(keyed)
            | StatefulCombinePerKey(sum)
            | beam.MapTuple(row_of)
            | WriteToFiles(f"{place}/output", format="json")
        )


def killed() -> None:
    raise RuntimeError("killed here")


def test_sums_go_on_through_kills_on_machines_without_a_cache(place: str, tmp_path: Path) -> None:
    kafka = MemoryKafka({"numbers": 1})
    with kafka.serving():
        for number, (method, prefix) in enumerate(KILLED_AFTER):
            kafka.append([Record("numbers", value=b"%d" % value) for value in range(30 * number, 30 * number + 30)])
            kill = StoreCalls(KillPoint(method, prefix, 2), killed)
            with watching(kill), ends_with("killed here"):
                start(place, tmp_path / f"killed {number}")
            start(place, tmp_path / f"whole {number}")

    batches = list(read_batches(f"{place}/output"))
    newest = {row["key"]: row["total"] for batch in batches for row in published_rows(f"{place}/output", batch)}
    assert newest == {f"key {key}": sum(value for value in range(90) if value % 7 == key) for key in range(7)}
    assert [batch.batch_id for batch in batches] == list(range(9))
    assert run("verify", f"{place}/checkpoint").exit_code == 0
