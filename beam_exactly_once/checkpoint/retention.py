"""Removing plans and markers that no start needs any more."""

from __future__ import annotations

from beam_exactly_once.checkpoint import layout
from beam_exactly_once.checkpoint.location import Checkpoint


class Retention:
    """Keeps the newest ``retain_batches`` plans and markers.

    Names are arithmetic and the store lists in order, so that a sweep asks for old names only. The newest marker and
    everything above it always stay, and ``writers/`` is never touched: a deleted claim would let a frozen
    writer take itself for the newest.
    """

    def __init__(self, checkpoint: Checkpoint, retain_batches: int) -> None:
        self._checkpoint = checkpoint
        self._retain_batches = retain_batches

    def is_due(self, batch_id: int) -> bool:
        """Whether to sweep after this batch: once every ``retain_batches``, so that a batch needs no LIST."""
        return batch_id % self._retain_batches == self._retain_batches - 1

    def sweep_all(self, newest_batch_id: int) -> None:
        """Remove plans, markers, spilled lists and notes of batches that are no longer retained.

        Args:
            newest_batch_id: the newest batch that has a marker.
        """
        oldest_retained = newest_batch_id - self._retain_batches + 1
        if oldest_retained <= 0:
            return
        store = self._checkpoint.store
        for prefix in (layout.OFFSETS, layout.COMMITS, layout.SPILLED, layout.PUBLISHED):
            end = f"{prefix}{oldest_retained:020d}"
            old = []
            for entry in store.list(prefix):
                if entry.key >= end:
                    break
                old.append(entry.key)
            store.delete(old)
