"""The shapes of what a checkpoint holds, and their JSON. ``docs/storage_format.md`` shows one of each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import orjson

from beam_exactly_once.checkpoint.offsets_json import (
    next_offsets_from_json,
    next_offsets_to_json,
    range_from_json,
    range_to_json,
    ranges_from_json,
    ranges_to_json,
    replaced_from_json,
    replaced_to_json,
)
from beam_exactly_once.checkpoint.source_times import SourceTimes
from beam_exactly_once.offsets import OffsetRange, TopicPartition
from beam_exactly_once.topics import ReplacedTopic, TopicIds

Json: TypeAlias = dict[str, Any]
Outcome: TypeAlias = Literal["committed", "skipped", "abandoned"]
"""``committed``: published. ``skipped``: passed over on the record. ``abandoned``: the next batch plans its offsets again."""


_PLAN_DIGEST_LENGTH = 16


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a batch. Its nonce makes it unique, also among replays by one writer."""

    writer_epoch: int
    batch_id: int
    nonce: str

    def to_json(self) -> Json:
        """As it is stored."""
        return {"writer_epoch": self.writer_epoch, "batch_id": self.batch_id, "nonce": self.nonce}

    @classmethod
    def from_json(cls, stored: Json) -> Attempt:
        """From what is stored."""
        return cls(int(stored["writer_epoch"]), int(stored["batch_id"]), str(stored["nonce"]))


@dataclass(frozen=True, slots=True)
class WriterClaim:
    """Who claimed an epoch, for people to read."""

    writer_epoch: int
    owner: str
    claimed_at_ms: int

    def to_json(self) -> Json:
        """As it is stored."""
        return {"writer_epoch": self.writer_epoch, "owner": self.owner, "claimed_at_ms": self.claimed_at_ms}

    @classmethod
    def from_json(cls, stored: Json) -> WriterClaim:
        """From what is stored."""
        return cls(int(stored["writer_epoch"]), str(stored["owner"]), int(stored["claimed_at_ms"]))


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """What one source reads in one batch, and where it stands after it.

    ``lost`` names offsets that Kafka no longer had at planning; ``next_offsets`` covers every known partition.
    """

    ranges: tuple[OffsetRange, ...]
    lost: tuple[OffsetRange, ...]
    next_offsets: Mapping[TopicPartition, int]
    topic_ids: TopicIds = field(default_factory=dict)
    """The topics that ranges and next offsets are of."""
    replaced: Mapping[str, ReplacedTopic] = field(default_factory=dict)
    """What the source had read of topics that were found recreated at planning: ``lost`` names offsets of these."""
    isolation_level: str | None = None
    """What a reader must be shown; None where nothing says it."""
    watermark_ms: int | None = None
    """Of a source with event time; None while there is none, and where an older version has planned."""
    held_by: TopicPartition | None = None
    """What keeps the watermark from being later."""

    def to_json(self) -> Json:
        """As it is stored."""
        return {
            "ranges": ranges_to_json(self.ranges),
            "lost": ranges_to_json(self.lost),
            "next_offsets": next_offsets_to_json(self.next_offsets),
            "topic_ids": dict(sorted(self.topic_ids.items())),
            "replaced": {name: replaced_to_json(old) for name, old in sorted(self.replaced.items())},
            "isolation_level": self.isolation_level,
            **({} if self.watermark_ms is None else {"watermark_ms": self.watermark_ms}),
            **({} if self.held_by is None else {"held_by": [self.held_by.topic, self.held_by.partition]}),
        }

    @classmethod
    def from_json(cls, stored: Json) -> SourcePlan:
        """From what is stored."""
        return cls(
            ranges_from_json(stored["ranges"]),
            ranges_from_json(stored["lost"]),
            next_offsets_from_json(stored["next_offsets"]),
            stored["topic_ids"],
            {name: replaced_from_json(old) for name, old in stored["replaced"].items()},
            stored["isolation_level"],
            stored.get("watermark_ms"),
            TopicPartition(*stored["held_by"]) if "held_by" in stored else None,
        )


@dataclass(frozen=True, slots=True)
class CarriedState:
    """Behind which batch of which other stream the state is that the first batch of a new stream carries along."""

    location: str
    """For people: the checkpoint may have moved since."""
    stream_id: str
    batch_id: int
    digest: str
    """Of what that batch's marker says of state and sources: it is to be found again, and no other."""
    operators: tuple[str, ...]

    def to_json(self) -> Json:
        """As it is stored."""
        return {**{name: getattr(self, name) for name in self.__slots__}, "operators": list(self.operators)}

    @classmethod
    def from_json(cls, stored: Json) -> CarriedState:
        """From what is stored."""
        return cls(**{**{name: stored[name] for name in cls.__slots__}, "operators": tuple(stored["operators"])})


@dataclass(frozen=True, slots=True)
class Plan:
    """The planned offsets of a batch: its input, which never changes again."""

    batch_id: int
    writer_epoch: int
    planned_at_ms: int
    sources: Mapping[str, SourcePlan]
    graph: Json = field(default_factory=dict)
    """Names and kinds of the sources and sinks that planned it, and the limits: for people and for refusals."""
    carries: CarriedState | None = None
    """The batch reads nothing: it carries state of another stream into this one."""
    _stored: Json | None = field(default=None, init=False, repr=False, compare=False)
    """What it was read from, which another version may have written: the digest is over all of that."""

    @property
    def ranges(self) -> dict[str, tuple[OffsetRange, ...]]:
        """What to read, by source."""
        return {name: source.ranges for name, source in self.sources.items()}

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that tell this plan from every other one, also of the same batch of a restored checkpoint."""
        content = orjson.dumps(self.to_json(), option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(content).hexdigest()[:_PLAN_DIGEST_LENGTH]

    def to_json(self) -> Json:
        """As it is stored."""
        return self._stored or {
            "batch_id": self.batch_id,
            "writer_epoch": self.writer_epoch,
            "planned_at_ms": self.planned_at_ms,
            "sources": {name: source.to_json() for name, source in self.sources.items()},
            "graph": self.graph,
            **({} if self.carries is None else {"carries": self.carries.to_json()}),
        }

    @classmethod
    def from_json(cls, stored: Json) -> Plan:
        """From what is stored."""
        plan = cls(
            int(stored["batch_id"]),
            int(stored["writer_epoch"]),
            int(stored["planned_at_ms"]),
            {name: SourcePlan.from_json(source) for name, source in stored["sources"].items()},
            stored["graph"],
            CarriedState.from_json(stored["carries"]) if "carries" in stored else None,
        )
        object.__setattr__(plan, "_stored", stored)
        return plan


@dataclass(frozen=True, slots=True)
class SourceCommit:
    """Where one source stands after a batch, and what the batch read of it."""

    next_offsets: Mapping[TopicPartition, int]
    lost: tuple[OffsetRange, ...]
    records_read: int
    bytes_read: int
    topic_ids: TopicIds = field(default_factory=dict)
    """The topics that the next offsets are of."""
    event_time: SourceTimes | None = None
    """When its records happened; None of a source without event time."""

    def to_json(self) -> Json:
        """As it is stored."""
        return {
            "next_offsets": next_offsets_to_json(self.next_offsets),
            "lost": ranges_to_json(self.lost),
            "records_read": self.records_read,
            "bytes_read": self.bytes_read,
            "topic_ids": dict(sorted(self.topic_ids.items())),
            **({} if self.event_time is None else {"event_time": self.event_time.to_json()}),
        }

    @classmethod
    def from_json(cls, stored: Json) -> SourceCommit:
        """From what is stored."""
        return cls(
            next_offsets_from_json(stored["next_offsets"]),
            ranges_from_json(stored["lost"]),
            int(stored["records_read"]),
            int(stored["bytes_read"]),
            stored["topic_ids"],
            SourceTimes.from_json(stored["event_time"]) if "event_time" in stored else None,
        )


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The batch before, as sinks that keep receipts must find it.

    ``shards`` says in how many shards of each sink it left a receipt. The number never falls: a shard that a pipeline no longer
    uses gets one all the same, so that one that is used again later is found where it must be.
    """

    attempt: Attempt
    shards: Mapping[str, int]
    plan_digest: str = ""
    """Of its plan, which names it where rows are written before a marker."""

    @classmethod
    def behind(
        cls, before: Predecessor | None, attempt: Attempt, plan_digest: str, shards: Mapping[str, int]
    ) -> Predecessor:
        """What the next batch must find once ``attempt`` has decided one behind ``before``.

        Args:
            shards: how many shards each sink of the graph has that decided it.
        """
        earlier = {} if before is None else before.shards
        most = {sink: max(earlier.get(sink, 0), shards.get(sink, 0)) for sink in sorted({*earlier, *shards})}
        return cls(attempt, {sink: count for sink, count in most.items() if count}, plan_digest)

    def to_json(self) -> Json:
        """As it is stored."""
        return {"attempt": self.attempt.to_json(), "shards": dict(self.shards), "plan_digest": self.plan_digest}

    @classmethod
    def from_json(cls, stored: Json) -> Predecessor:
        """From what is stored."""
        return cls(Attempt.from_json(stored["attempt"]), stored["shards"], stored["plan_digest"])


@dataclass(frozen=True, slots=True)
class Marker:
    """The commit marker: decides a batch, and names all that its winning attempt staged."""

    batch_id: int
    outcome: Outcome
    attempt: Attempt
    sources: Mapping[str, SourceCommit]
    committables: Mapping[str, tuple[Json, ...]]
    """What each sink staged: the sink's own JSON, with ``rows`` and ``size_bytes``."""
    committed_at_ms: int
    predecessor: Predecessor | None = None
    """What decided the batch before; None for the first one."""
    shards: Mapping[str, int] = field(default_factory=dict)
    """In how many shards of each sink with receipts this batch leaves one."""
    records_rejected: Mapping[str, int] = field(default_factory=dict)
    """Records that each rejecting step rejected, by its name; only those that did."""
    plan_digest: str = ""
    """Of the plan that it decides; empty if that could not be read."""
    state: Mapping[str, Json] = field(default_factory=dict)
    """What each operator with state remembers after the batch, by its name: see ``state/state_list.py``."""
    rows_late: Mapping[str, int] = field(default_factory=dict)
    """Rows that came too late for each operator that goes by event time, by its name; only those that had some."""

    def following(self, predecessor: Predecessor | None, shards: Mapping[str, int]) -> Marker:
        """This marker, behind ``predecessor``, of a graph whose sinks have ``shards``."""
        shards = Predecessor.behind(predecessor, self.attempt, self.plan_digest, shards).shards
        return replace(self, predecessor=predecessor, shards=shards)

    @property
    def as_predecessor(self) -> Predecessor:
        """What the next batch follows."""
        return Predecessor(self.attempt, self.shards, self.plan_digest)

    @property
    def records_read(self) -> int:
        """Records that the batch read."""
        return sum(source.records_read for source in self.sources.values())

    @property
    def bytes_read(self) -> int:
        """Bytes of keys and values that the batch read."""
        return sum(source.bytes_read for source in self.sources.values())

    @property
    def rows_written(self) -> dict[str, int]:
        """Rows that each sink staged; sinks that staged nothing are not in it."""
        return {
            sink: sum(int(committable["rows"]) for committable in committables)
            for sink, committables in sorted(self.committables.items())
        }

    @property
    def offsets_lost(self) -> dict[str, int]:
        """Offsets of each source that Kafka no longer had."""
        return {name: sum(lost.size for lost in source.lost) for name, source in sorted(self.sources.items())}

    def to_json(self) -> Json:
        """As it is stored. Counts that follow from the rest are for those who read nothing else."""
        return {
            "batch_id": self.batch_id,
            "outcome": self.outcome,
            "attempt": self.attempt.to_json(),
            "sources": {name: source.to_json() for name, source in self.sources.items()},
            "committables": {name: list(committables) for name, committables in self.committables.items()},
            "committed_at_ms": self.committed_at_ms,
            "predecessor": None if self.predecessor is None else self.predecessor.to_json(),
            "shards": dict(self.shards),
            "plan_digest": self.plan_digest,
            "state": dict(self.state),
            "records_read": self.records_read,
            "bytes_read": self.bytes_read,
            "rows_written": self.rows_written,
            "records_rejected": dict(self.records_rejected),
            "offsets_lost": self.offsets_lost,
            **({"rows_late": dict(self.rows_late)} if self.rows_late else {}),
        }

    @classmethod
    def from_json(cls, stored: Json) -> Marker:
        """From what is stored."""
        return cls(
            int(stored["batch_id"]),
            stored["outcome"],
            Attempt.from_json(stored["attempt"]),
            {name: SourceCommit.from_json(source) for name, source in stored["sources"].items()},
            {name: tuple(committables) for name, committables in stored["committables"].items()},
            int(stored["committed_at_ms"]),
            None if stored["predecessor"] is None else Predecessor.from_json(stored["predecessor"]),
            stored["shards"],
            {step: int(count) for step, count in stored["records_rejected"].items()},
            stored["plan_digest"],
            stored.get("state", {}),  # older versions wrote none
            {operator: int(count) for operator, count in stored.get("rows_late", {}).items()},
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """A range that a reader finished. ``lost`` is the part of it that Kafka no longer had."""

    source: str
    read: OffsetRange
    records_read: int
    bytes_read: int
    lost: tuple[OffsetRange, ...] = ()

    def to_json(self) -> Json:
        """As it is stored."""
        return {
            "source": self.source,
            "read": range_to_json(self.read),
            "records_read": self.records_read,
            "bytes_read": self.bytes_read,
            "lost": [range_to_json(lost) for lost in self.lost],
        }

    @classmethod
    def from_json(cls, stored: Json) -> Piece:
        """From what is stored."""
        return cls(
            stored["source"],
            range_from_json(stored["read"]),
            int(stored["records_read"]),
            int(stored["bytes_read"]),
            tuple(range_from_json(lost) for lost in stored["lost"]),
        )
