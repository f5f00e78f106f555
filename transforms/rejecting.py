"""What a step that rejects puts into a stream's graph, besides what it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import apache_beam as beam

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.rows.rejected import Rejected

REJECTED, COUNTS = "rejected", "counts"
"""Tags of what a rejecting step emits besides: the rejected records, and a bundle's number of them for the commit."""


class RowsAndRejected(NamedTuple):
    """What a step returns with ``on_error="reject"``."""

    rows: beam.PCollection[Any]
    rejected: beam.PCollection[Rejected]

    def __or__(self, step: object) -> NoReturn:
        """Refuse to go on as if it were one collection."""
        raise ConfigurationError(
            f'on_error="reject" gives two collections, and {step!r} takes one. Unpack them: rows, rejected = …, and pipe '
            "each to a sink of its own."
        )


@dataclass(frozen=True, slots=True)
class RejectingStep:
    """A step that rejects, as a stream knows it."""

    rejected: beam.PCollection[Rejected]
    counts: beam.PCollection[Any]
    """Of each bundle, for the commit."""
