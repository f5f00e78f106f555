"""How much a batch may, and must, read."""

from __future__ import annotations

from dataclasses import dataclass

from beam_exactly_once.arguments import seconds, whole_number
from beam_exactly_once.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much one batch of one source may, and must, read. What is None does not limit.

    Offsets count, not records: in a compacted or transactional topic a batch holds fewer records than offsets.

    Args:
        max_batch_offsets: at most so many offsets a batch.
        max_batch_bytes: at most about so many bytes a batch, judged by the average size of the records read before.
            A batch takes at least one offset, however large its record.
        min_batch_offsets: while fewer are available, wait for more …
        max_batch_delay_s: … but at most so many seconds. Needed with ``min_batch_offsets``, and only then.

    Raises:
        ConfigurationError: a limit is not a positive number, or the limits contradict each other.
    """

    max_batch_offsets: int | None = None
    max_batch_bytes: int | None = None
    min_batch_offsets: int | None = None
    max_batch_delay_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_batch_offsets", "max_batch_bytes", "min_batch_offsets"):
            whole_number(name, getattr(self, name), none="no limit")
        seconds("max_batch_delay_s", self.max_batch_delay_s, none="no wait")
        least, most = self.min_batch_offsets, self.max_batch_offsets
        if (least is None) != (self.max_batch_delay_s is None):
            raise ConfigurationError(
                f"min_batch_offsets={least} and max_batch_delay_s={self.max_batch_delay_s} need each other: without a delay a "
                "quiet topic would never be read. Give both, or neither."
            )
        if least is not None and most is not None and least > most:
            raise ConfigurationError(
                f"min_batch_offsets={least} is above max_batch_offsets={most}: no batch could satisfy both. Lower the one, or "
                "raise the other."
            )
