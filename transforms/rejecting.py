"""What a step that rejects puts into a stream's graph, besides what it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from beam_exactly_once.rows.rejected import Rejected

REJECTED, COUNTS = "rejected", "counts"
"""Tags of what a rejecting step emits besides: the rejected records, and a bundle's number of them for the commit."""


@dataclass(frozen=True, slots=True)
class RejectingStep:
    """A step that rejects, as a stream knows it."""

    rejected: beam.PCollection[Rejected]
    counts: beam.PCollection[Any]
    """Of each bundle, for the commit."""
