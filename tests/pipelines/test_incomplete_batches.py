"""A reader that loses or repeats a piece, or a runner that does, cannot get its batch committed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToFiles, read_batches
from beam_exactly_once.errors import IncompleteBatch
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.transforms.reading import read_log
from beam_exactly_once.transforms.reading.read_ranges import ReadOffsetRanges, ReadResult

pytestmark = pytest.mark.runs_on("DirectRunner")


def run(cluster: MemoryKafka, folder: Path) -> None:
    with cluster.serving(), ExactlyOnceStream(str(folder / "checkpoint")) as stream:
        _ = (
            stream
            | ReadFromKafka("memory:9092", ["orders"], as_arrow=True)
            | WriteToFiles(str(folder / "output"), format="json")
        )


def no_piece(piece: Any) -> Iterator[Any]:
    yield from ()


def each_piece_twice(piece: Any) -> Iterator[Any]:
    yield piece
    yield piece


@pytest.mark.parametrize(("broken", "words"), [(no_piece, "was not read"), (each_piece_twice, "was read 2 times")])
def test_pieces_that_do_not_tile_the_plan_are_not_committed(
    broken: Any, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = MemoryKafka({"orders": 2})
    cluster.append(Record("orders", number % 2, value=b"%d" % number) for number in range(10))

    class Broken(ReadOffsetRanges):
        def expand(self, ranges: beam.PCollection[Any]) -> ReadResult:
            read = super().expand(ranges)
            return ReadResult(
                read.records, read.pieces | beam.FlatMap(broken).with_output_types(read.pieces.element_type)
            )

    with monkeypatch.context() as patched:
        patched.setattr(read_log, "ReadOffsetRanges", Broken)
        with pytest.raises(IncompleteBatch, match=words):
            run(cluster, tmp_path)
    assert not list((tmp_path / "checkpoint" / "commits").glob("*"))
    assert list(read_batches(str(tmp_path / "output"))) == []
    run(cluster, tmp_path)
    lines = [line for file in (tmp_path / "output").glob("*.json") for line in file.read_text().splitlines()]
    assert len(lines) == 10
