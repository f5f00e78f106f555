"""How much a batch may, and must, read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from beam_exactly_once.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much one batch of one source may, and must, read. What is None does not limit.

    Offsets count, not records: in a compacted or transactional topic a batch holds fewer records than offsets.

    Args:
        max_offsets: at most so many offsets a batch.
        max_bytes: at most about so many bytes a batch, judged by the average size of the records read before.
            A batch takes at least one offset, however large its record.
        min_offsets: while fewer are available, wait for more …
        max_delay_s: … but at most so many seconds. Needed with ``min_offsets``, and only then.

    Raises:
        ConfigurationError: a limit is no positive number, or the limits contradict each other.
    """

    max_offsets: int | None = None
    max_bytes: int | None = None
    min_offsets: int | None = None
    max_delay_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_offsets", "max_bytes", "min_offsets"):
            limit = getattr(self, name)
            if limit is not None and not (is_count(limit) and limit > 0):
                raise ConfigurationError(f"{name} must be an integer above 0, or None for no limit; got {limit!r}")
        if self.max_delay_s is not None and not 0 < self.max_delay_s < math.inf:
            raise ConfigurationError(f"max_delay_s must be a positive number of seconds, got {self.max_delay_s!r}")
        if (self.min_offsets is None) != (self.max_delay_s is None):
            raise ConfigurationError(
                f"min_offsets={self.min_offsets} and max_delay_s={self.max_delay_s} need each other: without a delay a "
                "quiet topic would never be read. Give both, or neither."
            )
        if self.min_offsets is not None and self.max_offsets is not None and self.min_offsets > self.max_offsets:
            raise ConfigurationError(
                f"min_offsets={self.min_offsets} is above max_offsets={self.max_offsets}: no batch could satisfy both"
            )


def is_count(number: object) -> bool:
    """Whether it is a whole number from 0 on."""
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0
