"""What an operator remembers after a batch: the complete list of live sections, as a commit marker holds it. Pure.

Keys are spread by a hash of 64 bits. A *slice* is a range of hashes, a *section* an immutable sorted table of rows of one slice,
many sections lie in one *state object*. Of rows with one key the newest section decides.

The idea is that of the manifest of a log-structured merge tree, with the commit marker as the manifest.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import orjson

from beam_exactly_once.checkpoint.layout import state_prefix
from beam_exactly_once.checkpoint.records import Attempt, Json, Marker
from beam_exactly_once.errors import IncompleteBatch

HASHES = 1 << 64
"""How many there are; the end of the last slice."""
FIRST_SLICES = 16
"""Slices of a new operator."""


@dataclass(frozen=True, slots=True)
class Section:
    """A sorted table of rows within a state object."""

    object_key: str
    offset: int
    size_bytes: int
    digest: str
    """Of its bytes: the first 32 hexadecimal digits of the SHA-256."""
    rows: int
    tombstones: int

    def to_json(self) -> list[Any]:
        """Compact: a marker holds hundreds."""
        return [self.object_key, self.offset, self.size_bytes, self.digest, self.rows, self.tombstones]

    @classmethod
    def from_json(cls, stored: Sequence[Any]) -> Section:
        """The inverse of :meth:`to_json`."""
        return cls(*stored)


@dataclass(frozen=True)
class Slice:
    """The live sections of a range of hashes, newest first."""

    first_hash: int
    end_hash: int
    sections: tuple[Section, ...] = ()
    next_due_ms: int | None = None
    """When its first timer is due. In a part, or a marker of an earlier version, it may be too early, and is never too late."""
    whole: str | None = None
    """The digest of the slice of the list that it is a part of; None if it is one itself."""

    def is_due(self, bound_ms: int) -> bool:
        """Whether a batch that fires up to there would fire anything of it."""
        return self.next_due_ms is not None and self.next_due_ms <= bound_ms

    @cached_property
    def digest(self) -> str:
        """Tells this list from every other one."""
        if self.whole is not None:
            return self.whole
        return _digest([f"{self.first_hash:x}", f"{self.end_hash:x}", [one.to_json() for one in self.sections]])

    def parts(self, count: int) -> list[Slice]:
        """So many parts of nearly equal length, which become slices of their own in the batch that changes them."""
        length = self.end_hash - self.first_hash
        bounds = [self.first_hash + length * number // count for number in range(count + 1)]
        return [Slice(*bounds_, self.sections, self.next_due_ms, self.digest) for bounds_ in pairwise(bounds)]

    def to_json(self) -> Json:
        """As it travels to the worker that holds it."""
        return {
            "first_hash": f"{self.first_hash:x}",
            "end_hash": f"{self.end_hash:x}",
            "sections": [section.to_json() for section in self.sections],
            "next_due_ms": self.next_due_ms,
            "whole": self.whole,
        }

    @classmethod
    def from_json(cls, sent: Json) -> Slice:
        """The inverse of :meth:`to_json`."""
        sections = tuple(Section.from_json(one) for one in sent["sections"])
        bounds = int(sent["first_hash"], 16), int(sent["end_hash"], 16)
        return cls(*bounds, sections, sent["next_due_ms"], sent["whole"])


@dataclass(frozen=True, slots=True)
class SliceChange:
    """What one batch makes of a slice, or of a part of it that becomes a slice of its own."""

    first_hash: int
    end_hash: int
    base: str
    """The digest of the slice that the worker opened."""
    section: Section | None = None
    """The rows that the batch changed, merged with the newest sections; goes in front. None if there are none."""
    merged: int = 0
    """How many of the newest sections of the base are in it, and go."""
    next_due_ms: int | None = None

    def of(self, base: Slice) -> Slice:
        """The slice after it."""
        new = () if self.section is None else (self.section,)
        return Slice(self.first_hash, self.end_hash, (*new, *base.sections[self.merged :]), self.next_due_ms)

    def to_json(self) -> Json:
        """As it travels to the commit."""
        return {
            "first_hash": f"{self.first_hash:x}",
            "end_hash": f"{self.end_hash:x}",
            "base": self.base,
            "section": None if self.section is None else self.section.to_json(),
            "merged": self.merged,
            "next_due_ms": self.next_due_ms,
        }

    @classmethod
    def from_json(cls, sent: Json) -> SliceChange:
        """The inverse of :meth:`to_json`."""
        section = None if sent["section"] is None else Section.from_json(sent["section"])
        bounds = int(sent["first_hash"], 16), int(sent["end_hash"], 16)
        return cls(*bounds, sent["base"], section, sent["merged"], sent["next_due_ms"])


@dataclass(frozen=True, slots=True)
class StateChange:
    """What one bundle of a batch makes of an operator's state: its part of the next list."""

    operator: str
    slices: tuple[SliceChange, ...]
    rows_in: int
    """Rows that came to it."""
    keys_added: int
    """Keys that it remembers and did not, less those that it forgot."""

    def to_json(self) -> Json:
        """As it travels to the commit."""
        return {
            "operator": self.operator,
            "slices": [one.to_json() for one in self.slices],
            "rows_in": self.rows_in,
            "keys_added": self.keys_added,
        }

    @classmethod
    def from_json(cls, sent: Json) -> StateChange:
        """The inverse of :meth:`to_json`."""
        slices = tuple(SliceChange.from_json(one) for one in sent["slices"])
        return cls(sent["operator"], slices, sent["rows_in"], sent["keys_added"])


@dataclass(frozen=True)
class StateList:
    """All that an operator remembers."""

    generation: int
    """Of its definition."""
    slices: tuple[Slice, ...]
    """In the order of hashes; together they hold every hash once."""
    fired_ms: int | None = None
    """Timers up to here have fired. None before the first batch."""
    keys: int = 0

    @classmethod
    def empty(cls, generation: int = 1, slices: int = FIRST_SLICES) -> StateList:
        """Of an operator that is new."""
        bounds = [HASHES * number // slices for number in range(slices + 1)]
        return cls(generation, tuple(Slice(first, end) for first, end in pairwise(bounds)))

    @property
    def next_due_ms(self) -> int | None:
        """When the first timer of any slice is due."""
        return min((one.next_due_ms for one in self.slices if one.next_due_ms is not None), default=None)

    def is_due(self, bound_ms: int) -> bool:
        """Whether a batch that fires up to there would fire anything."""
        return any(one.is_due(bound_ms) for one in self.slices)

    @property
    def sections(self) -> list[Section]:
        """Every section once."""
        return list(dict.fromkeys(section for one in self.slices for section in one.sections))

    @property
    def object_keys(self) -> set[str]:
        """The state objects that it needs."""
        return {section.object_key for section in self.sections}

    @property
    def size_bytes(self) -> int:
        """Bytes of all sections."""
        return sum(section.size_bytes for section in self.sections)

    def behind(
        self, changes: Iterable[StateChange], *, operator: str, attempt: Attempt, fired_ms: int | None, rows_sent: int
    ) -> StateList:
        """The list after a batch.

        Args:
            changes: of the batch's bundles.
            operator: whose.
            attempt: that made them.
            fired_ms: up to where the batch fired timers; None where event time has not begun.
            rows_sent: how many rows went to the operator.

        Raises:
            IncompleteBatch: a part of the state was changed by none or by two, or stands on another list than this one, or rows
                are missing.
        """
        changes = list(changes)
        slices = sorted((one for change in changes for one in change.slices), key=lambda one: one.first_hash)
        faults = [*self._faults(slices), *_foreign(slices, state_prefix(operator), attempt)]
        rows_in = sum(change.rows_in for change in changes)
        if rows_in != rows_sent:
            faults.append(f"{rows_sent} rows were sent to it, and {rows_in} came")
        faults += [
            f"a timer at {one.next_due_ms} is behind {fired_ms}, up to where the batch fired"
            for one in slices
            if one.next_due_ms is not None and fired_ms is not None and one.next_due_ms <= fired_ms
        ]
        if faults:
            raise _incomplete(attempt.batch_id, operator, faults)
        return replace(
            self,
            slices=tuple(one.of(self._slice_with(one)) for one in slices),
            fired_ms=fired_ms,
            keys=self.keys + sum(change.keys_added for change in changes),
        )

    def _slice_with(self, change: SliceChange) -> Slice:
        return self.slices[bisect.bisect_right(self._first_hashes, change.first_hash) - 1]

    @cached_property
    def _first_hashes(self) -> list[int]:
        return [one.first_hash for one in self.slices]

    def _faults(self, changes: Sequence[SliceChange]) -> list[str]:
        """Why they are not the whole of this list, each part once; empty if they are."""
        faults, expected = [], 0
        for change in changes:
            if change.first_hash != expected:
                faults.append(f"hashes from {expected:x} to {change.first_hash:x} were changed by none or by two")
            expected = change.end_hash
            base = self._slice_with(change)
            if change.end_hash > base.end_hash or change.first_hash >= change.end_hash:
                faults.append(f"hashes from {change.first_hash:x} to {change.end_hash:x} are not of one slice")
            elif change.base != base.digest or not 0 <= change.merged <= len(base.sections):
                faults.append(f"hashes from {change.first_hash:x} stand on another list than that of the batch before")
        if expected != HASHES:
            faults.append(f"hashes from {expected:x} on were changed by none")
        return faults

    def to_json(self) -> Json:
        """As a marker holds it. Each key of an object stands there once."""
        keys = sorted(self.object_keys)
        numbers = {key: number for number, key in enumerate(keys)}
        return {
            "generation": self.generation,
            "fired_ms": self.fired_ms,
            "keys": self.keys,
            "objects": keys,
            "slices": [
                [f"{one.first_hash:x}", one.next_due_ms, [_numbered(section, numbers) for section in one.sections]]
                for one in self.slices
            ],
        }

    @classmethod
    def from_json(cls, stored: Json) -> StateList:
        """The inverse of :meth:`to_json`."""
        keys = stored["objects"]
        firsts = [int(first, 16) for first, _, _ in stored["slices"]]
        slices = tuple(
            Slice(first, end, tuple(Section(keys[number], *rest) for number, *rest in sections), next_due_ms)
            for first, end, (_, next_due_ms, sections) in zip(
                firsts, [*firsts[1:], HASHES], stored["slices"], strict=True
            )
        )
        return cls(stored["generation"], slices, stored["fired_ms"], stored["keys"])


def _numbered(section: Section, numbers: dict[str, int]) -> list[Any]:
    return [numbers[section.object_key], *section.to_json()[1:]]


def _foreign(changes: Iterable[SliceChange], prefix: str, attempt: Attempt) -> list[str]:
    """What is not of this attempt: a worker that was kept from another one."""
    own = f"{prefix}{attempt.batch_id:020d}-{attempt.nonce}-"
    keys = {change.section.object_key for change in changes if change.section is not None}
    return [f"{key} is of another attempt" for key in sorted(keys) if not key.startswith(own)]


def _incomplete(batch_id: int, operator: str, faults: Sequence[str]) -> IncompleteBatch:
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return IncompleteBatch(
        f"batch {batch_id} was not committed, since the state of operator {operator!r} did not come whole: "
        f"{'; '.join(faults[:3])}{more}. Nothing is lost: start again to replay the batch. If it happens again, run the stream "
        "on another runner, and report it."
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(orjson.dumps(content)).hexdigest()[:32]


def state_lists(marker: Marker | None) -> dict[str, StateList]:
    """What each operator remembers behind a batch, as its marker says; nothing before the first one."""
    return {} if marker is None else {name: StateList.from_json(stored) for name, stored in marker.state.items()}
