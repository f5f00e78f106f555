"""Objects in a bucket of S3, or of a server that speaks S3 and honours conditional writes.

A create is ``PutObject`` with ``If-None-Match: *``, in one request. Staged content is a multipart upload that is left
open: it is durable, no listing of objects shows it, and completing it makes it appear at once and whole.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from beam_exactly_once.errors import BeamExactlyOnceError, ConfigurationError, OutputNotWritable, StagedOutputMissing
from beam_exactly_once.object_store.contract import (
    ObjectEntry,
    StagedObject,
    StagingWriter,
    checked_key,
    checked_prefix,
    is_key,
)
from beam_exactly_once.object_store.definite import DefiniteStore, Page, Unclear
from beam_exactly_once.object_store.s3_client import (
    ClientKey,
    Refusal,
    S3Options,
    client_key,
    shared_client,
    sorted_errors,
)

PART_BYTES = 8 << 20  # S3 takes no smaller part but the last one; some servers want all others of one size
MAX_PARTS = 10_000
MAX_DELETE_KEYS = 1000
MAX_KEY_BYTES = 1024

_LOGGER = logging.getLogger(__name__)
_BUCKET = re.compile(r"[A-Za-z0-9._-]+")


class S3Store(DefiniteStore):
    """A prefix of a bucket.

    Credentials, region and endpoint come from boto3's usual places (variables, profiles, roles), unless ``options``
    say otherwise. Abandoned uploads are swept by the library; a lifecycle rule that aborts incomplete uploads must be
    longer than any pause of the stream, since it would take staged output of a batch that is committed, not published.

    Args:
        uri: ``s3://bucket/prefix`` or ``s3a://bucket/prefix``.
        options: ``endpoint_url``, ``region_name``, ``profile_name`` (for a role: a profile that assumes it),
            ``server_side_encryption``, ``sse_kms_key_id``, ``storage_class`` (for all that is written), ``request_payer``,
            and, as :class:`~beam_exactly_once.secrets.Secret` or function only, ``aws_access_key_id``,
            ``aws_secret_access_key``, ``aws_session_token``. They are read on the machine that connects.

    Raises:
        ConfigurationError: the URI has no bucket or holds credentials, or an option is wrong.
    """

    def __init__(self, uri: str, options: Mapping[str, Any] | None = None, **contract: Any) -> None:
        self._bucket, self._prefix = _split(uri)
        super().__init__(f"s3://{self._bucket}/{self._prefix}".rstrip("/"), **contract)
        self._options = S3Options.checked(self.uri, options)
        self._client_key: ClientKey | None = None
        self._server = ""
        """What the server calls itself."""

    def __getstate__(self) -> dict[str, Any]:
        """Without secrets and variables of this machine: another process resolves its own."""
        return {**self.__dict__, "_client_key": None}

    def stage(self, final_key: str) -> StagingWriter:
        """A multipart upload, begun when the first part is full."""
        return _S3Writer(self, checked_key(final_key))

    def verify(self) -> None:
        """See :class:`ObjectStore`. Warns of a server that forgets staged output by itself."""
        super().verify()
        self._warn_of_server()

    def check_writable(self) -> None:
        """See :class:`ObjectStore`; warns as :meth:`verify`."""
        super().check_writable()
        self._warn_of_server()

    def _warn_of_server(self) -> None:
        if self._server.startswith("MinIO"):
            _LOGGER.warning(
                "%s is on MinIO, which drops open uploads after 24 hours unless stale_uploads_expiry says otherwise: output of a "
                "batch that is committed, and waits longer for its publish, would be lost. Raise it above the longest stop of "
                "this stream.",
                self.uri,
            )

    def takes(self, final_key: str) -> bool:
        """See :class:`ObjectStore`."""
        return len((self._prefix + final_key).encode()) <= MAX_KEY_BYTES

    def list_staged(self, prefix: str = "") -> Iterator[StagedObject]:
        """In order of final keys; sizes are not known and said to be 0. Shows uploads under way, too."""
        checked_prefix(prefix)
        after: dict[str, str] = {}
        while True:
            answer = self._definite(
                f"list staged {prefix}",
                lambda after=after: self._call("list_multipart_uploads", Prefix=self._prefix + prefix, **after),  # type: ignore[misc]
            )
            for upload in answer.get("Uploads", ()):
                final_key = upload["Key"].removeprefix(self._prefix)
                if upload["Key"].startswith(self._prefix + prefix) and is_key(final_key):  # not somebody else's
                    yield StagedObject(final_key, 0, {"upload_id": upload["UploadId"]})
            if not answer.get("IsTruncated"):
                return
            after = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}

    def _create(self, key: str, body: bytes) -> bool:
        try:
            self._call(
                "put_object",
                "PreconditionFailed",
                Key=self._prefix + key,
                Body=body,
                IfNoneMatch="*",
                **self._options.write,
            )
        except Refusal:
            return False
        return True

    def _get(self, key: str) -> bytes | None:
        try:
            return self._read(key, "NoSuchKey")
        except Refusal:
            return None

    def _get_range(self, key: str, start: int, size_bytes: int) -> bytes | None:
        try:
            return self._read(key, *("NoSuchKey", "InvalidRange"), Range=f"bytes={start}-{start + size_bytes - 1}")
        except Refusal as refusal:
            return b"" if refusal.code == "InvalidRange" else None

    def _read(self, key: str, *expected: str, **part: str) -> bytes:
        with sorted_errors(self.uri, self._bucket, *expected):  # reading the body may fail, too
            answer = self._client().get_object(
                Bucket=self._bucket, Key=self._prefix + key, **self._options.request, **part
            )
            body: bytes = answer["Body"].read()
            return body

    def _size_bytes(self, key: str) -> int | None:
        about = self._about(key)
        return None if about is None else int(about["ContentLength"])

    def _written_at_ms(self, key: str) -> int | None:
        about = self._about(key)
        return None if about is None else int(about["LastModified"].timestamp() * 1000)

    def _about(self, key: str) -> Any:
        try:
            return self._call("head_object", "NoSuchKey", Key=self._prefix + key)
        except Refusal:
            return None

    def _list_page(self, prefix: str, start_after: str, max_entries: int) -> Page:
        after = self._prefix + start_after  # leaves out the mark of the root itself, too
        answer = self._call("list_objects_v2", Prefix=self._prefix + prefix, StartAfter=after, MaxKeys=max_entries)
        self._server = answer["ResponseMetadata"]["HTTPHeaders"].get("server", "")
        keys = [(found["Key"].removeprefix(self._prefix), int(found["Size"])) for found in answer.get("Contents", ())]
        # Consoles mark folders by empty objects whose names end in a slash: no keys of ours.
        entries = [ObjectEntry(key, size_bytes) for key, size_bytes in keys if key and not key.endswith("/")]
        return Page(entries, resume_after=keys[-1][0] if answer.get("IsTruncated") and keys else None)

    def _delete(self, keys: list[str]) -> None:
        for first in range(0, len(keys), MAX_DELETE_KEYS):
            objects = [{"Key": self._prefix + key} for key in keys[first : first + MAX_DELETE_KEYS]]
            answer = self._call("delete_objects", Delete={"Objects": objects, "Quiet": True})
            for error in answer.get("Errors", ()):
                if error["Code"] == "AccessDenied":
                    raise OutputNotWritable(f"{self.uri}: no permission to delete in bucket {self._bucket}.")
                if error["Code"] != "NoSuchKey":
                    raise Unclear(f"a deletion was answered by {error['Code']}")

    def _publish(self, staged: StagedObject) -> bool:
        # Asked first, not as a condition of the completion: servers ignore that, and S3 itself may answer a conditional
        # completion that races another with a demand for a new upload. Names of staged content are unique anyway.
        if self._size_bytes(staged.final_key) is not None:
            return False
        parts = [
            {"PartNumber": number, "ETag": etag} | ({"ChecksumCRC32": crc32} if crc32 else {})
            for number, (etag, crc32) in enumerate(staged.token["parts"], start=1)
        ]
        try:
            self._call(
                "complete_multipart_upload",
                *("NoSuchUpload", "InvalidPart"),
                Key=self._prefix + staged.final_key,
                UploadId=staged.token["upload_id"],
                MultipartUpload={"Parts": parts},
            )
        except Refusal as refusal:
            if self._size_bytes(staged.final_key) is not None:
                return False
            raise StagedOutputMissing(
                f"{self.uri}/{staged.final_key} is neither published nor staged ({refusal.code}). Did a lifecycle rule "
                "of the bucket abort its upload, or the server, as MinIO does after 24 hours? Restore it from a copy; "
                "`beam-exactly-once verify` names all that is missing."
            ) from None
        return True

    def _discard(self, staged: StagedObject) -> None:
        self.abort_upload(staged.final_key, staged.token["upload_id"])

    # -- for the writer -------------------------------------------------------------------------------------------

    def begin_upload(self, final_key: str) -> str:
        """The id of a new upload; an unclear answer leaves an empty upload behind, for the sweep."""
        answer = self._definite(
            f"stage {final_key}",
            lambda: self._call(
                "create_multipart_upload", Key=self._prefix + final_key, **self._checksum(), **self._options.write
            ),
        )
        return str(answer["UploadId"])

    def send_part(self, final_key: str, upload_id: str, number: int, body: bytes | bytearray) -> tuple[str, str | None]:
        """The ETag and the checksum of a part. Sending it again replaces it."""
        answer = self._definite(
            f"stage {final_key}",
            lambda: self._call(
                "upload_part",
                Key=self._prefix + final_key,
                UploadId=upload_id,
                PartNumber=number,
                Body=body,
                **self._checksum(),
            ),
        )
        return str(answer["ETag"]), answer.get("ChecksumCRC32")

    def abort_upload(self, final_key: str, upload_id: str) -> None:
        """Drop an upload, in one try; fine when it is gone."""
        with suppress(Refusal):
            self._call("abort_multipart_upload", "NoSuchUpload", Key=self._prefix + final_key, UploadId=upload_id)

    def _checksum(self) -> dict[str, str]:
        # S3 wants the algorithm when an upload begins, or refuses checksummed parts. AWS_REQUEST_CHECKSUM_CALCULATION
        # turns it off for servers that know no checksums.
        calculation = self._client().meta.config.request_checksum_calculation
        return {} if calculation == "when_required" else {"ChecksumAlgorithm": "CRC32"}

    def _call(self, operation: str, *expected: str, **arguments: Any) -> Any:
        with sorted_errors(self.uri, self._bucket, *expected):
            request = getattr(self._client(), operation)
            return request(Bucket=self._bucket, **self._options.request, **arguments)

    def _client(self) -> Any:
        if self._client_key is None:
            self._client_key = client_key(self._options)
        return shared_client(self._client_key)


class _S3Writer(StagingWriter):
    """Holds at most one part in memory."""

    def __init__(self, store: S3Store, final_key: str) -> None:
        super().__init__(final_key)
        self._store = store
        self._buffer = bytearray()
        self._upload_id: str | None = None
        self._parts: list[tuple[str, str | None]] = []

    def _append(self, data: memoryview) -> None:
        while data:
            room = PART_BYTES - len(self._buffer)
            self._buffer += data[:room]
            data = data[room:]
            if len(self._buffer) == PART_BYTES:
                self._send()

    def _complete(self) -> dict[str, Any]:
        if self._buffer or not self._parts:  # an upload has at least one part, if an empty one
            self._send()
        return {"upload_id": self._upload_id, "parts": [list(part) for part in self._parts]}

    def _drop(self) -> None:
        self._buffer.clear()
        if self._upload_id is not None:
            with suppress(Unclear, BeamExactlyOnceError):  # what stays is for the sweep
                self._store.abort_upload(self._final_key, self._upload_id)

    def _send(self) -> None:
        if len(self._parts) == MAX_PARTS:
            raise ConfigurationError(
                f"{self._final_key} exceeds {MAX_PARTS} parts of {PART_BYTES} bytes; lower the size of files."
            )
        if self._upload_id is None:
            self._upload_id = self._store.begin_upload(self._final_key)
        number = len(self._parts) + 1
        self._parts.append(self._store.send_part(self._final_key, self._upload_id, number, self._buffer))
        self._buffer = bytearray()


def _split(uri: str) -> tuple[str, str]:
    """Bucket and prefix (empty, or with a trailing slash)."""
    bucket, _, path = uri.partition("://")[2].partition("/")
    if "@" in bucket:
        raise ConfigurationError(
            f"s3://***@{bucket.rpartition('@')[2]}: credentials do not belong into a URI. Use a profile or storage_options."
        )
    path = path.strip("/")
    if not bucket:
        raise ConfigurationError(f"{uri} names no bucket; write s3://bucket/prefix.")
    if not _BUCKET.fullmatch(bucket):  # may hold a part of a key with slashes, so it is not shown
        raise ConfigurationError(
            "an S3 location names its bucket and nothing else before it; write s3://bucket/prefix."
        )
    if bucket.endswith("--x-s3"):
        raise ConfigurationError(f"{uri}: directory buckets list in no order; use a general purpose bucket.")
    try:
        return bucket, f"{checked_key(path)}/" if path else ""
    except ValueError as error:
        raise ConfigurationError(f"{uri}: {error}") from None
