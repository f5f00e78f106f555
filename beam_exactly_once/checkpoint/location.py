"""A checkpoint location, opened: typed, checked reads and put-if-absent of every kind of record. No policy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

import orjson

from beam_exactly_once.checkpoint import layout
from beam_exactly_once.checkpoint.envelope import (
    MIN_READER_VERSION,
    STATE_READER_VERSION,
    Envelope,
    seal,
    unseal,
)
from beam_exactly_once.checkpoint.records import Json, Marker, Plan, WriterClaim
from beam_exactly_once.clock import SYSTEM_CLOCK, Clock, now_ms
from beam_exactly_once.errors import CheckpointHole, CorruptObject
from beam_exactly_once.object_store import VERIFY_PREFIX, ObjectStore, Taken
from beam_exactly_once.randomness import new_token

GUARANTEE = "exactly_once"
MAX_MARKER_BYTES = 1 << 18
"""A marker whose committables and state are longer than this names them in an object of their own, to stay a small PUT."""
_SPILLED_PARTS = ("committables", "state")

NewNonce = Callable[[], str]
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Decided(Generic[Record]):
    """The record that a key holds for ever, and whether this call wrote it."""

    record: Record
    mine: bool


@dataclass(slots=True)
class OperatorRecord:
    """What is recorded of one generation of an operator."""

    definition: Json | None = None
    state_types: list[Json] = field(default_factory=list)
    """How each version of the code stores its states."""
    is_dropped: bool = False
    """Whether somebody dropped it on purpose."""


class Checkpoint:
    """Typed access to one stream's checkpoint.

    Every write is put-if-absent: nothing is ever overwritten. Every read checks format version, checksum, kind,
    stream id and that the object is the one its name says.
    """

    def __init__(self, store: ObjectStore, stream_id: str, *, nonces: NewNonce = new_token) -> None:
        self.store = store
        self.stream_id = stream_id
        self._nonces = nonces

    @classmethod
    def open(cls, store: ObjectStore, *, clock: Clock = SYSTEM_CLOCK, nonces: NewNonce = new_token) -> Checkpoint:
        """Open the location, or make a new stream of it when it is empty.

        Raises:
            CheckpointHole: ``metadata.json`` is missing although other objects are there.
            CorruptObject, NewerFormat, OlderFormat: ``metadata.json`` cannot be used.
            OutputNotWritable, UnsuitableStore: the store cannot hold a checkpoint.
        """
        existing = cls.open_existing(store, nonces=nonces)
        if existing is not None:
            return existing
        store.verify()
        stream_id = nonces()
        body = {"guarantee": GUARANTEE, "created_at_ms": now_ms(clock)}
        written = store.put_if_absent(layout.METADATA, seal(Envelope("metadata", stream_id, nonces(), body)))
        if isinstance(written, Taken):  # another driver was faster: its stream it is
            stream_id = _metadata(store, written.body).stream_id
        return cls(store, stream_id, nonces=nonces)

    @classmethod
    def open_existing(cls, store: ObjectStore, *, nonces: NewNonce = new_token) -> Checkpoint | None:
        """Open the location without writing to it; None when it is empty.

        Raises:
            CheckpointHole, CorruptObject, NewerFormat, OlderFormat: as :meth:`open`.
            StoreUnavailable: the store does not answer; said sooner than by other calls.
        """
        store.check_reachable()
        data = store.get(layout.METADATA)
        if data is None:
            # What a test of the store left, when it was cut off, is not a part of a checkpoint.
            entry = next((one for one in store.list() if not one.key.startswith(VERIFY_PREFIX)), None)
            if entry is None:
                return None
            # Another driver may have made the stream between the two requests: it writes metadata.json first.
            data = store.get(layout.METADATA)
            if data is None:
                raise CheckpointHole(
                    f"{store.uri}/{layout.METADATA} is missing, but {entry.key} is there. The location was wiped in "
                    "part, or is not a checkpoint: restore metadata.json from a copy, or use an empty checkpoint_location."
                )
        return cls(store, _metadata(store, data).stream_id, nonces=nonces)

    # -- writers ---------------------------------------------------------------------------------------------

    def newest_writer_epoch(self) -> int:
        """The highest claimed epoch, 0 when there is none. One LIST."""
        return max((layout.number_in(entry.key) for entry in self.store.list(layout.WRITERS)), default=0)

    def read_writer(self, writer_epoch: int) -> WriterClaim | None:
        """Who claimed an epoch; None when nobody did."""
        body = self._read(layout.writer_key(writer_epoch), "writer")
        return None if body is None else WriterClaim.from_json(body)

    def create_writer(self, claim: WriterClaim) -> Decided[WriterClaim]:
        """Claim an epoch, unless somebody did."""
        body, mine = self._create(layout.writer_key(claim.writer_epoch), "writer", claim.to_json())
        return Decided(WriterClaim.from_json(body), mine)

    # -- plans -----------------------------------------------------------------------------------------------

    def read_plan(self, batch_id: int) -> Plan | None:
        """The planned offsets of a batch; None when it is not planned."""
        body = self._read(layout.offsets_key(batch_id), "offsets", batch_id)
        return None if body is None else Plan.from_json(body)

    def create_plan(self, plan: Plan) -> Decided[Plan]:
        """Decide the input of a batch, unless it is decided."""
        reader = MIN_READER_VERSION if plan.carries is None else STATE_READER_VERSION
        body, mine = self._create(layout.offsets_key(plan.batch_id), "offsets", plan.to_json(), plan.batch_id, reader)
        return Decided(plan if mine else Plan.from_json(body), mine)

    def plan_ids(self, above: int = -1) -> Iterator[int]:
        """Ids of the planned batches above ``above``, in order. One LIST."""
        start_after = layout.offsets_key(above) if above >= 0 else ""
        for entry in self.store.list(layout.OFFSETS, start_after):
            yield layout.number_in(entry.key)

    # -- markers ---------------------------------------------------------------------------------------------

    def read_marker(self, batch_id: int) -> Marker | None:
        """The commit marker of a batch; None when it is not decided."""
        body = self._read(layout.commits_key(batch_id), "commit", batch_id)
        return None if body is None else Marker.from_json(self._unspilled(body))

    def create_marker(self, marker: Marker) -> Decided[Marker]:
        """Decide the outcome of a batch, unless it is decided."""
        stored = self._spilled(marker)
        reader = STATE_READER_VERSION if marker.state else MIN_READER_VERSION
        body, mine = self._create(layout.commits_key(marker.batch_id), "commit", stored, marker.batch_id, reader)
        return Decided(marker if mine else Marker.from_json(self._unspilled(body)), mine)

    def marker_ids(self, above: int = -1) -> Iterator[int]:
        """Ids of the batches above ``above`` that have a marker, in order. One LIST."""
        start_after = layout.commits_key(above) if above >= 0 else ""
        for entry in self.store.list(layout.COMMITS, start_after):
            yield layout.number_in(entry.key)

    def newest_marker(self) -> Marker | None:
        """The marker with the highest batch id. One LIST and one GET."""
        newest = max(self.marker_ids(), default=None)
        return None if newest is None else self.read_marker(newest)

    def oldest_marker(self) -> Marker | None:
        """The marker with the lowest batch id that is retained. One LIST and one GET."""
        oldest = next(self.marker_ids(), None)
        return None if oldest is None else self.read_marker(oldest)

    # -- what is published -------------------------------------------------------------------------------------

    def create_published(self, batch_id: int) -> None:
        """Note that all of a batch is visible. Only the last batch of a driver needs it: see :meth:`is_published`."""
        self._create(layout.published_key(batch_id), "published", {"batch_id": batch_id}, batch_id)

    def read_published(self, batch_id: int) -> Json | None:
        """The note of a batch; None when there is none."""
        return self._read(layout.published_key(batch_id), "published", batch_id)

    def is_published(self, marker: Marker) -> bool:
        """Whether all of a decided batch is known to be visible; a batch may be so and not be known.

        A driver plans the next batch only behind its publish, and notes its last one. An operator's marker has nothing to
        publish.
        """
        batch_id = marker.batch_id
        return (
            marker.outcome != "committed"
            or self.read_published(batch_id) is not None
            or next(self.plan_ids(above=batch_id), None) is not None
            or next(self.marker_ids(above=batch_id), None) is not None
        )

    # -- rows that were refused after the commit ---------------------------------------------------------------

    def create_rejecting(self, batch_id: int, owner: str, at_ms: int) -> None:
        """Let rows of a committed batch be rejected that a sink's system refuses."""
        body = {"batch_id": batch_id, "owner": owner, "decided_at_ms": at_ms}
        self._create(layout.rejecting_key(batch_id), "rejecting", body, batch_id)

    def read_rejecting(self, batch_id: int) -> Json | None:
        """Who let rows of a batch be rejected; None: nobody."""
        return self._read(layout.rejecting_key(batch_id), "rejecting", batch_id)

    def create_rejected(self, sink: str, batch_id: int, shard: int, number: int, body: Json) -> None:
        """Record rows of a shard that are rejected, unless others are recorded under this number."""
        self._create(layout.rejected_key(sink, batch_id, shard, number), "rejected", body, batch_id)

    def rejected(self, sink: str, batch_id: int, shard: int) -> Iterator[Json]:
        """The records of rows of a shard that are rejected, in order. One GET where there is none."""
        for number in count():
            body = self._read(layout.rejected_key(sink, batch_id, shard, number), "rejected", batch_id)
            if body is None:
                return
            yield body

    # -- definitions of sources and sinks ----------------------------------------------------------------------

    def definitions(self, prefix: str) -> dict[str, Json]:
        """What every source (``layout.SOURCES``) or sink (``layout.SINKS``) of this checkpoint is, by name."""
        names = [entry.key.removeprefix(prefix).partition("/")[0] for entry in self.store.list(prefix)]
        found = {name: self._read(layout.definition_key(prefix, name), "definition") for name in names}
        return {name: body for name, body in found.items() if body is not None}

    def create_definition(self, prefix: str, name: str, definition: Json) -> Json:
        """Record what ``name`` is, unless it is recorded already; returns what is recorded."""
        return self._create(layout.definition_key(prefix, name), "definition", definition)[0]

    # -- operators with state ----------------------------------------------------------------------------------

    def operators(self) -> dict[str, dict[int, OperatorRecord]]:
        """What is recorded of every operator, by name and generation. One LIST, and a GET for each record."""
        found: dict[str, dict[int, OperatorRecord]] = {}
        for entry in self.store.list(layout.OPERATORS):
            named = layout.operator_record(entry.key)
            if named is None:
                continue
            name, generation, rest = named
            record = found.setdefault(name, {}).setdefault(generation, OperatorRecord())
            match rest:
                case "definition.json":
                    record.definition = self._read(entry.key, "definition")
                case "dropped.json":
                    record.is_dropped = True
                case _:
                    state_type = self._read(entry.key, "state_type")
                    record.state_types += [] if state_type is None else [state_type]
        return found

    def create_operator(self, name: str, generation: int, definition: Json) -> Json:
        """Record what an operator is, unless it is recorded already; returns what is recorded."""
        return self._create(layout.operator_key(name, generation), "definition", definition)[0]

    def create_state_type(self, name: str, generation: int, state_type: Json) -> Json:
        """Record how a version of the code stores an operator's states, unless it is recorded; returns what is recorded."""
        return self._create(layout.state_type_key(name, generation, state_type["version"]), "state_type", state_type)[0]

    def create_dropped(self, name: str, generation: int, at_ms: int) -> None:
        """Note that a generation of an operator was dropped on purpose. A marker that still names it holds all the same."""
        self._create(
            layout.dropped_key(name, generation), "dropped", {"generation": generation, "dropped_at_ms": at_ms}
        )

    # -- reading and writing -----------------------------------------------------------------------------------

    def _read(self, key: str, kind: str, batch_id: int | None = None) -> Json | None:
        data = self.store.get(key)
        return None if data is None else self._body(key, data, kind, batch_id)

    def _create(
        self, key: str, kind: str, body: Json, batch_id: int | None = None, reader: int = MIN_READER_VERSION
    ) -> tuple[Json, bool]:
        sealed = seal(Envelope(kind, self.stream_id, self._nonces(), body), reader)
        written = self.store.put_if_absent(key, sealed)
        if isinstance(written, Taken):
            return self._body(key, written.body, kind, batch_id), False
        return body, True

    def _body(self, key: str, data: bytes, kind: str, batch_id: int | None) -> Json:
        where = f"{self.store.uri}/{key}"
        body = unseal(data, where=where, kind=kind, stream_id=self.stream_id).body
        if batch_id is not None and body.get("batch_id") != batch_id:
            raise CorruptObject(
                f"{where} holds batch {body.get('batch_id')}: it was copied to a wrong name. Restore it from a copy."
            )
        return body

    def _spilled(self, marker: Marker) -> Json:
        """The marker's JSON; what would make it large goes to an object of its own first."""
        stored = marker.to_json()
        large = {part: stored[part] for part in _SPILLED_PARTS}
        content = _canonical(large)
        if len(content) <= MAX_MARKER_BYTES:
            return stored
        nonce = self._nonces()
        key = layout.spilled_key(marker.batch_id, nonce)
        self.store.put_if_absent(key, seal(Envelope("committables", self.stream_id, nonce, large)))
        spilled = {
            "key": key,
            "count": sum(map(len, marker.committables.values())),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        return {**stored, **{part: {} for part in _SPILLED_PARTS}, "spilled": spilled}

    def _unspilled(self, body: Json) -> Json:
        spilled = body.get("spilled")
        if spilled is None:
            return body
        found = self._read(spilled["key"], "committables")
        if found is None:
            raise CheckpointHole(
                f"{self.store.uri}/{spilled['key']}, which names the {spilled['count']} outputs of batch "
                f"{body['batch_id']}, and the state behind it, is missing. Restore it from a copy; nothing else names them."
            )
        if hashlib.sha256(_canonical(found)).hexdigest() != spilled["sha256"]:
            raise CorruptObject(
                f"{self.store.uri}/{spilled['key']} is not what the marker names. Restore it from a copy."
            )
        return {**body, **found}


def _canonical(content: Json) -> bytes:
    """The same bytes for the same content, in whatever order its keys came."""
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


def _metadata(store: ObjectStore, data: bytes) -> Envelope:
    return unseal(data, where=f"{store.uri}/{layout.METADATA}", kind="metadata", stream_id=None)
