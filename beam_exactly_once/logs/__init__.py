"""Logs of records by partition and offset: what a reader needs of them, and what it gets."""

from __future__ import annotations

from beam_exactly_once.logs.contract import GroupsLog, HeldLog, Log, ManyRangesLog
from beam_exactly_once.logs.records import EVENT_DATE, RECORD_SCHEMA, Chunk, Columns, Record, with_event_date

__all__ = [
    "EVENT_DATE",
    "RECORD_SCHEMA",
    "Chunk",
    "Columns",
    "GroupsLog",
    "HeldLog",
    "Log",
    "ManyRangesLog",
    "Record",
    "with_event_date",
]
