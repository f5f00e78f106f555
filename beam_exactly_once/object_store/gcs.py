"""Objects in a bucket of Google Cloud Storage.

A create is an upload with ``ifGenerationMatch=0``. Staged content is an object under a hidden sibling of the root, so
that no listing of the root shows it; publishing rewrites it to its name on the server, again only if that is absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from google.cloud.storage.retry import DEFAULT_RETRY  # type: ignore[import-untyped, unused-ignore]

from beam_exactly_once.errors import ConfigurationError, StagedOutputMissing
from beam_exactly_once.object_store.contract import (
    ObjectEntry,
    StagedObject,
    StagingWriter,
    checked_key,
    checked_prefix,
)
from beam_exactly_once.object_store.definite import MAX_PAGE_ENTRIES, DefiniteStore, Page, Unclear
from beam_exactly_once.object_store.gcs_client import ABSENT, Refusal, checked_options, shared_client, sorted_errors
from beam_exactly_once.randomness import new_token

TIMEOUT_S = 20.0  # of one wait for an answer: short enough for several tries within the contract's retry timeout
CHUNK_BYTES = 8 << 20  # a multiple of 256 KiB, as GCS asks for; what a writer holds in memory
MAX_NAME_BYTES = 1024

_BUCKET = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_STAGING_FOLDER = re.compile(r"(^|/)\.[^/]*\.staging/")
_TAKEN = 412
_BEHIND_THE_END = 416


class GcsStore(DefiniteStore):
    """A prefix of a bucket. Credentials are the application's default ones, unless ``options`` name a file.

    Args:
        uri: ``gs://bucket/prefix``; the prefix is not empty, since staged content needs a place beside it.
        options: ``user_project`` (who pays), ``kms_key_name`` and ``storage_class`` (for all that is written),
            ``service_account_file`` (a path on every machine that connects).

    Raises:
        ConfigurationError: the URI lacks bucket or prefix, or an option is wrong.
    """

    def __init__(self, uri: str, options: Mapping[str, Any] | None = None, **contract: Any) -> None:
        self._bucket_name, self._prefix, self._staging = _split(uri)
        super().__init__(f"gs://{self._bucket_name}/{self._prefix}".rstrip("/"), **contract)
        self._options = checked_options(self.uri, options)

    def stage(self, final_key: str) -> StagingWriter:
        """An object beside the root: in one request if it is small, else sent in chunks."""
        return _GcsWriter(self, checked_key(final_key))

    def takes(self, final_key: str) -> bool:
        """See :class:`ObjectStore`; what is staged has the longest name."""
        return len((self._staging + _staged_name(final_key)).encode()) <= MAX_NAME_BYTES

    def list_staged(self, prefix: str = "") -> Iterator[StagedObject]:
        """See :class:`ObjectStore`; in order of final keys."""
        checked_prefix(prefix)
        after = ""
        while True:
            names, more = self._definite(
                f"list staged {prefix}",
                lambda after=after: self._names_behind(self._staging + prefix, after, MAX_PAGE_ENTRIES),  # type: ignore[misc]
            )
            for name, size_bytes in names:
                staged_name = name.removeprefix(self._staging)
                yield StagedObject(staged_name.rpartition("/")[0], size_bytes, {"name": staged_name})
            if not more:
                return
            after = names[-1][0]

    def _create(self, key: str, body: bytes) -> bool:
        try:
            with sorted_errors(self.uri, self._bucket_name, _TAKEN):
                self._blob(self._prefix + key).upload_from_string(
                    body,
                    content_type="application/octet-stream",
                    if_generation_match=0,
                    timeout=TIMEOUT_S,
                    retry=None,
                )
        except Refusal:
            return False
        return True

    def _get(self, key: str) -> bytes | None:
        try:
            return self._read(key, ABSENT)
        except Refusal:
            return None

    def _get_range(self, key: str, start: int, size_bytes: int) -> bytes | None:
        try:
            return self._read(key, *(ABSENT, _BEHIND_THE_END), start=start, end=start + size_bytes - 1)
        except Refusal as refusal:
            return b"" if refusal.status == _BEHIND_THE_END else None

    def _read(self, key: str, *expected: int, **part: int) -> bytes:
        with sorted_errors(self.uri, self._bucket_name, *expected):
            body: bytes = self._blob(self._prefix + key).download_as_bytes(timeout=TIMEOUT_S, retry=None, **part)
            return body

    def _size_bytes(self, key: str) -> int | None:
        found = self._about(key)
        return None if found is None else int(found.size or 0)

    def _written_at_ms(self, key: str) -> int | None:
        found = self._about(key)
        return None if found is None or found.time_created is None else int(found.time_created.timestamp() * 1000)

    def _about(self, key: str) -> Any:
        with sorted_errors(self.uri, self._bucket_name):
            return self._bucket().get_blob(self._prefix + key, timeout=TIMEOUT_S, retry=None)

    def _list_page(self, prefix: str, start_after: str, max_entries: int) -> Page:
        # One more than is wanted: the name that the listing starts at may be there, and is not wanted.
        wanted = max_entries + (max_entries < MAX_PAGE_ENTRIES)
        names, more = self._names_behind(self._prefix + prefix, self._prefix + start_after, wanted)
        keys = [(name.removeprefix(self._prefix), size_bytes) for name, size_bytes in names]
        entries = [
            ObjectEntry(key, size_bytes)
            for key, size_bytes in keys
            if not key.endswith("/") and not _STAGING_FOLDER.search(key)
        ]
        return Page(entries, resume_after=keys[-1][0] if more else None)

    def _delete(self, keys: list[str]) -> None:
        for key in keys:
            self._delete_object(self._prefix + key)

    def _publish(self, staged: StagedObject) -> bool:
        source_name = self._staging + staged.token["name"]
        try:
            with sorted_errors(self.uri, self._bucket_name, _TAKEN, ABSENT):
                source, final = self._blob(source_name), self._blob(self._prefix + staged.final_key)
                rewrite_token = None
                while True:
                    rewrite_token, _, _ = final.rewrite(
                        source, token=rewrite_token, if_generation_match=0, timeout=TIMEOUT_S, retry=None
                    )
                    if rewrite_token is None:
                        break
            published = True
        except Refusal as refusal:
            if refusal.status == ABSENT and self._size_bytes(staged.final_key) is None:
                raise StagedOutputMissing(
                    f"{self.uri}/{staged.final_key} is neither published nor staged (as {source_name}). Did a lifecycle "
                    "rule of the bucket delete it? Restore it from a copy; `beam-exactly-once verify` names all that is missing."
                ) from None
            published = False
        self._discard(staged)
        return published

    def _discard(self, staged: StagedObject) -> None:
        self._delete_object(self._staging + staged.token["name"])

    def _delete_object(self, name: str) -> None:
        with suppress(Refusal), sorted_errors(self.uri, self._bucket_name, ABSENT):
            self._blob(name).delete(timeout=TIMEOUT_S, retry=None)

    # -- for the writer -------------------------------------------------------------------------------------------

    def put_staged(self, final_key: str, name: str, body: bytes) -> None:
        """Stage small content in one request. Sending it again replaces it by the same."""

        def send() -> None:
            with sorted_errors(self.uri, self._bucket_name):
                self._blob(self._staging + name).upload_from_string(
                    body, content_type="application/octet-stream", timeout=TIMEOUT_S, retry=None
                )

        self._definite(f"stage {final_key}", send)

    def begin_upload(self, name: str) -> Any:
        """A file to write to, in chunks. Asks nothing yet."""
        with sorted_errors(self.uri, self._bucket_name):
            return self._blob(self._staging + name).open(
                "wb",
                chunk_size=CHUNK_BYTES,
                ignore_flush=True,
                content_type="application/octet-stream",
                timeout=TIMEOUT_S,
                # A chunk is sent again by the client, which knows how much of it has arrived.
                retry=DEFAULT_RETRY.with_timeout(self._retry_timeout_s),
            )

    @contextmanager
    def upload_errors(self, final_key: str) -> Iterator[None]:
        """Errors of an upload in chunks, whose requests this class cannot send again.

        Raises:
            StoreUnavailable, ConfigurationError, OutputNotWritable: sorted.
        """
        try:
            with sorted_errors(self.uri, self._bucket_name):
                yield
        except Unclear as unclear:
            raise self._unavailable(f"stage {final_key}", unclear) from None

    # -- requests -------------------------------------------------------------------------------------------------

    def _names_behind(self, prefix: str, after: str, max_names: int) -> tuple[list[tuple[str, int]], bool]:
        """One page of names with their sizes, and whether there may be more."""
        with sorted_errors(self.uri, self._bucket_name):
            listing = self._client().list_blobs(
                self._bucket(),
                prefix=prefix,
                start_offset=after,  # included, if it exists
                page_size=max_names,
                fields="items(name,size),nextPageToken",
                timeout=TIMEOUT_S,
                retry=None,
            )
            for page in listing.pages:
                names = [(blob.name, int(blob.size or 0)) for blob in page if blob.name > after]
                if names:  # pages may be empty before the last one
                    return names, bool(listing.next_page_token)
            return [], False

    def _blob(self, name: str) -> Any:
        blob = self._bucket().blob(name, chunk_size=None, kms_key_name=self._options.get("kms_key_name"))
        if "storage_class" in self._options:
            blob.storage_class = self._options["storage_class"]
        return blob

    def _bucket(self) -> Any:
        return self._client().bucket(self._bucket_name, user_project=self._options.get("user_project"))

    def _client(self) -> Any:
        return shared_client(self._options.get("service_account_file", ""))


class _GcsWriter(StagingWriter):
    """Holds about one chunk in memory. What is no more than that needs no upload session, and one request."""

    def __init__(self, store: GcsStore, final_key: str) -> None:
        super().__init__(final_key)
        self._store = store
        self._name = _staged_name(final_key)
        self._buffer = bytearray()
        self._upload: Any = None

    def _append(self, data: memoryview) -> None:
        if self._upload is None and len(self._buffer) + len(data) <= CHUNK_BYTES:
            self._buffer += data
            return
        if self._upload is None:
            self._upload = self._store.begin_upload(self._name)
            self._send(self._buffer)
            self._buffer = bytearray()
        self._send(data)

    def _send(self, data: bytearray | memoryview) -> None:
        with self._store.upload_errors(self._final_key):
            self._upload.write(data)

    def _complete(self) -> dict[str, Any]:
        if self._upload is None:
            self._store.put_staged(self._final_key, self._name, bytes(self._buffer))
        else:
            with self._store.upload_errors(self._final_key):
                self._upload.close()
        return {"name": self._name}

    def _drop(self) -> None:
        self._buffer.clear()
        if self._upload is not None:
            with suppress(Exception):  # what stays of an upload that is not finished, GCS itself drops
                self._upload.terminate()


def _staged_name(final_key: str) -> str:
    return f"{final_key}/{new_token(16)}"


def _split(uri: str) -> tuple[str, str, str]:
    """Bucket, prefix, and the prefix of staged content; both prefixes with a trailing slash."""
    bucket, _, path = uri.partition("://")[2].partition("/")
    path = path.strip("/")
    if not _BUCKET.fullmatch(bucket):  # may hold a part of a password, so it is not shown
        raise ConfigurationError(
            "a GCS location names its bucket and nothing else before it; write gs://bucket/prefix."
        )
    try:
        parent, _, name = checked_key(path).rpartition("/")
    except ValueError:
        raise ConfigurationError(
            f"{uri} cannot be a store: name a prefix below the bucket, as gs://bucket/prefix."
        ) from None
    return bucket, f"{path}/", f"{parent}/.{name}.staging/" if parent else f".{name}.staging/"
