"""A graph as steps of Beam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam

from graphs.elementwise import as_view
from graphs.ends import SOURCES
from graphs.evaluation import KINDS, name_of
from graphs.kinds import Applied, Numbers, Site
from graphs.model import Graph, Node, Ref


class _Composite(beam.PTransform):
    """One node, under a label of its own."""

    def __init__(self, build: Callable[[Any], Sequence[Numbers]]) -> None:
        super().__init__()
        self._build = build

    def expand(self, inputs: Any) -> Any:
        return tuple(self._build(inputs))


def build(graph: Graph, begin: beam.Pipeline, site: Site) -> None:
    """Apply all nodes to a stream."""
    made: dict[Ref, Numbers] = {}
    for number, node in enumerate(graph):
        for output, collection in enumerate(_apply(node, number, begin, site, made)):
            made[Ref(number, output)] = collection


def _apply(node: Node, number: int, begin: beam.Pipeline, site: Site, made: dict[Ref, Numbers]) -> Sequence[Numbers]:
    name, kind = name_of(number), KINDS[node.kind]
    views = [as_view(view.how, made[view.of], f"{name}.{place}") for place, view in enumerate(node.views)]
    hows = tuple(view.how for view in node.views)
    inputs = tuple(made[ref] for ref in node.inputs)

    def applied(inputs: Sequence[Numbers]) -> Sequence[Numbers]:
        return kind.build(Applied(site, name, begin, inputs, views, hows, node.number))

    if node.kind in SOURCES or not inputs:
        return applied(())
    if len(inputs) == 1:
        composite = _Composite(lambda one: applied((one,)))
        return tuple(inputs[0] | f"{name}.{node.kind}" >> composite)
    return tuple(inputs | f"{name}.{node.kind}" >> _Composite(applied))
