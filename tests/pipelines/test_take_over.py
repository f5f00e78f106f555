"""A driver starts beside another: the newer one goes on, whenever the older one's last marker comes."""

from __future__ import annotations

import json
from pathlib import Path

import apache_beam as beam
import pytest

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToFiles, read_batches
from beam_exactly_once.checkpoint import layout
from beam_exactly_once.errors import Retryable
from beam_exactly_once.kafka import Record
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.testing import MemoryKafka
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from support.ending import ends_with, kill

pytestmark = pytest.mark.runs_on("DirectRunner")

SECOND_MARKER = layout.commits_key(1)


class LastMarkerComesLate(StoreCalls):
    """Carries out the older driver's create when the newer one has just looked for markers; ``times`` times, if it is
    removed again in between."""

    def __init__(self, checkpoint: str, body: bytes, times: int = 1) -> None:
        super().__init__(None, lambda: None)
        self.store = open_object_store(checkpoint)
        self.body = body
        self.times = times

    def after(self, method: str, key: str) -> None:
        super().after(method, key)
        if (method, key) == ("list", layout.COMMITS) and self.times:
            self.times -= 1
            self.store.put_if_absent(SECOND_MARKER, self.body)


def run(kafka: MemoryKafka, folder: Path) -> None:
    with kafka.serving(), ExactlyOnceStream(f"{folder}/checkpoint") as stream:
        _ = (
            stream
            | ReadFromKafka("in-memory:9092", ["orders"], max_batch_offsets=2)
            | beam.Map(lambda record: json.loads(record.value))
            | WriteToFiles(f"{folder}/output", format="json")
        )


def rows(folder: Path) -> list[int]:
    files = [file.uri for batch in read_batches(f"{folder}/output") for file in batch.files]
    return [
        json.loads(line)["id"] for file in files for line in Path(file.removeprefix("file://")).read_text().splitlines()
    ]


@pytest.fixture
def kafka() -> MemoryKafka:
    kafka = MemoryKafka({"orders": 1})
    kafka.append(Record("orders", value=b'{"id": %d}' % number) for number in range(6))
    return kafka


@pytest.fixture
def late_body(kafka: MemoryKafka, tmp_path: Path) -> bytes:
    """The older driver has sent its second marker, which is under way."""
    killed = StoreCalls(KillPoint.parse(f"put_if_absent:{layout.COMMITS}:2"), kill)
    with watching(killed), ends_with("killed here"):
        run(kafka, tmp_path)
    store = open_object_store(f"{tmp_path}/checkpoint")
    body = store.get(SECOND_MARKER)
    assert body is not None
    store.delete([SECOND_MARKER])
    return body


def test_the_last_marker_of_an_older_driver_comes_while_the_newer_one_recovers(
    kafka: MemoryKafka, tmp_path: Path, late_body: bytes
) -> None:
    late = LastMarkerComesLate(f"{tmp_path}/checkpoint", late_body)
    with watching(late):
        run(kafka, tmp_path)

    assert late.times == 0
    assert rows(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert open_object_store(f"{tmp_path}/checkpoint").get(SECOND_MARKER) == late_body


def test_a_driver_that_is_overtaken_again_and_again_says_so(
    kafka: MemoryKafka, tmp_path: Path, late_body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_exactly_once.pipelines.micro_batches.MAX_RECOVERIES", 1)
    with (
        watching(LastMarkerComesLate(f"{tmp_path}/checkpoint", late_body)),
        pytest.raises(Retryable, match="newest writer all the same"),
    ):
        run(kafka, tmp_path)
    run(kafka, tmp_path)
    assert rows(tmp_path) == [0, 1, 2, 3, 4, 5]
