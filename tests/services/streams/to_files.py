"""The ready-made pipeline from a real topic to files on a store: its input, its command, and what readers see of it."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections import Counter
from typing import Any

import pyarrow.parquet as pq

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToFiles, read_batches
from beam_exactly_once.object_store import open_object_store
from services.streams.topics import Topic

RECORDS_A_TRANSACTION = 40
MODULE = "beam_exactly_once.pipelines.kafka_to_files"
KILL_POINTS = (
    "put_if_absent:offsets/:2",  # planned, not read
    "stage::2",  # while writing
    "put_if_absent:commits/:2",  # committed, not published
    "publish::2",  # published in part
)


def fill(topic: Topic) -> None:
    """Committed and aborted transactions in turn, in both partitions; one stays open at the end."""
    for number in range(6):
        values = [f"{number}-{one}".encode() for one in range(RECORDS_A_TRANSACTION)]
        if number % 3 == 1:
            topic.send_aborted(values, partition=number % 2)
        else:
            topic.send_committed(values, partition=number % 2)
    topic.begin([b"open"])


def flags(topic: Topic, place: str) -> list[str]:
    """A command that takes several batches, with checkpoint and output below ``place``."""
    return [
        f"--bootstrap-servers={topic.bootstrap_servers}",
        f"--topics={topic.name}",
        f"--output-location={place}/output",
        f"--checkpoint-location={place}/checkpoint",
        "--max-batch-offsets=70",
    ]


def run_killed(command: list[str], kill_after: str) -> None:
    """Run the pipeline in a process of its own that dies after that call to a store."""
    killed = subprocess.run(
        [
            *(sys.executable, "-m", "beam_exactly_once.testing.crashing", "--kill_after", kill_after),
            *(MODULE, *command),
        ],
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()


def run_stream(topic: Topic, place: str, *, max_batch_offsets: int | None = None, **stream: Any) -> None:
    """The same pipeline in this process, with its errors as they are."""
    read = ReadFromKafka(topic.bootstrap_servers, [topic.name], as_arrow=True, max_batch_offsets=max_batch_offsets)
    with ExactlyOnceStream(f"{place}/checkpoint", **stream) as pipeline:
        _ = pipeline | read | WriteToFiles(f"{place}/output")


def values_in(output: str) -> Counter[bytes]:
    """What a reader of the manifests sees; nothing else is visible."""
    store = open_object_store(output)
    found: Counter[bytes] = Counter()
    names: list[str] = []
    for batch in read_batches(output):
        for file in batch.files:
            body = store.get(file.name)
            assert body is not None
            names.append(file.name)
            found.update(pq.read_table(io.BytesIO(body))["value"].to_pylist())
    assert [entry.key for entry in store.list() if not entry.key.startswith("_batches/")] == sorted(names)
    return found
