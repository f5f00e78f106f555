"""A graph in plain Python, and what makes one legal."""

from __future__ import annotations

from collections.abc import Mapping

from graphs.elementwise import ELEMENTWISE
from graphs.ends import SINKS, SOURCES, taken
from graphs.kinds import Given, Kind, Plain, Shape
from graphs.model import Graph, Illegal, Ref, View
from graphs.shuffles import SHUFFLES

STEPS: dict[str, Kind] = {**ELEMENTWISE, **SHUFFLES}
KINDS: dict[str, Kind] = {**SOURCES, **STEPS, **SINKS}


def name_of(number: int) -> str:
    """Of a node, as a source or a sink of a stream has it."""
    return f"n{number}"


def evaluated(graph: Graph, records: Mapping[int, Plain]) -> dict[int, Plain]:
    """What each sink gets of a batch.

    Args:
        graph: its nodes.
        records: what each source read, by its node.
    """
    values: dict[Ref, Plain] = {}
    sinks: dict[int, Plain] = {}
    for number, node in enumerate(graph):
        inputs = [values[ref] for ref in node.inputs] if node.kind not in SOURCES else [records.get(number, [])]
        views = [values[view.of] for view in node.views]
        given = Given(inputs, views, tuple(view.how for view in node.views), node.number)
        for output, found in enumerate(KINDS[node.kind].plain(given)):
            values[Ref(number, output)] = found
        if node.kind in SINKS:
            sinks[number] = taken(node.kind, inputs[0])
    return sinks


def shapes_of(graph: Graph) -> dict[Ref, Shape]:
    """What is known of each collection.

    Raises:
        Illegal: a step reads what is not there, or may fail without being wrong.
    """
    sources = [node for node in graph if node.kind in SOURCES]
    alone = len(sources) == 1 and sources[0].kind != "read_rejecting"  # then every batch has records of it
    shapes: dict[Ref, Shape] = {}
    for number, node in enumerate(graph):
        kind = KINDS[node.kind]
        if not set(node.refs) <= shapes.keys():
            raise Illegal(f"node {number} reads what is not there")
        if not (_within(len(node.inputs), kind.inputs) and _within(len(node.views), kind.views)):
            raise Illegal(f"node {number} reads too few or too many")
        inputs = [shapes[ref] for ref in node.inputs]
        if kind.needs_some and not inputs[0].has_some:
            raise Illegal(f"node {number} may fail for want of elements")
        if not all(may_see(view.how, shapes[view.of]) for view in node.views):
            raise Illegal(f"node {number} may not see one element")
        shape = Shape(has_some=alone) if node.kind in SOURCES else kind.shape(inputs)
        shapes.update({Ref(number, output): shape for output in range(kind.outputs)})
    if not sources or not any(node.kind in SINKS for node in graph):
        raise Illegal("no source, or no sink")
    return shapes


def may_see(how: str, shape: Shape) -> bool:
    """Whether a collection of this shape can be seen like that."""
    if how == "singleton":
        return shape.has_some and shape.at_most_one
    return shape.at_most_one if how == "default" else True


def views_of(ref: Ref, shape: Shape) -> list[View]:
    """All ways to see a collection."""
    hows = ["singleton", "default", "list", "iter", "dict", "multimap"]
    return [View(how, ref) for how in hows if may_see(how, shape)]


def _within(count: int, bounds: tuple[int, int]) -> bool:
    return bounds[0] <= count <= bounds[1]
