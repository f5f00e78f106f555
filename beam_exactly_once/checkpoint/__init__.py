"""The checkpoint of a stream: its only truth. Plans, commit markers, writers; names, shapes, retention."""

from beam_exactly_once.checkpoint.location import Checkpoint
from beam_exactly_once.checkpoint.records import Attempt, Marker, Piece, Plan, Predecessor, SourceCommit, SourcePlan
from beam_exactly_once.checkpoint.writer import (
    Recovery,
    StreamWriter,
    marker_of_attempt,
    marker_of_resolution,
    this_process,
)

__all__ = [
    "Attempt",
    "Checkpoint",
    "Marker",
    "Piece",
    "Plan",
    "Predecessor",
    "Recovery",
    "SourceCommit",
    "SourcePlan",
    "StreamWriter",
    "marker_of_attempt",
    "marker_of_resolution",
    "this_process",
]
