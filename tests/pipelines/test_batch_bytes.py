"""How many batches a limit in bytes makes of a log whose offsets mostly have no record."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pytest

from beam_exactly_once import WriteToFiles
from support.stream_under_test import StreamUnderTest, number_of

pytestmark = pytest.mark.runs_on("DirectRunner")

VALUE_BYTES = 1000
KEPT = range(0, 3000, 60)


@pytest.fixture
def stream() -> StreamUnderTest:
    """A compacted log of 3,000 offsets, with a record in each sixtieth and in the last 40."""
    stream = StreamUnderTest()
    stream.send(f"{number:{VALUE_BYTES}}".encode() for number in range(3000))
    stream.cluster.compact("orders", 0, [*KEPT, *range(2960, 3000)])
    return stream


def read(stream: StreamUnderTest, output: Path, **read: int | None) -> list[int]:
    stream.run_with(
        lambda records: (
            records | beam.Map(lambda record: {"number": number_of(record)}) | WriteToFiles(str(output), format="json")
        ),
        max_batch_offsets=None,
        **read,
    )
    return [batch.records_read for batch in stream.progress]


def test_a_compacted_log_is_read_in_as_few_batches_as_its_bytes_need(stream: StreamUnderTest, tmp_path: Path) -> None:
    batches = read(stream, tmp_path, max_batch_bytes=20 * VALUE_BYTES)
    assert sum(batches) == len({*KEPT, *range(2960, 3000)})
    assert max(batches) <= 2 * 20
    assert len(batches) <= 6


def test_a_log_within_the_limit_is_one_batch(stream: StreamUnderTest, tmp_path: Path) -> None:
    assert read(stream, tmp_path, max_batch_bytes=5000 * VALUE_BYTES) == [len({*KEPT, *range(2960, 3000)})]
