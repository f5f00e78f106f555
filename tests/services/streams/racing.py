"""A writer in a process of its own."""

from __future__ import annotations

from beam_exactly_once.object_store import open_object_store


def create_all(uri: str, writer: int, keys: int) -> list[str]:
    """Try to create every key; returns how each ended."""
    store = open_object_store(uri)
    return [type(store.put_if_absent(f"raced/{key}", b"%d" % writer)).__name__ for key in range(keys)]
