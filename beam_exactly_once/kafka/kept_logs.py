"""Logs that readers of one process leave to each other from batch to batch; see :mod:`~beam_exactly_once.kafka.kept_clients`."""

from __future__ import annotations

from beam_exactly_once.kafka import kept_clients
from beam_exactly_once.kafka.settings import KafkaSettings
from beam_exactly_once.logs import Log, ManyRangesLog
from beam_exactly_once.logs.opening import LogSettings, open_log


def take_log(settings: LogSettings) -> Log:
    """The log that somebody left, or else a new one. It holds nothing that was fetched before."""
    kept: Log | None = kept_clients.take(("log", settings)) if isinstance(settings, KafkaSettings) else None
    return kept or open_log(settings)


def leave_log(settings: LogSettings, log: Log) -> None:
    """Leave a log for who takes it next, or close it: one that had trouble, and where this process keeps none."""
    if (
        isinstance(settings, KafkaSettings)
        and isinstance(log, ManyRangesLog)
        and kept_clients.is_keeping(reader=True)
        and log.rest()
    ):
        kept_clients.keep(("log", settings), log, reader=True)
    else:
        log.close()
