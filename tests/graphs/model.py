"""Graphs as data: what is drawn, built, evaluated, printed and made smaller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, order=True)
class Ref:
    """One output of a node: a collection of numbers."""

    node: int
    output: int = 0

    def __str__(self) -> str:
        return f"{self.node}" if self.output == 0 else f"{self.node}.{self.output}"


@dataclass(frozen=True)
class View:
    """A side input: how it is seen, and of what collection."""

    how: str
    of: Ref

    def __str__(self) -> str:
        return f"{self.how}({self.of})"


@dataclass(frozen=True)
class Node:
    """A step, a source or a sink: its kind, what it reads, and a number that means something to the kind."""

    kind: str
    inputs: tuple[Ref, ...] = ()
    views: tuple[View, ...] = ()
    number: int = 0

    def __str__(self) -> str:
        words = [f"{self.kind}({self.number})", *(str(one) for one in self.inputs)]
        return " ".join([*words, *(f"with {view}" for view in self.views)])

    @property
    def refs(self) -> Iterator[Ref]:
        """All that it reads."""
        yield from self.inputs
        yield from (view.of for view in self.views)


Graph = tuple[Node, ...]
"""In an order in which each node reads earlier ones only. A node's place is its name."""


@dataclass(frozen=True)
class Fault:
    """An exception, once: at a node, in the first batch that comes there after so many batches of the start."""

    node: int
    after_batches: int

    def __str__(self) -> str:
        return f"fails once at {self.node} after {self.after_batches} batches"


Place = tuple[int, int]
"""A topic and a partition."""


@dataclass(frozen=True)
class Start:
    """What is added before a start of the stream, and what goes wrong in it.

    A number below zero is a record that cannot be decoded.
    """

    records: Mapping[Place, tuple[int, ...]]
    fault: Fault | None = None

    def __str__(self) -> str:
        added = " ".join(f"{topic}-{partition}{list(values)}" for (topic, partition), values in self.records.items())
        return added + (f", {self.fault}" if self.fault else "")


@dataclass(frozen=True)
class Story:
    """A graph, and what its stream lives through.

    Attributes:
        graph: its nodes.
        partitions: of each topic.
        starts: of the stream.
        limit: most offsets that a batch takes of each source.
    """

    graph: Graph
    partitions: tuple[int, ...]
    starts: tuple[Start, ...]
    limit: int = field(default=5)

    def __str__(self) -> str:
        nodes = [f"  {number:>2} {node}" for number, node in enumerate(self.graph)]
        starts = [f"  start {number}: {start}" for number, start in enumerate(self.starts)]
        return "\n".join([f"  topics with partitions {self.partitions}, {self.limit} offsets a batch", *nodes, *starts])


class Illegal(Exception):
    """A graph that has no meaning, or whose steps may fail rightly."""


class Wrong(Exception):
    """A stream did something else than its graph says."""
