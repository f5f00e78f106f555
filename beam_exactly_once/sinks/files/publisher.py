"""What publishes ``WriteToFiles``: staged files made visible, then the batch's manifest."""

from __future__ import annotations

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import SinkAhead, StagedOutputMissing
from beam_exactly_once.object_store import StagedObject, Taken
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.sinks.contract import DriverSide, Part, Publisher
from beam_exactly_once.sinks.files.manifest import (
    OWNER,
    batch_id_of_part,
    manifest_bytes,
    manifest_ids,
    manifest_key,
    owner_bytes,
    owner_in,
    parse_manifest,
    read_manifest,
)

_WAY_OUT = (
    "Two streams, or a stream and a copy of it, cannot share an output: give this one an empty output, or go on with "
    "the checkpoint_location that wrote there."
)


class FilesPublisher(Publisher, DriverSide):
    """Makes staged files visible, and writes the manifest."""

    def __init__(self, sink: str, output: StoreLocation) -> None:
        self._sink = sink
        self._output = output

    def publish(self, part: Part) -> None:
        """Make one file visible. Skipped when it is, or when it was and its batch was finished."""
        store = self._output.store
        (committable,) = part.committables
        try:
            store.publish(StagedObject.from_json(committable["staged"]))
        except StagedOutputMissing:
            # Published files are the user's: they may be compacted or expired before a late repetition comes.
            finished = read_manifest(store, part.attempt.batch_id)
            if finished is None or finished.attempt != part.attempt:
                raise

    def finish(self, stream_id: str, attempt: Attempt, committables: tuple[Json, ...]) -> None:
        """Write the batch's manifest, also of an empty batch.

        Raises:
            SinkAhead: the batch has a manifest of another attempt or stream.
        """
        store = self._output.store
        body = manifest_bytes(stream_id, attempt, committables)
        written = store.put_if_absent(manifest_key(attempt.batch_id), body)
        if isinstance(written, Taken):
            found = parse_manifest(store.uri, attempt.batch_id, written.body)
            raise SinkAhead(
                f"sink {self._sink!r}: {store.uri} already has batch {attempt.batch_id}, of attempt "
                f"{found.attempt.nonce} of stream {found.stream_id}; this is attempt {attempt.nonce} of stream "
                f"{stream_id}. {_WAY_OUT}"
            )

    def check_place(self) -> None:
        """Prove that the output can be written."""
        self._output.store.check_reachable()
        self._output.store.verify()

    def check_known_place(self) -> None:
        """Prove that the output may still be written."""
        self._output.store.check_reachable()
        self._output.store.check_writable()

    def check_start(self, stream_id: str, next_batch_id: int) -> None:
        """Take the output for this stream, and prove that it holds nothing that this stream does not know.

        Of two new streams on one empty output, one is refused here: its sweep would remove what the other one has staged.
        """
        store = self._output.store
        owner = store.put_if_absent(OWNER, owner_bytes(stream_id))
        if isinstance(owner, Taken):
            raise SinkAhead(
                f"sink {self._sink!r}: {store.uri} belongs to stream {owner_in(store.uri, owner.body)}; this is stream "
                f"{stream_id}. {_WAY_OUT} If that stream never wrote anything and is gone, remove {OWNER} there."
            )
        for batch_id in manifest_ids(store, after=next_batch_id - 1):
            self._check_owner(stream_id, batch_id)
            raise SinkAhead(
                f"sink {self._sink!r}: {store.uri} holds batch {batch_id}, while the next batch of the checkpoint is "
                f"{next_batch_id}: the checkpoint was restored from an older copy, and would write again what is "
                f"there. Restore the newer checkpoint. {_WAY_OUT}"
            )
        for batch_id in manifest_ids(store):  # one manifest speaks for all: every start checks
            self._check_owner(stream_id, batch_id)
            return

    def sweep(self, published_batch_id: int) -> None:
        """Discard what was staged for batches up to ``published_batch_id``; leave names that this sink did not give."""
        store = self._output.store
        for staged in store.list_staged():
            batch_id = batch_id_of_part(staged.final_key)
            if batch_id is not None and batch_id <= published_batch_id:
                store.discard(staged)

    def _check_owner(self, stream_id: str, batch_id: int) -> None:
        store = self._output.store
        batch = read_manifest(store, batch_id)
        if batch is not None and batch.stream_id != stream_id:
            raise SinkAhead(
                f"sink {self._sink!r}: {store.uri} belongs to stream {batch.stream_id}, which wrote batch {batch_id} "
                f"there; this is stream {stream_id}. {_WAY_OUT}"
            )
