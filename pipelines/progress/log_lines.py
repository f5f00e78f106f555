"""What a stream says in the log: one line for what it does, with the same as fields of the log record, for log systems.

Every line has ``stream``, the id; the others are ``writer_epoch``, ``batch_id``, ``step``, ``error`` and ``batch``, where they
are known. No line holds a value of a row.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from beam_exactly_once.checkpoint import Recovery, StreamWriter
from beam_exactly_once.checkpoint.source_times import TimeReached, has_ended
from beam_exactly_once.clock import moment_text
from beam_exactly_once.errors import BeamExactlyOnceError
from beam_exactly_once.pipelines.failures import failed_step
from beam_exactly_once.pipelines.progress.listeners import BatchProgress

_LOGGER = logging.getLogger(__name__)


def log_claim(writer: StreamWriter) -> None:
    """Say that this driver is the newest writer."""
    stream, epoch = writer.checkpoint.stream_id, writer.writer_epoch
    extra = {"stream": stream, "writer_epoch": epoch}
    _LOGGER.info("writer %d has claimed stream %s at %s", epoch, stream, writer.checkpoint.store.uri, extra=extra)


def log_recovery(writer: StreamWriter, recovery: Recovery) -> None:
    """Say what is published again and replayed, if anything is."""
    if recovery.newest is None and not recovery.replays:
        return
    again = "no batch" if recovery.newest is None else f"batch {recovery.newest.batch_id}"
    extra = _fields(writer, recovery.next_batch_id)
    _LOGGER.info(
        "recovery publishes %s again, and replays %d planned batches", again, len(recovery.replays), extra=extra
    )


def log_batch(progress: BatchProgress) -> None:
    """A listener that says how a batch went. What a listener knows is in the record's ``batch``."""
    rows = ", ".join(f"{count} rows to {sink}" for sink, count in progress.rows_written.items())
    _LOGGER.info(
        "batch %d %s: %d records read, %s, in %.1f s%s%s%s",
        progress.batch_id,
        progress.outcome,
        progress.records_read,
        rows,
        progress.total_s,
        f"; {progress.attempts_lost} attempts lost" if progress.attempts_lost else "",
        "".join(f"; {late} rows late for {operator}" for operator, late in progress.rows_late.items() if late),
        "".join(_time_of(source, reached) for source, reached in progress.event_time.items()),
        extra={
            "stream": progress.stream_id,
            "writer_epoch": progress.writer_epoch,
            "batch_id": progress.batch_id,
            "batch": progress.to_json(),
        },
    )


def log_lost(
    writer: StreamWriter, batch_id: int, attempts_lost: int, error: BeamExactlyOnceError, *, is_decided: bool
) -> None:
    """Say that a batch lost its runner, and what the driver does."""
    _LOGGER.warning(
        "batch %d lost its runner, for time %d, and writer %d %s it again: %s",
        batch_id,
        attempts_lost,
        writer.writer_epoch,
        "publishes" if is_decided else "runs",
        error,
        extra={**_fields(writer, batch_id), "error": type(error).__name__},
    )


def log_failure(writer: StreamWriter, batch_id: int, error: Exception) -> None:
    """Say that the stream ends with an error. The text of one that is not the library's may hold a row."""
    said = f": {error}" if isinstance(error, BeamExactlyOnceError) else ""
    extra = {**_fields(writer, batch_id), "step": failed_step(error), "error": type(error).__name__}
    _LOGGER.error("batch %d failed: %s%s", batch_id, type(error).__name__, said, extra=extra)


def log_stop(writer: StreamWriter, next_batch_id: int, open_until_ms: Mapping[str, int]) -> None:
    """Say that the stream stops, as it should, and what waits for the watermark."""
    waits = [f"; operator {name!r} is open, next until {moment_text(at)}" for name, at in open_until_ms.items()]
    extra = {**_fields(writer, next_batch_id), "open_until_ms": dict(open_until_ms)}
    _LOGGER.info("the stream stops; its next batch is %d%s", next_batch_id, "".join(waits), extra=extra)


def log_ended_time(writer: StreamWriter, next_batch_id: int, source: str) -> None:
    """Say that whatever is read now comes too late."""
    _LOGGER.warning(
        "the time of source %r has ended: the stream was drained. What is read now is late for every window and join, and "
        "timeouts by event time are called when it is drained again. To have time go on, start a new checkpoint_location",
        source,
        extra=_fields(writer, next_batch_id),
    )


def _time_of(source: str, reached: TimeReached) -> str:
    if has_ended(reached.watermark_ms):
        return f"; the time of {source} has ended"
    if reached.watermark_ms is None:
        said = f"; {source} has no watermark yet"
    else:
        said = f"; the watermark of {source} is {moment_text(reached.watermark_ms)}"
    if reached.held_by is not None:
        since = "" if reached.held_since_ms is None else f" since {moment_text(reached.held_since_ms)}"
        said += f", held back by {reached.held_by}{since}"
    return said + (f", {reached.future_records} records from the future" if reached.future_records else "")


def _fields(writer: StreamWriter, batch_id: int) -> dict[str, object]:
    return {"stream": writer.checkpoint.stream_id, "writer_epoch": writer.writer_epoch, "batch_id": batch_id}
