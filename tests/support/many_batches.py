"""Run many small batches in this process; print what it holds after 50 and at the end, as one JSON line."""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from pathlib import Path

import psutil

from beam_exactly_once import BatchProgress, ExactlyOnceStream, ProcessingTime, ReadFromKafka, Record, WriteToFiles
from beam_exactly_once.testing import MemoryKafka


def main(runner: str, batches: int, folder: str) -> None:
    temporary = Path(folder) / "temporary"
    temporary.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    cluster = MemoryKafka({"orders": 4})
    held: list[dict[str, int]] = []

    def feed(progress: BatchProgress | None = None) -> None:
        cluster.delete_records("orders", 0, max(0, cluster.bounds_of(cluster.partitions_of("orders")[0]).latest - 10))
        cluster.append(Record("orders", number % 4, value=b"x" * 100) for number in range(40))
        if progress is not None and progress.batch_id + 1 in (50, batches):
            held.append(holding(temporary))

    feed()
    with (
        cluster.serving(),
        ExactlyOnceStream(
            f"{folder}/checkpoint", trigger=ProcessingTime(0), max_batches=batches, runner=runner, listeners=[feed]
        ) as stream,
    ):
        _ = stream | ReadFromKafka("memory:9092", ["orders"]) | WriteToFiles(f"{folder}/output")
    print(json.dumps(held))


def holding(temporary: Path) -> dict[str, int]:
    gc.collect()
    process = psutil.Process()
    return {
        "rss_bytes": process.memory_info().rss,
        "threads": process.num_threads(),
        "open_files": process.num_fds(),
        "temporary_files": sum(1 for _ in temporary.rglob("*")),
    }


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
