"""What a stream tells about each batch it has published, and who listens.

A listener is any callable that takes a :class:`BatchProgress`. It is told about a batch after the batch is
decided and published: nothing that a listener does, or fails to do, changes a result.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from beam_exactly_once.checkpoint.source_times import TimeReached
from beam_exactly_once.errors import OutputNotWritable

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """One batch, as it went.

    Attributes:
        stream_id: random id of the stream's checkpoint.
        batch_id: number of the batch.
        outcome: ``committed``, or how the batch was passed over.
        writer_epoch: of the driver that reports.
        records_read: from Kafka, over all sources.
        bytes_read: keys and values of these records.
        rows_written: by each sink.
        records_rejected: by each step that was told to reject.
        offsets_lost: of each source, those that Kafka no longer had.
        lag_offsets: of each source, topic and partition, the offsets that waited when the batch was planned, less those it read.
        plan_s, run_s, commit_s, publish_s: seconds that each phase took.
        finished_at_ms: when it was published, in milliseconds since 1970 UTC.
        rows_late: of each operator that goes by event time, those that came too late.
        event_time: of each source with event time, how far that had come, what held it back, and how many records there were
            from the future, in all batches.
        attempts_lost: attempts of this driver at the batch that were lost with their runner, before the one that ended.
    """

    stream_id: str
    batch_id: int
    outcome: str
    writer_epoch: int
    records_read: int
    bytes_read: int
    rows_written: Mapping[str, int]
    records_rejected: Mapping[str, int]
    offsets_lost: Mapping[str, int]
    lag_offsets: Mapping[str, Mapping[str, Mapping[int, int]]]
    plan_s: float
    run_s: float
    commit_s: float
    publish_s: float
    finished_at_ms: int
    rows_late: Mapping[str, int] = field(default_factory=dict)
    event_time: Mapping[str, TimeReached] = field(default_factory=dict)
    attempts_lost: int = 0

    @property
    def total_s(self) -> float:
        """Seconds from the plan to the last published output."""
        return self.plan_s + self.run_s + self.commit_s + self.publish_s

    @property
    def records_per_s(self) -> float:
        """Records read, over the time of all phases; 0 for a batch that took no measurable time."""
        return self.records_read / self.total_s if self.total_s > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Every attribute by its name, and ``records_per_s``. Partitions are texts, as JSON has them."""
        lag_offsets = {
            source: {
                topic: {str(partition): behind for partition, behind in partitions.items()}
                for topic, partitions in topics.items()
            }
            for source, topics in self.lag_offsets.items()
        }
        event_time = {source: reached.to_json() for source, reached in self.event_time.items()}
        made = {"lag_offsets": lag_offsets, "event_time": event_time, "records_per_s": self.records_per_s}
        return {**asdict(self), **made}

    @property
    def lag_in_all(self) -> int:
        """The sum of ``lag_offsets``."""
        return sum(sum(of_topic.values()) for of_source in self.lag_offsets.values() for of_topic in of_source.values())


ProgressListener: TypeAlias = Callable[[BatchProgress], None]
"""Told about every published batch, in order, by the driver's thread: it should be quick."""


class JsonLinesListener:
    """Appends one line of JSON a batch, whole and at once.

    The file is opened again for every line, so that it may be rotated away or read at any time.

    Args:
        path: a file, created if it is not there; ``-`` is standard output.

    Raises:
        OutputNotWritable: the file cannot be opened for appending.
    """

    def __init__(self, path: str) -> None:
        self._path = None if path == "-" else Path(path)
        if self._path is not None:
            try:
                self._path.open("ab").close()
            except OSError as error:
                raise OutputNotWritable(
                    f"cannot append progress to {path}: {error.strerror}. Give a file in a folder that exists and that "
                    "this user may write to, or - for standard output."
                ) from error

    def __call__(self, progress: BatchProgress) -> None:
        """Write the line."""
        line = json.dumps(progress.to_json(), separators=(",", ":")) + "\n"
        if self._path is None:
            sys.stdout.write(line)
            sys.stdout.flush()
        else:
            # Unbuffered: the line is one write, which other appenders cannot cut in two.
            with self._path.open("ab", buffering=0) as file:
                file.write(line.encode())


def fan_out(listeners: Iterable[ProgressListener]) -> ProgressListener:
    """One listener that tells all of ``listeners``, in order.

    A listener that raises never stops a batch, nor keeps the others from hearing of it. Its first error is logged
    with its traceback; later ones are not. It goes on being told.
    """
    told = tuple(listeners)
    failed: set[int] = set()

    def tell(progress: BatchProgress) -> None:
        for index, listener in enumerate(told):
            try:
                listener(progress)
            except Exception:
                if index not in failed:
                    failed.add(index)
                    _log.warning(
                        "the progress listener %r failed at batch %d; the stream goes on, and its later failures are "
                        "not logged",
                        listener,
                        progress.batch_id,
                        exc_info=True,
                    )

    return tell
