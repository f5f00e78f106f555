"""``StoreLocation``: where an object store is, as it travels in a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beam_exactly_once.object_store import ObjectStore, open_object_store


class StoreLocation:
    """A URI and the options of its store. Pickles without the opened store: clients do not survive it."""

    def __init__(self, uri: str, options: Mapping[str, Any] | None) -> None:
        self.uri = uri
        self.options = None if options is None else dict(options)
        self._store: ObjectStore | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None}

    def canonical(self) -> StoreLocation:
        """The same place by its canonical URI: a relative path means another folder on a worker."""
        return StoreLocation(self.store.uri, self.options)

    @property
    def store(self) -> ObjectStore:
        """The store, opened at first use; that is cheap, and asks no server."""
        if self._store is None:
            self._store = open_object_store(self.uri, self.options)
        return self._store


def kind_of_store(uri: str) -> str:
    """The scheme of a location, one for each kind of store: ``file``, ``memory``, ``s3``, ``gs``."""
    scheme, separator, _ = uri.partition("://")
    return {"s3a": "s3"}.get(scheme, scheme) if separator else "file"


def is_near(uri: str) -> bool:
    """Whether no network lies before the store, so that a request costs neither waiting nor money."""
    return kind_of_store(uri) in ("file", "memory")
