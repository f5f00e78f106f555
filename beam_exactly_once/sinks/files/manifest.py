"""The manifests of published files: which files belong to which batch, in order.

    <location>/part-<batch id>-<attempt nonce>-<bundle>-<number>.parquet
    <location>/<column>=<value>/part-<batch id>-<attempt nonce>-<bundle>-<number>.parquet
    <location>/_batches/<batch id>.json
    <location>/_batches/stream.json

A manifest is written when every file of its batch is visible. A reader through :func:`read_batches` sees whole
batches in order; a listing of the folder shows every file once, perhaps a batch in parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from beam_exactly_once.arguments import location_of, options_of, whole_number
from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import CheckpointHole, CorruptObject, NewerFormat, OlderFormat
from beam_exactly_once.object_store import ObjectStore, open_object_store

FORMAT_VERSION = 2
MANIFESTS = "_batches/"
OWNER = f"{MANIFESTS}stream.json"
"""Says whose output it is, before anything is staged there."""

_MANIFEST = re.compile(re.escape(MANIFESTS) + r"(\d{20})\.json")
_PART = re.compile(r"(?:[^/=]+=[^/]+/)*part-(\d{20})-[0-9a-zA-Z]+-[0-9a-f]{16}-\d{5,}\.[a-z.]+")


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """One file of a batch. ``name`` is relative to the location; ``uri`` is not."""

    name: str
    uri: str
    rows: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PublishedBatch:
    """One batch whose files are all visible; ``files`` is empty for a batch without rows."""

    batch_id: int
    stream_id: str
    attempt: Attempt
    files: tuple[PublishedFile, ...]
    rows_written: int


def read_batches(
    location: str, *, after_batch_id: int | None = None, storage_options: Mapping[str, Any] | None = None
) -> Iterator[PublishedBatch]:
    """The batches that ``WriteToFiles`` has published to ``location``, whole and in order.

    Args:
        location: URI of the folder.
        after_batch_id: go on behind this batch: a reader remembers the last one it has seen. None begins with the oldest
            that is there: a sink that came later than its stream has none of the batches before it.
        storage_options: options of the location's store.

    Raises:
        ConfigurationError: an argument is not possible.
        CheckpointHole: a batch between others has no manifest.
        CorruptObject, NewerFormat, OlderFormat: a manifest cannot be read.
    """
    location_of("location", location, "a folder")
    whole_number("after_batch_id", after_batch_id, least=0, none="the oldest")
    store = open_object_store(location, options_of("storage_options", storage_options))
    return _batches_after(store, after_batch_id)


def _batches_after(store: ObjectStore, after: int | None) -> Iterator[PublishedBatch]:
    expected = None if after is None else after + 1
    for batch_id in manifest_ids(store, after=-1 if after is None else after):
        # A listing is not a snapshot: what it passed over may have been written while it ran.
        for passed_over in range(batch_id if expected is None else expected, batch_id):
            yield _read_or_raise(store, passed_over, batch_id)
        yield _read_or_raise(store, batch_id, batch_id)
        expected = batch_id + 1


def manifest_key(batch_id: int) -> str:
    """Key of a batch's manifest."""
    return f"{MANIFESTS}{batch_id:020d}.json"


def manifest_ids(store: ObjectStore, *, after: int = -1) -> Iterator[int]:
    """Ids of the batches above ``after`` that have a manifest, in order. Names of other makers are passed over."""
    for entry in store.list(MANIFESTS, manifest_key(after) if after >= 0 else ""):
        match = _MANIFEST.fullmatch(entry.key)
        if match is not None:
            yield int(match[1])


def owner_bytes(stream_id: str) -> bytes:
    """What :data:`OWNER` holds."""
    return orjson.dumps({"format_version": FORMAT_VERSION, "stream_id": stream_id})


def owner_in(where: str, body: bytes) -> str:
    """The stream that an :data:`OWNER` names.

    Raises:
        CorruptObject: it is not one.
    """
    try:
        return str(orjson.loads(body)["stream_id"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise CorruptObject(
            f"{where}/{OWNER} is truncated or is not the name of a stream ({type(error).__name__}). Restore it from a copy; "
            "nothing but this library may write below _batches/."
        ) from None


def manifest_bytes(stream_id: str, attempt: Attempt, committables: Iterable[Json]) -> bytes:
    """The manifest of a batch. The same marker gives the same bytes, whoever writes it, however often."""
    files = sorted(
        (
            {"name": committable["final_key"], "rows": committable["rows"], "size_bytes": committable["size_bytes"]}
            for committable in committables
        ),
        key=lambda file: str(file["name"]),
    )
    return orjson.dumps(
        {
            "format_version": FORMAT_VERSION,
            "stream_id": stream_id,
            "batch_id": attempt.batch_id,
            "attempt": attempt.to_json(),
            "files": files,
            "rows_written": sum(int(file["rows"]) for file in files),
        },
        option=orjson.OPT_SORT_KEYS,
    )


def read_manifest(store: ObjectStore, batch_id: int) -> PublishedBatch | None:
    """The batch's manifest, or None if it has none.

    Raises:
        CorruptObject, NewerFormat, OlderFormat: it cannot be read.
    """
    body = store.get(manifest_key(batch_id))
    return None if body is None else parse_manifest(store.uri, batch_id, body)


def parse_manifest(output: str, batch_id: int, body: bytes) -> PublishedBatch:
    """A manifest's bytes, checked.

    Raises:
        CorruptObject, NewerFormat, OlderFormat: it cannot be read.
    """
    where = f"{output}/{manifest_key(batch_id)}"
    try:
        stored = orjson.loads(body)
        if int(stored["format_version"]) > FORMAT_VERSION:
            raise NewerFormat(
                f"{where} has format version {stored['format_version']}, this version reads up to {FORMAT_VERSION}. "
                "Install the newer beam_exactly_once that wrote it."
            )
        if int(stored["format_version"]) < FORMAT_VERSION:
            raise OlderFormat(
                f"{where} has format version {stored['format_version']}, this version reads {FORMAT_VERSION}. Read it with the "
                "beam_exactly_once that wrote it, and let new streams write to a new output."
            )
        files = tuple(
            PublishedFile(file["name"], f"{output}/{file['name']}", int(file["rows"]), int(file["size_bytes"]))
            for file in stored["files"]
        )
        batch = PublishedBatch(
            int(stored["batch_id"]),
            str(stored["stream_id"]),
            Attempt.from_json(stored["attempt"]),
            files,
            int(stored["rows_written"]),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise CorruptObject(
            f"{where} is truncated or is not a manifest ({type(error).__name__}). Restore it from a copy or an older "
            "version; nothing but this library may write below _batches/."
        ) from None
    if batch.batch_id != batch_id:
        raise CorruptObject(f"{where} is the manifest of batch {batch.batch_id}: it was copied to a wrong name.")
    return batch


def part_name(attempt: Attempt, bundle_token: str, number: int, extension: str, folder: str = "") -> str:
    """Name of a data file: sorts by batch within its folder, unique to one execution of one bundle."""
    name = f"part-{attempt.batch_id:020d}-{attempt.nonce}-{bundle_token}-{number:05d}.{extension}"
    return f"{folder}/{name}" if folder else name


def batch_id_of_part(name: str) -> int | None:
    """The batch that a data file was staged for, or None for names that :func:`part_name` does not give."""
    match = _PART.fullmatch(name)
    return None if match is None else int(match[1])


def _read_or_raise(store: ObjectStore, batch_id: int, above: int) -> PublishedBatch:
    batch = read_manifest(store, batch_id)
    if batch is None:
        raise CheckpointHole(
            f"{store.uri}/{manifest_key(batch_id)} is missing, while the manifest of batch {above} is there. Restore "
            f"it from a copy; to go on without it, call read_batches(…, after_batch_id={batch_id})."
        )
    return batch
