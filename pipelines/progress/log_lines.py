"""One line in the log for each batch."""

from __future__ import annotations

import logging

from beam_exactly_once.pipelines.progress.listeners import BatchProgress

_LOGGER = logging.getLogger(__name__)


def log_batch(progress: BatchProgress) -> None:
    """A listener that says at INFO how a batch went. What a listener knows is in the record's ``batch``, for log systems."""
    rows = ", ".join(f"{count} rows to {sink}" for sink, count in progress.rows_written.items())
    _LOGGER.info(
        "batch %d %s: %d records read, %s, in %.1f s",
        progress.batch_id,
        progress.outcome,
        progress.records_read,
        rows,
        progress.total_s,
        extra={"batch": progress.to_json()},
    )
