"""Staging in one call."""

from __future__ import annotations

from beam_exactly_once.object_store import ObjectStore, StagedObject


def staged(store: ObjectStore, final_key: str, body: bytes = b"content") -> StagedObject:
    """Stage ``body``, durable and invisible."""
    with store.stage(final_key) as writer:
        writer.write(body)
    return writer.staged
