"""Removing state objects that no retained marker names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from beam_exactly_once.checkpoint import layout
from beam_exactly_once.checkpoint.writer import StreamWriter
from beam_exactly_once.state.state_list import StateList


def sweep_state(writer: StreamWriter, *, oldest_retained: int, newest: Mapping[str, StateList]) -> None:
    """Delete what the oldest retained batch, and those before it, left and no list names any more.

    A later list holds nothing of these batches that the list of the oldest retained one lacks. So two lists are enough: that
    one, and the newest that this driver itself has seen decided. The second guards against a marker that a late worker has
    created again: it lies below the newest, and no start reads it, but a frozen sweeper may.

    One GET, one LIST, one successor check.

    Args:
        writer: of the driver that sweeps.
        oldest_retained: the batch, by counting from the newest one. Without its marker, nothing is swept.
        newest: the state in the marker of a batch that this driver committed, or recovered from.

    Raises:
        Fenced: a newer writer exists. Nothing was deleted.
    """
    checkpoint = writer.checkpoint
    oldest = checkpoint.read_marker(oldest_retained) if oldest_retained >= 0 else None
    if oldest is None:
        return
    named = _objects_of(map(StateList.from_json, oldest.state.values())) | _objects_of(newest.values())
    old = [
        entry.key
        for entry in checkpoint.store.list(layout.STATE)
        if entry.key not in named and _is_of(entry.key, oldest_retained)
    ]
    writer.ensure_newest()
    checkpoint.store.delete(old)


def _objects_of(lists: Iterable[StateList]) -> set[str]:
    return {key for one in lists for key in one.object_keys}


def _is_of(key: str, oldest_retained: int) -> bool:
    batch_id = layout.state_batch_id(key)
    return batch_id is not None and batch_id <= oldest_retained
