"""A driver and its worker, as ``pipelines/micro_batches.py`` and ``transforms/commit_batch.py`` run the protocol.

Only Beam, Kafka and the file format are simulated. Output differs from attempt to attempt: other order, other files.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from beam_exactly_once import TopicPartition
from beam_exactly_once.checkpoint import (
    Attempt,
    Checkpoint,
    Marker,
    Piece,
    Plan,
    Recovery,
    SourcePlan,
    StreamWriter,
    layout,
    marker_of_attempt,
)
from beam_exactly_once.checkpoint.offsets_json import next_offsets_from_json, next_offsets_to_json
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.checkpoint.retention import Retention
from beam_exactly_once.errors import (
    CheckpointHole,
    Fenced,
    Retryable,
    SinkAhead,
    StagedOutputMissing,
)
from beam_exactly_once.object_store import StagedObject, Taken
from beam_exactly_once.offsets import OffsetRange
from support.simulation.store import SimulatedStore
from support.simulation.world import World

SOURCE, SINK, TOPIC = "orders", "files", "orders"
PARTITIONS = (TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1))
MANIFESTS = "_batches/"
FORGOTTEN_ENDS = (StagedOutputMissing, CheckpointHole)
"""How a worker may end that its runner has forgotten, so that nobody hears it: what it wants may be swept."""
NOW = 1_767_225_600_000
"""The first moment of 2026."""

MarkerOf = Callable[..., Marker]


@dataclass(slots=True)
class Weather:
    """What goes wrong beside the stores: probabilities, once an attempt."""

    reader_errs: float = 0.0
    bundle_repeated: float = 0.0
    commit_repeated: float = 0.0
    worker_forgotten: float = 0.0
    """The runner takes a worker for dead and runs the batch again, while the old one still goes to commit."""
    worker_kept: float = 0.0
    """The runner gives a worker that it kept what belongs to the batch before."""


@dataclass(slots=True)
class Scene:
    """What all drivers of one simulation share."""

    world: World
    checkpoint_store: SimulatedStore
    output: SimulatedStore
    random: random.Random
    retain_batches: int
    checks_start: bool
    """Whether the sink looks for output that the checkpoint does not know: a second line of defence."""
    weather: Weather
    latest: dict[TopicPartition, int]
    """What Kafka shows now."""
    grows_to: int = 0
    cache: dict[str, bytes] = field(default_factory=dict)
    """Of the machine that all workers share: sections of state, by digest."""
    kept: Any = None
    """What a worker that the runner keeps was given last."""

    def nonce(self) -> str:
        return f"{self.random.getrandbits(64):016x}"


class Driver:
    """One life of a driver. Mutants replace its parts."""

    writer_class = StreamWriter
    retention_class = Retention
    checkpoint_class = Checkpoint
    marker_of: MarkerOf = staticmethod(marker_of_attempt)

    def __init__(self, scene: Scene, name: str) -> None:
        self.scene = scene
        self.name = name
        self.output = scene.output

    def live(self) -> None:
        """From start to the end of what Kafka has."""
        self.checkpoint = self.checkpoint_class.open(self.scene.checkpoint_store, nonces=self.scene.nonce)
        self.retention = self.retention_class(self.checkpoint, self.scene.retain_batches)
        recovery = self.take_over()
        with self.fencing_first():
            self.recover(recovery)
            self.run_batches()

    def take_over(self) -> Recovery | None:
        """Claim. The recovery comes after it, in :meth:`recover`."""
        self.writer = self.claim()
        return None

    def claim(self) -> StreamWriter:
        return self.writer_class.claim(self.checkpoint, owner=self.name, claimed_at_ms=NOW)

    @contextmanager
    def fencing_first(self) -> Iterator[None]:
        """Whatever went wrong, the store has the last word."""
        try:
            yield
        except Fenced:
            raise
        except Exception:
            self.writer.ensure_newest()
            raise

    # -- the driver --------------------------------------------------------------------------------------------

    def recover(self, recovery: Recovery | None) -> None:
        recovery = recovery or self.writer.recover()
        if self.scene.checks_start:
            self.check_start(recovery.next_batch_id)
        if recovery.newest is not None:
            self.publish_again(recovery.newest)
            self.sweep(recovery.newest.batch_id)
        self.next_offsets = self.position(recovery.newest)
        self.batch_id = recovery.next_batch_id
        for batch_id in recovery.replays:
            plan = self.checkpoint.read_plan(batch_id)
            if plan is None:
                raise CheckpointHole(f"offsets of batch {batch_id} vanished")
            self.run_planned(plan)

    def publish_again(self, newest: Marker) -> None:
        """The task without a plan: a worker reads the marker for itself; so may a forgotten one."""

        def work() -> None:
            self.publish(self.writer, self.writer.decided(newest.batch_id))

        self.maybe_forget(f"publishing batch {newest.batch_id} again", work)
        work()

    def position(self, newest: Marker | None) -> dict[TopicPartition, int]:
        if newest is not None:
            return dict(newest.sources[SOURCE].next_offsets)
        first = next_offsets_to_json(dict.fromkeys(PARTITIONS, 0))
        recorded = self.checkpoint.create_definition(layout.SOURCES, SOURCE, {"first_offsets": first})
        return next_offsets_from_json(recorded["first_offsets"])

    def run_batches(self) -> None:
        while (planned := self.ranges()) is not None:
            self.run_planned(self.decide_plan(self.batch_id, planned))

    def ranges(self) -> SourcePlan | None:
        """Some of what Kafka has: never the same twice."""
        chance = self.scene.random
        for one in PARTITIONS:
            self.scene.latest[one] = min(self.scene.grows_to, self.scene.latest[one] + chance.randint(0, 3))
        lags = {one: self.scene.latest[one] - self.next_offsets[one] for one in PARTITIONS}
        if not any(lag > 0 for lag in lags.values()):
            return None
        sizes = {one: chance.randint(0, min(lag, 4)) if lag > 0 else 0 for one, lag in lags.items()}
        if not any(sizes.values()):
            sizes[max(PARTITIONS, key=lambda one: lags[one])] = 1
        ranges = tuple(
            OffsetRange(TOPIC, one.partition, self.next_offsets[one], self.next_offsets[one] + size)
            for one, size in sizes.items()
            if size
        )
        return SourcePlan(ranges, (), {one: self.next_offsets[one] + size for one, size in sizes.items()})

    def decide_plan(self, batch_id: int, source: SourcePlan) -> Plan:
        return self.writer.plan(Plan(batch_id, self.writer.writer_epoch, NOW, {SOURCE: source}))

    def run_planned(self, plan: Plan) -> None:
        won = self.run(plan, Attempt(self.writer.writer_epoch, plan.batch_id, self.scene.nonce()))
        self.next_offsets = self.stand_after(plan, won)
        self.batch_id = plan.batch_id + 1
        if self.retention.is_due(plan.batch_id):
            self.sweep(plan.batch_id)

    def stand_after(self, plan: Plan, won: Marker) -> dict[TopicPartition, int]:
        """Where the marker says; an operator may have abandoned the batch, whose offsets are then to be planned again."""
        return dict(won.sources[SOURCE].next_offsets)

    def sweep(self, published_batch_id: int) -> None:
        self.retention.sweep_all(published_batch_id)
        for staged in self.output.list_staged():
            if batch_of_part(staged.final_key) <= published_batch_id:
                self.output.discard(staged)

    def check_start(self, next_batch_id: int) -> None:
        for entry in self.output.list(MANIFESTS, manifest_key(next_batch_id - 1) if next_batch_id else ""):
            raise SinkAhead(f"{entry.key} is there, but the next batch is {next_batch_id}")

    # -- the workers -------------------------------------------------------------------------------------------

    def run(self, plan: Plan, attempt: Attempt) -> Marker:
        """Stage, commit, publish; a forgotten worker may do the same beside, up to the end. Returns what holds."""
        writer = self.writer

        def work() -> None:
            self.commit_and_publish(writer, self.stage(plan, attempt))

        self.maybe_forget(f"batch {plan.batch_id}", work)
        marker = self.stage(plan, attempt)
        won = self.commit_and_publish(writer, marker)
        if self.scene.random.random() < self.scene.weather.commit_repeated:
            won = self.commit_and_publish(writer, marker)
        return won

    def maybe_forget(self, what: str, work: Callable[[], None]) -> None:
        """Sometimes the runner takes a worker for dead, and repeats its work; but the worker goes on, from its beginning."""
        if self.scene.random.random() < self.scene.weather.worker_forgotten:
            self.scene.world.spawn(f"{self.name}'s forgotten worker of {what}", work, tolerated=FORGOTTEN_ENDS)

    def commit_and_publish(self, writer: StreamWriter, marker: Marker) -> Marker:
        won = writer.commit(marker)
        self.publish(writer, won)
        return won

    def stage(self, plan: Plan, attempt: Attempt) -> Marker:
        """Read, transform, stage in files of this bundle alone; returns the marker to be created."""
        chance = self.scene.random
        pieces = self.read(plan)
        rows = [[one.read.partition, offset] for one in pieces for offset in range(one.read.start, one.read.stop)]
        chance.shuffle(rows)
        files = chance.randint(1, 2)
        committables = [self.stage_file(attempt, rows[number::files]) for number in range(files) if rows[number::files]]
        if committables and chance.random() < self.scene.weather.bundle_repeated:
            committables[0] = self.stage_file(attempt, rows[0::files])
        return type(self).marker_of(plan, attempt, pieces, {SINK: tuple(committables)}, NOW)

    def read(self, plan: Plan) -> list[Piece]:
        chance = self.scene.random
        pieces: list[Piece] = []
        for planned in plan.sources[SOURCE].ranges:
            cut = chance.randint(planned.start, planned.stop)
            for start, stop in ((planned.start, cut), (cut, planned.stop)):
                pieces.append(Piece(SOURCE, OffsetRange(TOPIC, planned.partition, start, stop), stop - start, 0))
        if chance.random() < self.scene.weather.reader_errs:
            victim = chance.choice(pieces)
            pieces = [*pieces, victim] if chance.random() < 0.5 else [one for one in pieces if one is not victim]
        return pieces

    def stage_file(self, attempt: Attempt, rows: list[list[int]]) -> Json:
        with self.output.stage(part_name(attempt, self.scene.nonce())) as file:
            file.write(orjson.dumps({"attempt": attempt.nonce, "rows": rows}))
        staged = file.staged
        return {
            "final_key": staged.final_key,
            "rows": len(rows),
            "size_bytes": staged.size_bytes,
            "staged": staged.to_json(),
        }

    def publish(self, writer: StreamWriter, marker: Marker) -> None:
        """Each file, then the manifest."""
        for committable in marker.committables.get(SINK, ()):
            try:
                self.output.publish(StagedObject.from_json(committable["staged"]))
            except StagedOutputMissing:
                writer.ensure_newest()
                raise
        if isinstance(self.output.put_if_absent(manifest_key(marker.batch_id), manifest(marker)), Taken):
            raise SinkAhead(f"batch {marker.batch_id} has a manifest of another attempt")


def expected_ends() -> tuple[type[BaseException], ...]:
    """How any driver may end, besides by a crash: replaced, or with a passing fault."""
    return (Fenced, Retryable)


def part_name(attempt: Attempt, bundle: str) -> str:
    return f"part-{attempt.batch_id:020d}-{attempt.nonce}-{bundle}"


def batch_of_part(name: str) -> int:
    return int(name.split("-")[1])


def manifest_key(batch_id: int) -> str:
    return f"{MANIFESTS}{batch_id:020d}.json"


def manifest(marker: Marker) -> bytes:
    """The same marker gives the same bytes."""
    names = sorted(committable["final_key"] for committable in marker.committables.get(SINK, ()))
    return orjson.dumps({"batch_id": marker.batch_id, "attempt": marker.attempt.nonce, "files": names})
