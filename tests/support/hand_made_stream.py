"""A stream of files whose every step is taken by hand, with the real code of the checkpoint and the store."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from beam_exactly_once import TopicPartition
from beam_exactly_once.checkpoint import Attempt, Checkpoint, Marker, Piece, Plan, SourcePlan, StreamWriter
from beam_exactly_once.checkpoint.envelope import Envelope, seal
from beam_exactly_once.checkpoint.layout import SINKS, SOURCES, offsets_key
from beam_exactly_once.checkpoint.offsets_json import next_offsets_to_json
from beam_exactly_once.checkpoint.writer import marker_of_attempt
from beam_exactly_once.clock import now_ms
from beam_exactly_once.object_store import StagedObject, open_object_store
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.sinks.files.manifest import manifest_bytes, manifest_key, part_name

NEW_YEAR = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
P0, P1 = TopicPartition("orders", 0), TopicPartition("orders", 1)
OFFSETS_A_BATCH = {P0: 10, P1: 5}


class HandClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def utc_now(self) -> datetime.datetime:
        return NEW_YEAR + datetime.timedelta(seconds=self.seconds)

    def monotonic_s(self) -> float:
        return self.seconds

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.seconds += timeout_s
        return event.is_set()


class HandMadeStream:
    """Source ``kafka`` reads ten offsets of orders-0 and five of orders-1 a batch; sink ``files`` writes one file a batch."""

    def __init__(self, folder: Path) -> None:
        self.location, self.output = folder / "checkpoint", folder / "output"
        self.clock = HandClock()
        self._numbers = count()
        self.checkpoint = Checkpoint.open(
            open_object_store(str(self.location)), clock=self.clock, nonces=lambda: f"{next(self._numbers):016x}"
        )
        self.files = open_object_store(str(self.output))
        self.next_offsets = {P0: 0, P1: 0}
        self.writer = self.claim()
        self.checkpoint.create_definition(
            SOURCES, "kafka", {"kind": "kafka", "first_offsets": next_offsets_to_json(self.next_offsets)}
        )
        self.checkpoint.create_definition(SINKS, "files", self.sinks["files"])

    @property
    def sinks(self) -> dict[str, Any]:
        return {"files": {"kind": "files", "location": self.files.uri}}

    def claim(self) -> StreamWriter:
        self.writer = StreamWriter.claim(self.checkpoint, owner="ann@host pid 7", claimed_at_ms=now_ms(self.clock))
        return self.writer

    def plan(self, batch_id: int, lost: tuple[OffsetRange, ...] = (), **changed: Any) -> Plan:
        """Plan the next offsets; ``changed`` replaces parts of the source's plan, to plan wrongly."""
        starts = {**self.next_offsets, **{one.topic_partition: one.stop for one in lost}}
        ranges = tuple(
            OffsetRange(one.topic, one.partition, starts[one], starts[one] + OFFSETS_A_BATCH[one]) for one in starts
        )
        parts: dict[str, Any] = {
            "ranges": ranges,
            "lost": lost,
            "next_offsets": {one.topic_partition: one.stop for one in ranges},
            **changed,
        }
        source = SourcePlan(**parts)
        now = now_ms(self.clock)
        plan = self.writer.plan(Plan(batch_id, self.writer.writer_epoch, now, {"kafka": source}, {"sinks": self.sinks}))
        self.next_offsets = dict(source.next_offsets)
        self.clock.seconds += 1
        return plan

    def stage(self, attempt: Attempt, rows: int) -> dict[str, Any]:
        with self.files.stage(part_name(attempt, "b" * 16, 0, "json")) as file:
            file.write(b"{}\n" * rows)
        staged = file.staged
        sizes = {"final_key": staged.final_key, "rows": rows, "size_bytes": staged.size_bytes}
        return {**sizes, "staged": staged.to_json()}

    def marker(self, plan: Plan) -> Marker:
        """The marker of an attempt that read and staged everything."""
        attempt = Attempt(self.writer.writer_epoch, plan.batch_id, f"{plan.batch_id:016x}")
        pieces = [Piece(name, one, one.size, 100 * one.size) for name, ranges in plan.ranges.items() for one in ranges]
        committables = {"files": (self.stage(attempt, sum(piece.records_read for piece in pieces)),)}
        return marker_of_attempt(plan, attempt, pieces, committables, now_ms(self.clock))

    def commit(self, plan: Plan) -> Marker:
        return self.writer.commit(self.marker(plan))

    def publish(self, marker: Marker) -> None:
        committables = marker.committables.get("files", ())
        for committable in committables:
            self.files.publish(StagedObject.from_json(committable["staged"]))
        manifest = manifest_bytes(self.checkpoint.stream_id, marker.attempt, committables)
        self.files.put_if_absent(manifest_key(marker.batch_id), manifest)

    def run(self, *batch_ids: int) -> Marker:
        for batch_id in batch_ids:
            marker = self.commit(self.plan(batch_id))
            self.publish(marker)
        return marker

    # -- harm ------------------------------------------------------------------------------------------------

    def path(self, key: str) -> Path:
        return self.location / key

    def forge(self, key: str, kind: str, body: Mapping[str, Any]) -> None:
        """Put a well-formed object there that says something else."""
        envelope = Envelope(kind, self.checkpoint.stream_id, "f" * 16, dict(body))
        self.path(key).write_bytes(seal(envelope))

    def change(self, key: str, **changed: Any) -> None:
        """Change parts of an object's body, and make its checksum right."""
        stored = orjson.loads(self.path(key).read_bytes())
        self.forge(key, stored["kind"], {**stored["body"], **changed})

    def corrupt_plan(self, batch_id: int) -> None:
        path = self.path(offsets_key(batch_id))
        path.write_bytes(path.read_bytes()[:-40])

    def everything(self) -> dict[str, bytes]:
        """All files of checkpoint and output, also hidden ones."""
        root = self.location.parent
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
