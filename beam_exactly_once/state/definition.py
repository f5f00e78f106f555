"""What a checkpoint keeps of an operator besides its state, and whether the operator still is the one that it was.

``operators/<name>/<generation>/definition.json`` is an :class:`OperatorDefinition`, written once, at the operator's first start.
``operators/<name>/<generation>/serde/<version>.json`` is what its state type says of one version (``to_definition()``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.checkpoint.layout import operator_key
from beam_exactly_once.checkpoint.location import OperatorRecord
from beam_exactly_once.errors import CheckpointHole, PipelineChanged
from beam_exactly_once.state.keys import SAMPLES, encode_key
from beam_exactly_once.state.types.contract import Json, StateType

TimeDomain: TypeAlias = Literal["event_time", "processing_time"]
"""What timers and time to live go by."""

SEED_BYTES = 16


def _key_samples() -> tuple[str, ...]:
    return tuple(encode_key(sample).hex() for sample in SAMPLES)


@dataclass(frozen=True, slots=True)
class OperatorDefinition:
    """An operator as its state was made for it."""

    name: str
    kind: str
    """Such as ``update_state_by_key``."""
    state: str
    """The kind of its state type, such as ``json``."""
    seed: bytes = field(repr=False)
    """Of the hash of its keys, 16 bytes of chance: who knows it can choose keys with one hash. So it is in no message."""
    time_domain: TimeDomain = "processing_time"
    window: Json | None = None
    """Its windows, as plain JSON; None if it has none."""
    key_samples: tuple[str, ...] = field(default_factory=_key_samples, repr=False)
    """The bytes of some keys, in hexadecimal digits. With others it would not find the keys that it has."""

    def to_json(self) -> Json:
        """As it is stored."""
        return {
            "name": self.name,
            "kind": self.kind,
            "state": self.state,
            "seed": self.seed.hex(),
            "time_domain": self.time_domain,
            "window": self.window,
            "key_samples": list(self.key_samples),
        }

    @classmethod
    def from_json(cls, stored: Json) -> OperatorDefinition:
        """From what is stored."""
        return cls(
            str(stored["name"]),
            str(stored["kind"]),
            str(stored["state"]),
            bytes.fromhex(stored["seed"]),
            stored["time_domain"],
            stored["window"],
            tuple(stored["key_samples"]),
        )


def recorded_definition(
    checkpoint: Checkpoint, recorded: Mapping[str, Mapping[int, OperatorRecord]], name: str, generation: int
) -> OperatorDefinition:
    """Of an operator whose state a marker names.

    Args:
        checkpoint: that of the marker.
        recorded: what it has of operators.
        name: of the operator.
        generation: that the marker names.

    Raises:
        CheckpointHole: it is gone.
    """
    record = recorded.get(name, {}).get(generation)
    if record is None or record.definition is None:
        raise CheckpointHole(
            f"{checkpoint.store.uri}/{operator_key(name, generation)} is missing, and with it the seed of the hash by which the "
            f"state of operator {name!r} is sorted. Restore it from a copy; nothing else has it."
        )
    return OperatorDefinition.from_json(record.definition)


def refuse_changed(stored: OperatorDefinition, now: OperatorDefinition) -> None:
    """Refuse an operator whose state was made for another one. The seed is that of the stored definition, whatever ``now`` has.

    Raises:
        PipelineChanged: its kind, kind of state, time or windows were others, or keys had other bytes.
    """
    changed = [
        f"{what}={_shown(then)}, now {_shown(today)}"
        for what, then, today in (
            ("kind", stored.kind, now.kind),
            ("state", stored.state, now.state),
            ("time_domain", stored.time_domain, now.time_domain),
            ("window", stored.window, now.window),
        )
        if then != today
    ]
    if changed:
        raise PipelineChanged(f"operator {stored.name!r} had {'; '.join(changed)}. {_way_out(stored.name)}")
    if stored.key_samples != now.key_samples:
        raise PipelineChanged(
            f"operator {stored.name!r}: this version of the library gives keys other bytes than the one that wrote its state, so "
            f"it would not find them. Install that one again. {_way_out(stored.name)}"
        )


def refuse_changed_state(operator: str, stored: Iterable[Json], now: StateType) -> None:
    """Refuse a state type that cannot read the values of all versions that the operator has had.

    Args:
        operator: its name.
        stored: what the checkpoint keeps of each version.
        now: the state type of this code.

    Raises:
        PipelineChanged: a version is newer, or has no upgrade, or was another type.
    """
    way_out = _way_out(operator)
    for one in sorted(stored, key=lambda one: int(one["version"]), reverse=True):
        if one["kind"] != now.kind:
            raise PipelineChanged(f"operator {operator!r} had state={one['kind']!r}, now {now.kind!r}. {way_out}")
        now.refuse_version(int(one["version"]), operator)
        why = now.difference(one)
        if why:
            raise PipelineChanged(
                f"operator {operator!r}: values of version {one['version']} of its state cannot be read: {why}. {way_out}"
            )


def _shown(value: Any) -> str:
    return "none" if value is None else repr(value)


def _way_out(operator: str) -> str:
    return (
        f"Change it back. To begin without what operator {operator!r} remembers, give the step another name=, and drop the old "
        f"one: without=['operators/{operator}']."
    )
