"""Object stores: memory, local disk, S3, GCS, behind one contract."""

from beam_exactly_once.object_store.contract import (
    VERIFY_PREFIX,
    Created,
    Mine,
    ObjectEntry,
    ObjectStore,
    PutResult,
    StagedObject,
    StagingWriter,
    Taken,
)
from beam_exactly_once.object_store.opening import open_object_store, override_stores

__all__ = [
    "VERIFY_PREFIX",
    "Created",
    "Mine",
    "ObjectEntry",
    "ObjectStore",
    "PutResult",
    "StagedObject",
    "StagingWriter",
    "Taken",
    "open_object_store",
    "override_stores",
]
