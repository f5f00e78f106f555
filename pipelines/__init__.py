"""Streams, their triggers, and ready-made pipelines."""

from beam_exactly_once.pipelines.progress import BatchProgress, JsonLinesListener, ProgressListener
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.pipelines.triggers import AvailableNow, ProcessingTime, Trigger

__all__ = [
    "AvailableNow",
    "BatchProgress",
    "ExactlyOnceStream",
    "JsonLinesListener",
    "ProcessingTime",
    "ProgressListener",
    "Trigger",
]
