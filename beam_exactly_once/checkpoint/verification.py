"""What ``beam-exactly-once verify`` checks of a checkpoint. Reads only, and is safe beside a running driver.

The objects are listed once, in the order of their names: ``commits/`` before ``offsets/`` before ``writers/``. So what a
driver adds meanwhile looks like a batch in flight, never like a hole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from beam_exactly_once.checkpoint import layout
from beam_exactly_once.checkpoint.continuity import hole_faults, leftovers, offset_faults, oldest_retained
from beam_exactly_once.checkpoint.envelope import Envelope, unseal
from beam_exactly_once.checkpoint.findings import Check, listed
from beam_exactly_once.checkpoint.inspection import no_checkpoint
from beam_exactly_once.checkpoint.location import Checkpoint
from beam_exactly_once.checkpoint.offsets_json import next_offsets_from_json
from beam_exactly_once.checkpoint.records import Json, Marker, Plan
from beam_exactly_once.errors import CheckpointError, CheckpointHole, CorruptObject
from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.object_store.side_by_side import side_by_side

MAX_STRANGERS_NAMED = 5
_OURS = (
    layout.WRITERS,
    layout.OFFSETS,
    layout.COMMITS,
    layout.SOURCES,
    layout.SINKS,
    layout.SPILLED,
    layout.ROWS,
    layout.PUBLISHED,
    layout.OPERATORS,
    layout.STATE,
    layout.REJECTING,
    layout.REJECTED,
    ".verify/",
)

_LOST_BRANCH = (
    "reads a collection both with timers (GroupIntoBatches) and behind a later side input could be committed without a "
    "branch on DirectRunner before 0.1.0."
)

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint holds: all ids, and all that could be read."""

    checkpoint: Checkpoint
    plan_ids: frozenset[int]
    marker_ids: frozenset[int]
    plans: Mapping[int, Plan]
    markers: Mapping[int, Marker]
    sources: Mapping[str, Json]
    sinks: Mapping[str, Json]

    @property
    def newest_id(self) -> int:
        """Id of the newest decided batch, -1 when there is none."""
        return max(self.marker_ids, default=-1)

    @property
    def retained_plans(self) -> dict[int, Plan]:
        """The plans that could be read, without strays below all that is retained."""
        oldest = oldest_retained(self.plan_ids, self.marker_ids)
        return {batch_id: plan for batch_id, plan in sorted(self.plans.items()) if batch_id >= oldest}

    @property
    def retained_markers(self) -> dict[int, Marker]:
        """The markers that could be read, without strays: those name output that was never published."""
        oldest = oldest_retained(self.plan_ids, self.marker_ids)
        return {batch_id: marker for batch_id, marker in sorted(self.markers.items()) if batch_id >= oldest}


@dataclass(frozen=True, slots=True)
class CheckpointVerification:
    """What was found. ``contents`` is None when not even the stream's id is known."""

    checks: tuple[Check, ...]
    contents: Contents | None


def verify_checkpoint(store: ObjectStore) -> CheckpointVerification:
    """Check every object of a checkpoint, and that its batches follow each other without hole or overlap.

    Raises:
        ConfigurationError: the location is empty.
        StoreUnavailable: the store does not answer.
    """
    keys = [entry.key for entry in store.list()]
    if not keys:
        raise no_checkpoint(store)
    metadata = Check("metadata", examined=1)
    strangers = [key for key in keys if key != layout.METADATA and not key.startswith(_OURS)]
    if strangers:
        more = f" and {len(strangers) - MAX_STRANGERS_NAMED} more" if len(strangers) > MAX_STRANGERS_NAMED else ""
        metadata.notes.append(f"not of this library: {', '.join(strangers[:MAX_STRANGERS_NAMED])}{more}. Ignored.")
    stream_id = _stream_id(store, keys, metadata)
    if stream_id is None:
        return CheckpointVerification((metadata,), None)
    reader = _Reader(Checkpoint(store, stream_id), keys)
    contents = reader.read()
    return CheckpointVerification(
        (metadata, *reader.checks, _holes(contents), _offsets(contents), _sinks(contents)), contents
    )


def _stream_id(store: ObjectStore, keys: list[str], check: Check) -> str | None:
    """The id in ``metadata.json``; when that cannot be read, the one that the newest readable claim names."""
    try:
        checkpoint = Checkpoint.open_existing(store)
        if checkpoint is not None:
            return checkpoint.stream_id
    except CheckpointError as error:
        check.fault(layout.METADATA, str(error))
    for key in reversed([key for key in keys if key.startswith(layout.WRITERS)]):
        try:
            return unseal(store.get(key) or b"", where=key, kind="writer", stream_id=None).stream_id
        except CheckpointError:
            continue
    return None


def _holes(contents: Contents) -> Check:
    check = Check("no batch missing", examined=len(contents.plan_ids | contents.marker_ids))
    check.faults += hole_faults(contents.checkpoint.store.uri, contents.plan_ids, contents.marker_ids)
    stray = leftovers(contents.plan_ids, contents.marker_ids)
    if stray is not None:
        check.notes.append(stray)
    return check


def _offsets(contents: Contents) -> Check:
    check = Check("offsets without gap or overlap", examined=len(contents.retained_plans))
    first = {name: next_offsets_from_json(body.get("first_offsets", {})) for name, body in contents.sources.items()}
    check.faults += offset_faults(contents.retained_plans, contents.retained_markers, first)
    in_flight = [batch_id for batch_id in contents.plan_ids if batch_id > contents.newest_id]
    if in_flight:
        check.notes.append(f"batch {listed(in_flight)} is planned and not decided: the next start runs it again.")
    return check


def _sinks(contents: Contents) -> Check:
    check = Check("rows for every sink", examined=len(contents.retained_markers))
    for sink, batch_ids in one_sided(contents.retained_markers.values(), contents.sinks).items():
        check.notes.append(
            f"batch {listed(batch_ids)} has no rows for sink {sink!r}, and more than one for another. That is right if its steps "
            f"leave none. If they should: a graph that {_LOST_BRANCH} Look whether the rows are missing, and read the batch's "
            "offsets again into another checkpoint."
        )
    return check


def one_sided(markers: Iterable[Marker], sinks: Iterable[str]) -> dict[str, list[int]]:
    """The batches that staged nothing for a sink, and more than one row for another, by sink. Pure."""
    found: dict[str, list[int]] = {}
    for marker in markers:
        if marker.outcome == "committed" and any(rows > 1 for rows in marker.rows_written.values()):
            for sink in sinks:
                if not marker.committables.get(sink):
                    found.setdefault(sink, []).append(marker.batch_id)
    return found


class _Reader:
    """Reads every object of a checkpoint, one check a kind."""

    def __init__(self, checkpoint: Checkpoint, keys: list[str]) -> None:
        self._checkpoint = checkpoint
        self._uri = checkpoint.store.uri
        self._keys = keys
        self.checks: list[Check] = []

    def read(self) -> Contents:
        writers, _ = self._numbered("writer claims", layout.WRITERS, layout.writer_key, self._claim)
        plan_ids, plans = self._numbered("plans", layout.OFFSETS, layout.offsets_key, self._checkpoint.read_plan)
        marker_ids, markers = self._numbered(
            "markers", layout.COMMITS, layout.commits_key, self._checkpoint.read_marker
        )
        definitions = self._each(
            "definitions", self._below(layout.SOURCES, layout.SINKS, layout.OPERATORS), self._definition
        )
        self._numbered(
            "notes of what is published", layout.PUBLISHED, layout.published_key, self._checkpoint.read_published
        )
        if self._below(layout.REJECTING, layout.REJECTED):
            self._rejected_rows()
        self._each("spilled lists", self._below(layout.SPILLED), self._spilled)
        contents = Contents(
            self._checkpoint,
            plan_ids,
            marker_ids,
            plans,
            markers,
            {key.split("/")[1]: body for key, body in definitions.items() if key.startswith(layout.SOURCES)},
            {key.split("/")[1]: body for key, body in definitions.items() if key.startswith(layout.SINKS)},
        )
        self._check_claims(writers, contents)
        self._check_definitions(contents)
        return contents

    def _rejected_rows(self) -> None:
        """What an operator let pass: no fault, and worth a note."""
        found = self._each("rejected rows", self._below(layout.REJECTED), lambda key: self._envelope(key, "rejected"))
        check = self.checks[-1]
        for key, envelope in found.items():
            body = envelope.body
            check.notes.append(
                f"{len(body['rows'])} rows of batch {body['batch_id']} were refused by sink {body['sink']!r} after the commit, "
                f"and are not in its output: {self._uri}/{key}."
            )
        self._numbered("permissions to reject", layout.REJECTING, layout.rejecting_key, self._checkpoint.read_rejecting)

    def _below(self, *prefixes: str) -> list[str]:
        return [key for key in self._keys if key.startswith(prefixes)]

    def _each(self, name: str, keys: Iterable[str], read: Callable[[str], Found | None]) -> dict[str, Found]:
        """Read each object; one that cannot be used is a fault. None was removed by a driver's sweep meanwhile."""
        check = Check(name)
        self.checks.append(check)

        def attempt(key: str) -> Found | CheckpointError | None:
            try:
                return read(key)
            except CheckpointError as error:
                return error
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                what = f"is intact, but not what it must be ({type(error).__name__}: {error})"
                return CorruptObject(f"{self._uri}/{key} {what}. Restore it from a copy or an older version.")

        found: dict[str, Found] = {}
        for key, result in side_by_side(attempt, keys):
            check.examined += 1
            if isinstance(result, CheckpointError):
                check.fault(key, str(result))
            elif result is not None:
                found[key] = result
        return found

    def _numbered(
        self, name: str, prefix: str, key_of: Callable[[int], str], read: Callable[[int], Found | None]
    ) -> tuple[frozenset[int], dict[int, Found]]:
        """All numbers below ``prefix``, and the objects that could be read, by number."""
        numbers: dict[str, int] = {}

        def read_key(key: str) -> Found | None:
            number = layout.number_in(key)
            if key_of(number) != key:
                raise CorruptObject(
                    f"{self._uri}/{key} is at a wrong place: a start takes it for {key_of(number)}. Remove it."
                )
            numbers[key] = number
            return read(number)

        found = self._each(name, self._below(prefix), read_key)
        return frozenset(numbers.values()), {numbers[key]: record for key, record in found.items()}

    def _claim(self, writer_epoch: int) -> int | None:
        claim = self._checkpoint.read_writer(writer_epoch)
        if claim is not None and claim.writer_epoch != writer_epoch:
            raise self._misplaced(layout.writer_key(writer_epoch), f"the claim of epoch {claim.writer_epoch}")
        return writer_epoch

    def _definition(self, key: str) -> Json | None:
        is_known = key.endswith("/definition.json") or layout.operator_record(key) is not None
        kind = {"definition.json": "definition", "dropped.json": "dropped"}.get(key.rpartition("/")[2], "state_type")
        envelope = self._envelope(key, kind) if is_known else None
        return None if envelope is None else envelope.body

    def _spilled(self, key: str) -> str | None:
        envelope = self._envelope(key, "committables")
        if envelope is not None and not key.endswith(f"-{envelope.nonce}.json"):
            raise self._misplaced(key, f"the list {envelope.nonce}")
        return key

    def _envelope(self, key: str, kind: str) -> Envelope | None:
        data = self._checkpoint.store.get(key)
        where = f"{self._uri}/{key}"
        return None if data is None else unseal(data, where=where, kind=kind, stream_id=self._checkpoint.stream_id)

    def _misplaced(self, key: str, what: str) -> CorruptObject:
        return CorruptObject(
            f"{self._uri}/{key} is {what}: it was copied to a wrong name. Restore it from a copy or an older version."
        )

    def _check_claims(self, writers: frozenset[int], contents: Contents) -> None:
        check = next(check for check in self.checks if check.name == "writer claims")
        epochs = {marker.attempt.writer_epoch for marker in contents.markers.values()}
        epochs |= {plan.writer_epoch for plan in contents.plans.values()}
        for writer_epoch in sorted(set(range(1, max([*writers, *epochs], default=0) + 1)) - writers):
            key = layout.writer_key(writer_epoch)
            check.fault(
                key,
                f"{self._uri}/{key} is missing; claims are never removed. Restore it from a copy. If there is none, make sure "
                f"that no driver of epoch {max(1, writer_epoch - 1)} still runs: it would take itself for the newest.",
            )

    def _check_definitions(self, contents: Contents) -> None:
        """The newest plan names what must be defined."""
        if not contents.plans:
            return
        check = next(check for check in self.checks if check.name == "definitions")
        newest = contents.plans[max(contents.plans)]
        wanted = [layout.definition_key(layout.SOURCES, name) for name in newest.sources]
        wanted += [layout.definition_key(layout.SINKS, name) for name in newest.graph.get("sinks", {})]
        for key in sorted(set(wanted) - set(self._keys)):
            error = CheckpointHole(
                f"{self._uri}/{key} is missing, though batch {newest.batch_id} uses it. Restore it from a copy; without it, "
                "a start cannot see whether the pipeline has changed."
            )
            check.fault(key, str(error))
