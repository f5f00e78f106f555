"""A stream from a topic on a real broker to files, and what those files hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from beam_exactly_once.pipelines import BatchProgress, ExactlyOnceStream, ProcessingTime
from beam_exactly_once.transforms import ReadFromKafka, WriteToFiles
from beam_exactly_once.transforms.file_manifest import read_batches
from services.topics import Topic


class Stream:
    """One topic to files, run again and again."""

    def __init__(self, topic: Topic, folder: Path) -> None:
        self.topic = topic
        self.output = folder / "output"
        self.checkpoint = folder / "checkpoint"
        self.progress: list[BatchProgress] = []
        self.after_batch: list[Callable[[BatchProgress], None]] = []
        """Called with each batch, as progress listeners are."""

    def run(
        self,
        trigger: ProcessingTime | None = None,
        *,
        bootstrap_servers: str | None = None,
        through: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None,
        **options: object,
    ) -> bytes:
        """Run to the end of the trigger; returns the pipeline as runners get it.

        ``through`` sees each chunk on the way; the range's reader waits behind it.
        """
        listeners = [self.progress.append, *self.after_batch]
        with ExactlyOnceStream(str(self.checkpoint), trigger=trigger, progress=listeners) as stream:
            servers = bootstrap_servers or self.topic.bootstrap_servers
            rows = stream | ReadFromKafka(servers, [self.topic.name], output="arrow", **options)
            if through is not None:
                rows = rows | beam.Map(through).with_output_types(pa.RecordBatch)
            _ = rows | WriteToFiles(str(self.output))
        return bytes(stream.to_runner_api().SerializeToString())

    def values(self) -> Counter[bytes]:
        """Of all files that manifests name."""
        found: Counter[bytes] = Counter()
        for batch in read_batches(str(self.output)):
            for file in batch.files:
                found.update(pq.read_table(file.uri)["value"].to_pylist())
        return found

    def stored(self) -> dict[str, bytes]:
        """Every file of the checkpoint and the output."""
        folders = [self.checkpoint, self.output, self.output.parent]
        return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
