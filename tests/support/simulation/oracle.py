"""What a simulated stream did, checked by value. It looks at the stores from outside; no driver told it anything."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import orjson

from beam_exactly_once.checkpoint import Marker, Plan, layout
from beam_exactly_once.checkpoint.records import Json
from support.simulation.driver import MANIFESTS, PARTITIONS, SINK, SOURCE, Scene, manifest, manifest_key


@dataclass
class Ledger:
    """The first plan and the first marker of every batch; whatever is created later under their names is a stray."""

    plans: dict[int, Plan] = field(default_factory=dict)
    markers: dict[int, Marker] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def watch(scene: Scene) -> Ledger:
    """Note every decision at the moment when a store takes it."""
    ledger = Ledger()

    def on_checkpoint(key: str, body: bytes) -> None:
        if key.startswith(layout.OFFSETS):
            ledger.plans.setdefault(layout.number_in(key), Plan.from_json(orjson.loads(body)["body"]))
        elif key.startswith(layout.COMMITS):
            batch_id = layout.number_in(key)
            if batch_id not in ledger.markers:
                ledger.markers[batch_id] = _marker(scene, orjson.loads(body)["body"])
            scene.world.newest_batch_id = max(scene.world.newest_batch_id, batch_id)

    def on_output(key: str, body: bytes) -> None:
        if not key.startswith(MANIFESTS):
            return
        stored = orjson.loads(body)
        missing = [name for name in stored["files"] if name not in scene.output.objects]
        if missing:
            ledger.faults.append(f"the manifest of batch {stored['batch_id']} appears before its files {missing}")
        if stored["batch_id"] and manifest_key(stored["batch_id"] - 1) not in scene.output.objects:
            ledger.faults.append(f"the manifest of batch {stored['batch_id']} appears before that of the batch before")

    scene.checkpoint_store.on_create = on_checkpoint
    scene.output.on_create = on_output
    return ledger


def _marker(scene: Scene, stored: Json) -> Marker:
    """The marker with what it keeps elsewhere."""
    if "spilled" in stored:
        spilled = orjson.loads(scene.checkpoint_store.objects[stored["spilled"]["key"]])["body"]
        stored = {**stored, **spilled}
    return Marker.from_json(stored)


def faults_of(scene: Scene, ledger: Ledger) -> list[str]:
    """Everything that is not as promised; empty when all is well."""
    return ledger.faults + _history_faults(scene, ledger) + _output_faults(scene, ledger) + _row_faults(scene, ledger)


def _history_faults(scene: Scene, ledger: Ledger) -> list[str]:
    """Plans and markers follow each other without gap or overlap, up to the end."""
    faults = []
    next_offsets = dict.fromkeys(PARTITIONS, 0)
    for expected, (batch_id, plan) in enumerate(ledger.plans.items()):
        source = plan.sources[SOURCE]
        if batch_id != expected:
            faults.append(f"batch {batch_id} was planned when batch {expected} was due")
        for planned in source.ranges:
            if next_offsets[planned.topic_partition] != planned.start:
                faults.append(f"batch {batch_id} plans {planned} after {next_offsets[planned.topic_partition]}")
        marker = ledger.markers.get(batch_id)
        if marker is not None and marker.outcome != "abandoned":
            next_offsets |= {planned.topic_partition: planned.stop for planned in source.ranges}
        if marker is not None and dict(marker.sources[SOURCE].next_offsets) != next_offsets:
            faults.append(f"the marker of batch {batch_id} stands at {marker.sources[SOURCE].next_offsets}")
    if next_offsets != scene.latest:
        faults.append(f"decided up to {next_offsets}, but Kafka has {scene.latest}")
    if list(ledger.markers) != list(ledger.plans):
        faults.append(f"decided were, in this order, {list(ledger.markers)}; planned {list(ledger.plans)}")
    return faults


def _output_faults(scene: Scene, ledger: Ledger) -> list[str]:
    """Exactly the winners' files, and their manifests."""
    named = {
        committable["final_key"]
        for marker in ledger.markers.values()
        for committable in marker.committables.get(SINK, ())
    }
    visible = {key for key in scene.output.objects if not key.startswith(MANIFESTS)}
    manifests = {key: body for key, body in scene.output.objects.items() if key.startswith(MANIFESTS)}
    expected = {manifest_key(batch_id): manifest(marker) for batch_id, marker in ledger.markers.items()}
    faults = [f"{name} is visible, but no winning attempt names it" for name in sorted(visible - named)]
    faults += [f"{name} of a winning attempt is not visible" for name in sorted(named - visible)]
    faults += [
        f"{key} holds {manifests.get(key)!r}, not {expected.get(key)!r}"
        for key in sorted(manifests.keys() | expected.keys())
        if manifests.get(key) != expected.get(key)
    ]
    return faults


def _row_faults(scene: Scene, ledger: Ledger) -> list[str]:
    """Every offset once: in the output, or on the record as skipped by an operator."""
    found = Counter(
        (row[0], row[1])
        for key, body in scene.output.objects.items()
        if not key.startswith(MANIFESTS)
        for row in orjson.loads(body)["rows"]
    )
    found += Counter(
        (lost.partition, offset)
        for marker in ledger.markers.values()
        for lost in marker.sources[SOURCE].lost
        for offset in range(lost.start, lost.stop)
    )
    wanted = Counter((one.partition, offset) for one in PARTITIONS for offset in range(scene.latest[one]))
    faults = [f"partition {partition} offset {offset} is lost" for partition, offset in sorted(wanted - found)]
    return faults + [
        f"partition {partition} offset {offset} is doubled" for partition, offset in sorted(found - wanted)
    ]
