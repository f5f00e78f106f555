"""What a simulated operator remembers: tables of JSON, as sections of one object."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from beam_exactly_once.errors import CorruptObject
from beam_exactly_once.state.state_list import HASHES, Section, Slice

KEYS = tuple(f"{partition}-{number}" for partition in (0, 1) for number in (0, 1))
HASH_OF = {key: (2 * number + 1) * HASHES // 8 for number, key in enumerate(KEYS)}
"""One key in each quarter of the hashes."""

Offsets: TypeAlias = list[list[int]]


@dataclass
class Entry:
    """What is remembered of a key; without offsets it is a tombstone."""

    offsets: Offsets = field(default_factory=list)
    due_ms: int | None = None

    def to_json(self) -> list[Any]:
        return [self.offsets, self.due_ms]


Table: TypeAlias = dict[str, Entry]


@dataclass
class Pack:
    """A state object while it is made."""

    key: str
    body: bytes = b""

    def add(self, table: Table) -> Section | None:
        if not table:
            return None
        content = orjson.dumps({key: entry.to_json() for key, entry in sorted(table.items())})
        digest = hashlib.sha256(content).hexdigest()[:32]
        tombstones = sum(not entry.offsets for entry in table.values())
        section = Section(self.key, len(self.body), len(content), digest, len(table), tombstones)
        self.body += content
        return section


def table_of(content: bytes, section: Section) -> Table:
    if hashlib.sha256(content).hexdigest()[:32] != section.digest:
        raise CorruptObject(f"{section} holds {content!r}")
    return {key: Entry(offsets, due_ms) for key, (offsets, due_ms) in orjson.loads(content).items()}


def merged(newest_first: Iterable[Table], *, keep_tombstones: bool = False) -> Table:
    """The newest entry of each key."""
    found: Table = {}
    for table in newest_first:
        for key, entry in table.items():
            found.setdefault(key, entry)
    return {key: entry for key, entry in found.items() if entry.offsets or keep_tombstones}


def within(one: Slice, table: Table) -> Table:
    """After a split, a section holds rows of more than its slice."""
    return {key: entry for key, entry in table.items() if one.first_hash <= hash_of(key) < one.end_hash}


def hash_of(key: str) -> int:
    """Behind a ``@``, a key may say which of many things of one key is meant; all of them have one hash."""
    return HASH_OF[key.partition("@")[0]]
