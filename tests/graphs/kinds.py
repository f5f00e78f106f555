"""What a kind of node is: how many collections it reads and gives, as a step of Beam and in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import apache_beam as beam

Numbers: TypeAlias = "beam.PCollection[int]"
Plain: TypeAlias = list[int]


@dataclass(frozen=True)
class Shape:
    """What is known of a collection in every batch, whatever the records are."""

    has_some: bool = False
    at_most_one: bool = False


@dataclass(frozen=True)
class Site:
    """Where a graph runs.

    Attributes:
        bootstrap_servers: of its Kafka.
        place: URI below which outputs are.
        folder: a folder on the local disk.
        limit: most offsets that a batch takes of each source.
    """

    bootstrap_servers: str
    place: str
    folder: str
    limit: int

    def output(self, name: str) -> str:
        """Where the files of a sink are."""
        return f"{self.place}/{name}"

    def armed(self, name: str) -> str:
        """The file that makes a node fail."""
        return f"{self.folder}/armed-{name}"


@dataclass(frozen=True)
class Applied:
    """One node where it is built.

    Attributes:
        site: where the graph runs.
        name: of the node, and of the source or sink that it is.
        begin: the stream.
        inputs: what it reads.
        views: its side inputs.
        hows: how each of them is seen.
        number: of the node.
    """

    site: Site
    name: str
    begin: beam.Pipeline
    inputs: Sequence[Numbers]
    views: Sequence[Any]
    hows: tuple[str, ...]
    number: int


@dataclass(frozen=True)
class Given:
    """One node where it is evaluated: the same, with the numbers themselves."""

    inputs: Sequence[Plain]
    views: Sequence[Plain]
    hows: tuple[str, ...]
    number: int


@dataclass(frozen=True)
class Kind:
    """A kind of node.

    Attributes:
        build: to Beam; returns its outputs.
        plain: the same in plain Python. Of a source, the input is what a batch read.
        shape: of its outputs, by those of its inputs.
        inputs: least and most collections that it reads.
        views: least and most side inputs.
        outputs: how many collections it gives.
        needs_some: it fails without elements.
        weight: how often it is drawn.
    """

    build: Callable[[Applied], Sequence[Numbers]]
    plain: Callable[[Given], Sequence[Plain]]
    shape: Callable[[Sequence[Shape]], Shape] = lambda shapes: Shape(has_some=shapes[0].has_some)
    inputs: tuple[int, int] = (1, 1)
    views: tuple[int, int] = (0, 0)
    outputs: int = 1
    needs_some: bool = False
    weight: int = 2


def same_shape(shapes: Sequence[Shape]) -> Shape:
    """Of a step that gives one for each."""
    return shapes[0]


def no_shape(shapes: Sequence[Shape]) -> Shape:
    """Of a step that may give nothing, or many."""
    return Shape()


def fewer(shapes: Sequence[Shape]) -> Shape:
    """Of a step that may leave some out."""
    return Shape(at_most_one=shapes[0].at_most_one)


def one(shapes: Sequence[Shape]) -> Shape:
    """Of a step that gives one, always."""
    return Shape(has_some=True, at_most_one=True)


def simple(step: Callable[[Applied], beam.PTransform[Any, Any]]) -> Callable[[Applied], Sequence[Numbers]]:
    """Build one transform of the first input."""
    return lambda node: [node.inputs[0] | step(node)]
