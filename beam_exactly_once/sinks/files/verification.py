"""What ``beam-exactly-once verify`` checks of the files that a checkpoint says are published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from beam_exactly_once.checkpoint.findings import Check
from beam_exactly_once.checkpoint.records import Json, Marker
from beam_exactly_once.checkpoint.verification import Contents
from beam_exactly_once.errors import BeamExactlyOnceError, CheckpointError, SinkAhead
from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.object_store.side_by_side import side_by_side
from beam_exactly_once.sinks.files.manifest import PublishedBatch, manifest_ids, manifest_key, read_manifest

FILES = "files"
"""Kind of the sinks whose output is checked here."""


def file_sinks(sinks: Mapping[str, Json]) -> dict[str, str]:
    """The output of each sink of files, by the sink's name.

    Args:
        sinks: definitions of all sinks of a checkpoint.
    """
    return {name: str(body["location"]) for name, body in sorted(sinks.items()) if body.get("kind") == FILES}


def refuse_published(sink: str, output: ObjectStore, batch_id: int) -> None:
    """Check that an output does not hold the batch.

    Raises:
        SinkAhead: it does, so the batch was decided: the checkpoint has lost its marker.
    """
    if read_manifest(output, batch_id) is not None:
        raise SinkAhead(
            f"sink {sink!r}: {output.uri} holds batch {batch_id} already, so it was decided: the checkpoint has lost its "
            "marker, or was restored from an older copy. Nothing was passed. Restore the marker from a copy."
        )


def verify_output(contents: Contents, sink: str, open_output: Callable[[], ObjectStore]) -> tuple[Check, ...]:
    """Check that every file of every decided batch is there, with its size, and that the manifests agree.

    Args:
        contents: of the checkpoint.
        sink: name of a sink of files.
        open_output: opens its output.

    Output that cannot be looked at is a fault of the check, not an error of the call.
    """
    files, batches = Check(f"files of sink {sink}"), Check(f"manifests of sink {sink}")
    try:
        output = _Output(contents, sink, open_output())
        output.check_manifests(batches)
        output.check_files(files)
    except BeamExactlyOnceError as error:
        files.fault(str(contents.sinks[sink]["location"]), f"the output cannot be looked at: {error}")
    return files, batches


@dataclass(frozen=True, slots=True)
class _File:
    batch_id: int
    committable: Json

    @property
    def key(self) -> str:
        return str(self.committable["final_key"])


class _Output:
    def __init__(self, contents: Contents, sink: str, store: ObjectStore) -> None:
        self._contents = contents
        self._sink = sink
        self._store = store
        self._newest_id = contents.newest_id
        self._is_published = True

    def check_manifests(self, check: Check) -> None:
        """Every decided batch has one that says what its marker says; none is ahead of the checkpoint."""
        retained = self._contents.retained_markers
        for batch_id, found in side_by_side(self._read, retained):
            check.examined += 1
            key = manifest_key(batch_id)
            if isinstance(found, CheckpointError):
                check.fault(key, str(found))
            elif found is None:
                self._missing(check, batch_id)
            else:
                self._compare(check, retained[batch_id], found)
        for batch_id in manifest_ids(self._store, after=self._newest_id):
            if self._contents.checkpoint.read_marker(batch_id) is None:
                check.fault(
                    manifest_key(batch_id),
                    f"{self._store.uri} holds batch {batch_id}, which the checkpoint has not decided: it was restored from "
                    "an older copy, or lost its newest markers. Restore the newer checkpoint; a start refuses to write "
                    "twice what is there.",
                )

    def check_files(self, check: Check) -> None:
        """Every file that a marker names is there, with its size."""
        files = [
            _File(batch_id, committable)
            for batch_id, marker in self._contents.retained_markers.items()
            for committable in marker.committables.get(self._sink, ())
        ]
        staged = set() if self._is_published else {one.final_key for one in self._store.list_staged()}
        for file, size_bytes in side_by_side(lambda file: self._store.size_bytes(file.key), files):
            check.examined += 1
            if size_bytes is not None and size_bytes != int(file.committable["size_bytes"]):
                check.fault(
                    file.key,
                    f"{self._store.uri}/{file.key} of batch {file.batch_id} has {size_bytes:,} bytes, not the "
                    f"{int(file.committable['size_bytes']):,} that were committed. Restore it from a copy or an older version.",
                )
            elif size_bytes is None and file.key not in staged:
                check.fault(file.key, self._missing_file(file))

    def _read(self, batch_id: int) -> PublishedBatch | CheckpointError | None:
        try:
            return read_manifest(self._store, batch_id)
        except CheckpointError as error:
            return error

    def _missing(self, check: Check, batch_id: int) -> None:
        key = manifest_key(batch_id)
        if batch_id == self._newest_id:
            self._is_published = False
            check.notes.append(
                f"batch {batch_id} is decided and not published yet: its driver, or the next start, does it."
            )
        elif self._wrote(batch_id):
            check.fault(
                key,
                f"{self._store.uri}/{key} is missing, though batch {self._newest_id} is decided: readers of whole batches "
                "stop before it. Restore it from a copy.",
            )

    def _wrote(self, batch_id: int) -> bool:
        """Whether the pipeline that ran the batch had this sink: one that was added later has no older manifests."""
        plan = self._contents.plans.get(batch_id)
        return plan is not None and self._sink in plan.graph.get("sinks", {})

    def _compare(self, check: Check, marker: Marker, manifest: PublishedBatch) -> None:
        key = manifest_key(marker.batch_id)
        committed = {
            (str(one["final_key"]), int(one["rows"]), int(one["size_bytes"]))
            for one in marker.committables.get(self._sink, ())
        }
        named = {(file.name, file.rows, file.size_bytes) for file in manifest.files}
        stream_id = self._contents.checkpoint.stream_id
        if manifest.stream_id != stream_id:
            check.fault(
                key,
                f"{self._store.uri}/{key} is of stream {manifest.stream_id}; this is {stream_id}. Two streams write to one "
                "output: give each its own.",
            )
        elif manifest.attempt != marker.attempt or named != committed:
            check.fault(
                key,
                f"{self._store.uri}/{key} does not name what the marker of batch {marker.batch_id} committed: attempt "
                f"{manifest.attempt.nonce} with {len(named)} files instead of {marker.attempt.nonce} with {len(committed)}. "
                "One of the two was restored from another copy: restore the one that belongs to the other.",
            )

    def _missing_file(self, file: _File) -> str:
        missing = (
            f"{self._store.uri}/{file.key} of batch {file.batch_id}, with {file.committable['rows']:,} rows, is missing"
        )
        if file.batch_id == self._newest_id and not self._is_published:
            return f"{missing}, and is not staged either: no start can publish it. Restore it from a copy."
        return f"{missing}. Restore it from a copy, unless it was compacted or expired on purpose."
