"""A driver whose stream also remembers: an operator collects the offsets of each key, and hands them on when its timer fires.

The lists, their checks at the commit, the markers and the sweep are the real ones; the tables are JSON. Every offset is to be, at
every batch, in what was handed on or in what is remembered: once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import orjson

from beam_exactly_once.checkpoint import Attempt, Marker, Piece, Plan, SourcePlan, StreamWriter
from beam_exactly_once.checkpoint.layout import state_key
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.errors import CheckpointHole, CorruptObject
from beam_exactly_once.object_store import Taken
from beam_exactly_once.state.state_list import HASHES, Section, Slice, SliceChange, StateChange, StateList
from beam_exactly_once.state.upkeep.sweeping import sweep_state
from support.simulation.driver import NOW, SINK, SOURCE, Driver, Scene, part_name
from support.simulation.oracle import Ledger
from support.simulation.tables import Entry, Offsets, Pack, Table, hash_of, merged, table_of, within

OPERATOR = "collected"
SLICES = 2
TOO_MANY_SECTIONS = 3


@dataclass
class Task:
    """What travels to the worker of one attempt: the list that it stands on, and up to when timers fire."""

    base: StateList
    fires_to_ms: int


class StatefulDriver(Driver):
    """One life. Mutants replace its parts."""

    def __init__(self, scene: Scene, name: str) -> None:
        super().__init__(scene, name)
        self.state: Mapping[str, Json] = {}
        """Of the newest marker, as it was read."""
        self.tasks: dict[str, Task] = {}
        """What each attempt's workers were given, by its nonce."""

    # -- the driver ------------------------------------------------------------------------------------------------

    def publish_again(self, newest: Marker) -> None:
        self.state = newest.state
        super().publish_again(newest)

    def decide_plan(self, batch_id: int, source: SourcePlan) -> Plan:
        return self.writer.plan(Plan(batch_id, self.writer.writer_epoch, self.now_ms(), {SOURCE: source}))

    def run(self, plan: Plan, attempt: Attempt) -> Marker:
        self.tasks[attempt.nonce] = self.task_of(plan)
        return super().run(plan, attempt)

    def stand_after(self, plan: Plan, won: Marker) -> Any:
        self.state = self.state_after(won)
        return super().stand_after(plan, won)

    def state_after(self, won: Marker) -> Mapping[str, Json]:
        """The list that was decided, whoever decided it: read back, never what this driver's own attempt made."""
        marker = self.checkpoint.read_marker(won.batch_id)
        if marker is None:
            self.writer.ensure_newest()
            raise CheckpointHole(f"the marker of batch {won.batch_id} vanished")
        return marker.state

    def sweep(self, published_batch_id: int) -> None:
        self.sweep_state(published_batch_id - self.scene.retain_batches + 1)
        super().sweep(published_batch_id)

    def sweep_state(self, oldest_retained: int) -> None:
        newest = {name: StateList.from_json(stored) for name, stored in self.state.items()}
        sweep_state(self.writer, oldest_retained=oldest_retained, newest=newest)

    def now_ms(self) -> int:
        """Of this driver's clock: not that of others."""
        return NOW + self.scene.world.steps + self.scene.random.randint(-20, 20)

    def task_of(self, plan: Plan) -> Task:
        base = self.base()
        return Task(base, max(plan.planned_at_ms, base.fired_ms or 0))

    def base(self) -> StateList:
        stored = self.state.get(OPERATOR)
        return StateList.empty(slices=SLICES) if stored is None else StateList.from_json(stored)

    # -- the workers -----------------------------------------------------------------------------------------------

    def stage(self, plan: Plan, attempt: Attempt) -> Marker:
        chance = self.scene.random
        task = self.tasks[attempt.nonce]
        pieces = self.read(plan)
        rows = [[one.read.partition, offset] for one in pieces for offset in range(one.read.start, one.read.stop)]
        chance.shuffle(rows)
        sent = self.sent(task, rows)
        changes, fired = self.update(self.maybe_kept(task), attempt, sent)
        marker = self.marker_behind(plan, attempt, pieces)
        state = self.commit_state(task, changes, attempt, len(sent))
        committables = (self.stage_output(attempt, rows, fired),)
        return replace(marker, committables={SINK: committables}, state={OPERATOR: state.to_json()})

    def sent(self, task: Task, rows: Offsets) -> Offsets:
        """The rows that the operator takes."""
        return rows

    def marker_behind(self, plan: Plan, attempt: Attempt, pieces: list[Piece]) -> Marker:
        return type(self).marker_of(plan, attempt, pieces, {}, NOW)

    def commit_state(self, task: Task, changes: list[StateChange], attempt: Attempt, rows: int) -> StateList:
        return task.base.behind(changes, operator=OPERATOR, attempt=attempt, fired_ms=task.fires_to_ms, rows_sent=rows)

    def maybe_kept(self, task: Task) -> Task:
        """What the worker was given; a runner that keeps its instances may give it the list of the batch before."""
        kept, self.scene.kept = self.scene.kept, task
        if kept is not None and self.scene.random.random() < self.scene.weather.worker_kept:
            return replace(task, base=kept.base)
        return task

    def update(self, task: Task, attempt: Attempt, rows: Offsets) -> tuple[list[StateChange], dict[str, Offsets]]:
        """All shards; a runner may lose one or run one twice, and repeat a bundle of which only one is heard."""
        chance = self.scene.random
        slices = list(task.base.slices)
        cut = chance.randint(0, len(slices))
        changes, fired = [], {}
        for shard in filter(None, (slices[:cut], slices[cut:])):
            of_shard = [one for one in rows if _holds(shard, self.hash_of(one))]
            if of_shard and chance.random() < self.scene.weather.reader_errs:
                of_shard.pop()  # lost behind the shuffle
            change, of_it = self.update_shard(task, shard, attempt, of_shard)
            if chance.random() < self.scene.weather.bundle_repeated:
                change, of_it = self.update_shard(task, shard, attempt, of_shard)
            changes.append(change)
            fired |= of_it
        if chance.random() < self.scene.weather.reader_errs:
            victim = chance.choice(changes)
            changes = [*changes, victim] if chance.random() < 0.5 else [one for one in changes if one is not victim]
        return changes, fired

    def update_shard(
        self, task: Task, shard: list[Slice], attempt: Attempt, rows: Offsets
    ) -> tuple[StateChange, dict[str, Offsets]]:
        """One bundle: look up, add, fire, and put the change into one object."""
        tables = {
            one.first_hash: [self.read_section(section, one, attempt) for section in one.sections] for one in shard
        }
        delta: dict[int, Table] = defaultdict(dict)
        known = {one.first_hash: merged(tables[one.first_hash]) for one in shard}
        before = sum(len(table) for table in known.values())
        for row in rows:
            key = self.key_of(row)
            of_slice = _slice_with(shard, self.hash_of(row))
            entry = known[of_slice.first_hash].get(key, Entry())
            changed = Entry([*entry.offsets, row], self.due_of(row, task))
            known[of_slice.first_hash][key] = delta[of_slice.first_hash][key] = changed
        fired: dict[str, Offsets] = {}
        for one in shard:
            for key in self.due(task, known[one.first_hash], delta[one.first_hash]):
                entry = known[one.first_hash].pop(key)
                delta[one.first_hash][key] = left = self.left_at_timeout(task, entry)
                if left.offsets:
                    known[one.first_hash][key] = left
                else:
                    fired[key] = entry.offsets
        pack = Pack(state_key(OPERATOR, attempt.batch_id, *self.token_of(attempt)))
        slices = tuple(
            change
            for one in shard
            for change in self.changes_of(one, tables[one.first_hash], delta[one.first_hash], pack)
        )
        self.write(pack)
        after = sum(len(table) for table in known.values())
        return StateChange(OPERATOR, slices, len(rows), after - before), fired

    def key_of(self, row: list[int]) -> str:
        return f"{row[0]}-{row[1] % 2}"

    def hash_of(self, row: list[int]) -> int:
        return hash_of(self.key_of(row))

    def due_of(self, row: list[int], task: Task) -> int:
        """When the timer fires of a key that this row touches."""
        return self.due_after(task)

    def due_after(self, task: Task) -> int:
        """When the timer of a key that is touched now fires: soon, later, or before the bound already."""
        return task.fires_to_ms + self.scene.random.choice((-5, 0, 3, 30, 200))

    def left_at_timeout(self, task: Task, entry: Entry) -> Entry:
        """All is handed on, and nothing remembered."""
        return Entry()

    def due(self, task: Task, known: Table, delta: Table) -> list[str]:
        """Due since the batch before, and everything of the batch's own that is due."""
        lower = task.base.fired_ms or 0
        return [
            key
            for key, entry in sorted(known.items())
            if entry.due_ms is not None and entry.due_ms <= task.fires_to_ms and (key in delta or entry.due_ms > lower)
        ]

    def changes_of(self, one: Slice, tables: list[Table], delta: Table, pack: Pack) -> Iterable[SliceChange]:
        """The slice's change; sections are merged when there are many, and a slice may be split."""
        chance = self.scene.random
        count = chance.randint(1, len(tables)) if len(tables) >= TOO_MANY_SECTIONS else 0
        new = merged([delta, *tables[:count]], keep_tombstones=count < len(tables))
        bounds = [one.first_hash, one.end_hash]
        if one.end_hash - one.first_hash == HASHES // SLICES and chance.random() < 0.2:
            bounds.insert(1, (one.first_hash + one.end_hash) // 2)
        for part in (Slice(first, end) for first, end in pairwise(bounds)):
            alive = within(part, merged([delta, *tables]))
            dues = [entry.due_ms for entry in alive.values() if entry.due_ms is not None]
            yield SliceChange(
                part.first_hash,
                part.end_hash,
                one.digest,
                pack.add(within(part, new)),
                count,
                min(dues, default=None),
            )

    def token_of(self, attempt: Attempt) -> tuple[str, str]:
        return attempt.nonce, self.scene.nonce()

    def write(self, pack: Pack) -> None:
        if pack.body:
            written = self.scene.checkpoint_store.put_if_absent(pack.key, pack.body)
            assert not isinstance(written, Taken), pack.key

    def read_section(self, section: Section, one: Slice, attempt: Attempt) -> Table:
        """What it holds of a slice, through the machine's cache, by digest."""
        if section.digest not in self.scene.cache:
            body = self.scene.checkpoint_store.get(section.object_key)
            if body is None:
                writer = StreamWriter(self.checkpoint, attempt.writer_epoch)
                writer.ensure_newest()
                writer.ensure_undecided(attempt.batch_id)
                raise CheckpointHole(f"{section.object_key} is missing")
            self.scene.cache[section.digest] = body[section.offset : section.offset + section.size_bytes]
        return within(one, table_of(self.scene.cache[section.digest], section))

    def stage_output(self, attempt: Attempt, rows: Offsets, fired: dict[str, Offsets]) -> Json:
        with self.output.stage(part_name(attempt, self.scene.nonce())) as file:
            file.write(orjson.dumps({"attempt": attempt.nonce, "rows": rows, "fired": fired}))
        staged = file.staged
        return {
            "final_key": staged.final_key,
            "rows": len(rows),
            "size_bytes": staged.size_bytes,
            "staged": staged.to_json(),
        }


def _slice_with(shard: list[Slice], key_hash: int) -> Slice:
    return next(one for one in shard if one.first_hash <= key_hash < one.end_hash)


def _holds(shard: list[Slice], key_hash: int) -> bool:
    return any(one.first_hash <= key_hash < one.end_hash for one in shard)


def watch_state(scene: Scene, ledger: Ledger) -> list[str]:
    """The list that grows by what is wrong with a marker's state at the moment when the marker is decided."""
    faults: list[str] = []
    on_create = scene.checkpoint_store.on_create

    def judge(key: str, body: bytes) -> None:
        known = len(ledger.markers)
        on_create(key, body)
        if len(ledger.markers) > known:
            marker = list(ledger.markers.values())[-1]
            if OPERATOR in marker.state:
                faults.extend(_list_faults(scene, marker)[0])

    scene.checkpoint_store.on_create = judge
    return faults


def state_faults(scene: Scene, markers: Mapping[int, Marker]) -> list[str]:
    """What is not as promised of the state in the markers, and of what was handed on.

    The newest marker's state, and that of each retained one, is whole; no timer is behind its bound; and every offset is in what
    was handed on up to then, or remembered.
    """
    faults: list[str] = []
    newest = max(markers, default=-1)
    handed_on: Offsets = []
    skipped: Offsets = []
    for batch_id, marker in sorted(markers.items()):
        for committable in marker.committables.get(SINK, ()):
            body = scene.output.objects.get(committable["final_key"])
            handed_on += [] if body is None else [row for rows in orjson.loads(body)["fired"].values() for row in rows]
        for source in marker.sources.values():
            skipped += [[lost.partition, offset] for lost in source.lost for offset in range(lost.start, lost.stop)]
        if batch_id <= newest - scene.retain_batches or OPERATOR not in marker.state:
            continue
        list_faults, alive = _list_faults(scene, marker)
        faults += list_faults
        if list_faults:
            continue
        remembered = [row for entry in alive.values() for row in entry.offsets]
        wanted = [
            [one.partition, offset]
            for source in marker.sources.values()
            for one, stop in source.next_offsets.items()
            for offset in range(stop)
        ]
        if sorted(handed_on + remembered + skipped) != sorted(wanted):
            faults.append(f"behind batch {batch_id}, handed on {handed_on} and remembered {remembered} of {wanted}")
    return faults


def _list_faults(scene: Scene, marker: Marker) -> tuple[list[str], Table]:
    """What is wrong with the state that a marker names, and what that state remembers."""
    stored, behind = StateList.from_json(marker.state[OPERATOR]), f"behind batch {marker.batch_id}"
    missing = stored.object_keys - scene.checkpoint_store.objects.keys()
    if missing:
        return [f"{behind}, state objects are gone: {sorted(missing)}"], {}
    try:
        alive = alive_in(scene, stored)
    except CorruptObject as error:
        return [f"{behind}, {error}"], {}
    faults = []
    late = sorted(key for key, one in alive.items() if one.due_ms is not None and one.due_ms <= (stored.fired_ms or 0))
    if late:
        faults.append(f"{behind}, timers of {late} can never fire")
    if stored.keys != len(alive):
        faults.append(f"{behind}, {stored.keys} keys are counted of {len(alive)}")
    return faults, alive


def alive_in(scene: Scene, stored: StateList) -> Table:
    found: Table = {}
    for one in stored.slices:
        tables = []
        for section in one.sections:
            body = scene.checkpoint_store.objects[section.object_key]
            content = body[section.offset : section.offset + section.size_bytes]
            tables.append(within(one, table_of(content, section)))
        found |= merged(tables)
    return found
