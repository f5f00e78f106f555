"""A simulated write-ahead log: receivers, senders who try again, streams that read, and sweepers, all by the product's code.

Receivers die and freeze with a segment under way; several claim one partition; requests are answered, and the answer is lost.
What is in the log is noted where the store creates it, so the oracle does not rest on what it judges.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from beam_exactly_once.errors import BeamExactlyOnceError, DataLoss, Fenced, StoreUnavailable
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.wal import segments
from beam_exactly_once.wal.ids import NO_CONTENT, NO_ID, content_of, stored_id
from beam_exactly_once.wal.intake import Intake, Request
from beam_exactly_once.wal.layout import number_in
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.log import WalLog
from beam_exactly_once.wal.new_records import NewRecord, NewRecords
from beam_exactly_once.wal.partition_writer import PartitionWriter
from beam_exactly_once.wal.readers import WalReader
from beam_exactly_once.wal.sweeping import Sweeper
from support.simulation.store import SimulatedStore
from support.simulation.world import World

TOPIC = "wal"
PAGE_OFFSETS = 8
EXPECTED_ENDS = (Fenced, StoreUnavailable)
"""How a receiver, a driver or a sweeper may end; another life goes on."""


class SmallPages(PartitionWriter):
    """Writes pages often."""

    page_offsets = PAGE_OFFSETS


@dataclass(eq=False)
class Sent:
    """A request as its sender knows it: the values of its records, and which of them have ids. Ids are their values."""

    partition: int
    values: list[bytes]
    has_ids: bool
    first_end: int
    tries: int = 0
    request: Request | None = None
    is_answered: bool = False


@dataclass(eq=False)
class Stream:
    """A stream with two sources on one log, each with its own pace: what its checkpoint would hold."""

    name: str
    first: dict[str, dict[int, int]] = field(default_factory=dict)
    plans: dict[tuple[str, int], dict[int, tuple[int, int]]] = field(default_factory=dict)
    commits: dict[str, list[dict[int, tuple[int, int]]]] = field(default_factory=dict)
    read: dict[str, list[tuple[int, int, bytes | None]]] = field(default_factory=dict)

    def next_offsets(self, source: str, batch_id: int) -> dict[int, int]:
        """Where a batch of a source begins."""
        begin = dict(self.first[source])
        for ranges in self.commits.get(source, [])[:batch_id]:
            begin.update({partition: stop for partition, (_, stop) in ranges.items()})
        return begin


@dataclass(frozen=True, slots=True)
class Parts:
    """The protocol, or a mutant of it."""

    receiver: type[Receiver]
    writer: type[PartitionWriter] = SmallPages
    intake: type[Intake] = Intake
    sweeper: type[Sweeper] = Sweeper
    driver: type[StreamDriver] | None = None
    store: type[SimulatedStore] = SimulatedStore


class WalScene:
    """One log and everybody around it."""

    def __init__(self, world: World, chance: random.Random, parts: Parts, *, partitions: int, id_window: int) -> None:
        self.world = world
        self.chance = chance
        self.parts = parts
        self.partitions = partitions
        self.id_window = id_window
        self.store = parts.store("memory://wal", world, chance, page_entries=chance.choice((2, 1000)))
        self.store.on_create = self._note
        self.log_id = "f" * 32
        self.truth: dict[int, dict[int, bytes | None]] = {one: {} for one in range(partitions)}
        self.ends = dict.fromkeys(range(partitions), 0)
        self.receivers: list[Receiver] = []
        self.sent: list[Sent] = []
        self.streams: list[Stream] = []
        self.faults: list[str] = []
        self.is_over = False
        self.loses_answers = True

    def location(self) -> WalLocation:
        """As each life opens it."""
        return WalLocation(self.store, self.log_id)

    def _note(self, key: str, body: bytes) -> None:
        if not key.startswith("log/"):
            return
        partition, base = int(key.split("/")[2]), number_in(key)
        found = segments.decode_segment(body, where=key, log_id=self.log_id)
        for offset, value in enumerate(found.values, start=base):
            self.truth[partition].setdefault(offset, value)
        self.ends[partition] = max(self.ends[partition], found.header.stop)

    # -- senders -------------------------------------------------------------------------------------------------------

    def send_new(self) -> None:
        """A request nobody has sent before; now and then one of its ids is of another request, and sent again."""
        partition = self.chance.randrange(self.partitions)
        has_ids = self.chance.random() < 0.75
        count = self.chance.choice((1, 1, 2, 3))
        values = [b"%d.%d" % (len(self.sent), number) for number in range(count)]
        recent = [
            one for one in self.sent[-8:] if one.has_ids and one.partition == partition and self._may_send_again(one)
        ]
        first_end = self.ends[partition]
        if has_ids and recent and self.chance.random() < 0.3:
            other = self.chance.choice(recent)
            values += [value for value in other.values if value not in values]
            first_end = min(first_end, other.first_end)
            self.chance.shuffle(values)
        sent = Sent(partition, values, has_ids, first_end)
        self.sent.append(sent)
        self.offer(sent)

    def send_again(self) -> None:
        """A request without an answer, within the id window."""
        open_ = [one for one in self.sent[-30:] if not one.is_answered and one.tries < 5 and self._may_send_again(one)]
        if open_:
            self.offer(self.chance.choice(open_))

    def _may_send_again(self, sent: Sent) -> bool:
        return sent.has_ids and self.ends[sent.partition] - sent.first_end < self.id_window

    def offer(self, sent: Sent) -> None:
        """To one of the receivers that listen."""
        listening = [one for one in self.receivers if one.listens and one.partition == sent.partition]
        if not listening:
            return
        sent.tries += 1
        receiver = self.chance.choice(listening)
        request = receiver.intake.offer(NewRecords.of(self._record(sent, value) for value in sent.values))
        request.on_settled = lambda: self._answered(sent, request)
        if request.is_settled:
            request.on_settled()

    def _record(self, sent: Sent, value: bytes) -> NewRecord:
        if not sent.has_ids:
            return NewRecord(value, 0, NO_ID, NO_CONTENT)
        return NewRecord(value, 0, stored_id(self.log_id, value), content_of(value), value)

    def _answered(self, sent: Sent, request: Request) -> None:
        if request.error is None and not (self.loses_answers and self.chance.random() < 0.15):
            sent.is_answered = True

    # -- the oracle ----------------------------------------------------------------------------------------------------

    def verdict(self) -> list[str]:
        """What is not as promised."""
        faults = list(self.faults)
        for partition in range(self.partitions):
            counts = Counter(self.truth[partition].values())
            tries: Counter[bytes] = Counter()
            for sent in self.sent:
                if sent.partition == partition:
                    tries.update(dict.fromkeys(sent.values, 1 if sent.has_ids else sent.tries))
                    lost = [value for value in sent.values if sent.is_answered and not counts[value]]
                    faults += [f"{value!r} was answered and is not in partition {partition}" for value in lost]
            with_ids = {value for sent in self.sent if sent.has_ids for value in sent.values}
            for value, count in counts.items():
                most = 1 if value in with_ids else tries[value or b""]
                if count > most:
                    faults.append(f"{value!r} is {count} times in partition {partition}")
        return faults + [fault for stream in self.streams for fault in self._verdict_of(stream)]

    def _verdict_of(self, stream: Stream) -> list[str]:
        faults = []
        for source, first in stream.first.items():
            done = stream.next_offsets(source, len(stream.commits.get(source, ())))
            expected = [
                (partition, offset, value)
                for partition in range(self.partitions)
                for offset, value in sorted(self.truth[partition].items())
                if first.get(partition, 0) <= offset < done.get(partition, 0)
            ]
            if sorted(stream.read.get(source, [])) != sorted(expected):
                odd = Counter(stream.read.get(source, []))
                odd.subtract(Counter(expected))
                faults.append(f"{stream.name}/{source} read otherwise: {[one for one in odd.items() if one[1]][:4]}")
        return faults


class Receiver:
    """One life of a receiver of one partition."""

    def __init__(self, scene: WalScene, name: str, partition: int) -> None:
        self.scene = scene
        self.partition = partition
        self.writer = scene.parts.writer(scene.location(), partition, owner=name, id_window=scene.id_window)
        self.intake: Intake
        self.listens = False
        scene.receivers.append(self)

    def live(self) -> None:
        try:
            self.claim()
            self.intake = self.scene.parts.intake(self.writer.window)
            self.listens = True
            while not self.scene.is_over:
                if self.intake:
                    self.put_next()
                else:
                    self.scene.world.call("wait", "")
        finally:
            self.listens = False

    def claim(self) -> None:
        self.writer.claim()

    def put_next(self) -> None:
        batch = self.intake.take()
        self.writer.begin(batch.records)
        base = self.put()
        self.intake.landed(batch, base)
        self.writer.put_page()

    def put(self) -> int:
        while True:
            try:
                return self.writer.put()
            except StoreUnavailable:
                pass


class StreamDriver:
    """One life of the driver of a stream with sources on a log."""

    sources = ("a", "b")

    def __init__(self, scene: WalScene, stream: Stream) -> None:
        self.scene = scene
        self.stream = stream
        self.location = scene.location()

    def reader(self, source: str) -> WalReader:
        return WalReader(self.location, self.stream.name, source)

    def live(self) -> None:
        for source in self.sources:
            self.begin(source)
        while True:
            before = {source: len(self.stream.commits.get(source, ())) for source in self.sources}
            for source in self.sources:
                if self.scene.is_over or self.scene.chance.random() < 0.7:
                    self.run_batch(source)
            after = {source: len(self.stream.commits.get(source, ())) for source in self.sources}
            if self.scene.is_over and before == after:
                return
            self.scene.world.call("wait", "")

    def begin(self, source: str) -> None:
        if source in self.stream.first:
            return
        self.hold(source)
        first = self.first_offsets(source)
        self.stream.first.setdefault(source, first)

    def hold(self, source: str) -> None:
        self.reader(source).hold()

    def first_offsets(self, source: str) -> dict[int, int]:
        return self.reader(source).first_offsets(range(self.scene.partitions))

    def release(self, source: str, batch_id: int, next_offsets: dict[int, int]) -> None:
        self.reader(source).finished(batch_id, next_offsets)

    def run_batch(self, source: str) -> None:
        stream, scene = self.stream, self.scene
        batch_id = len(stream.commits.get(source, ()))
        begin = stream.next_offsets(source, batch_id)
        if batch_id:
            self.release(source, batch_id - 1, begin)
        found = []
        try:
            plan = stream.plans.get((source, batch_id)) or self.plan(begin)
            if plan is None:
                return
            plan = stream.plans.setdefault((source, batch_id), plan)
            for partition, (start, stop) in plan.items():
                found += self.read(partition, start, stop)
        except DataLoss:
            if len(stream.commits.get(source, ())) > batch_id:
                return  # decided meanwhile by another driver: this one is late
            raise
        if len(stream.commits.setdefault(source, [])) == batch_id:
            stream.commits[source].append(plan)
            stream.read.setdefault(source, []).extend(found)
            scene.world.newest_batch_id += 1

    def _log(self) -> WalLog:
        """As if it had looked where the log is, which never moves here."""
        log = WalLog(self.scene.store, TOPIC)
        log._location = self.location
        log._look = lambda: self.location  # type: ignore[method-assign]
        return log

    def plan(self, begin: dict[int, int]) -> dict[int, tuple[int, int]] | None:
        log = self._log()
        ranges = {}
        for partition in range(self.scene.partitions):
            if not self.scene.ends[partition]:
                continue
            bounds = log.bounds([TopicPartition(TOPIC, partition)])[TopicPartition(TOPIC, partition)]
            start = begin.get(partition, 0)
            if bounds.earliest > start:
                raise DataLoss(f"partition {partition} begins at {bounds.earliest}, above {start}")
            stop = bounds.latest if self.scene.is_over else min(bounds.latest, start + self.scene.chance.randint(1, 9))
            if stop > start:
                ranges[partition] = (start, stop)
        return ranges or None

    def read(self, partition: int, start: int, stop: int) -> list[tuple[int, int, bytes | None]]:
        log = self._log()
        found = []
        while start < stop:
            chunk = log.next_chunk(TopicPartition(TOPIC, partition), start, stop)
            found += [(partition, one.offset, one.value) for one in chunk.records()]
            start = chunk.stop
        return found


def sweep_all(scene: WalScene) -> None:
    """One life of a sweeper."""
    sweeper = scene.parts.sweeper(scene.location())
    for partition in range(scene.partitions):
        sweeper.sweep(partition)


def noted(scene: WalScene, name: str, error: BaseException | None) -> None:
    """Put it on record that a life ended as none may."""
    if error is not None and not isinstance(error, EXPECTED_ENDS):
        kind = "error" if isinstance(error, BeamExactlyOnceError) else "crash of the code"
        scene.faults.append(f"{name} ended with an {kind}: {error!r}")
