"""A story made smaller, as long as it goes wrong in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from graphs.ends import SINKS
from graphs.evaluation import shapes_of
from graphs.model import Graph, Illegal, Node, Ref, Start, Story, View


def smallest(story: Story, still_fails: Callable[[Story], bool], tell: Callable[[Story], None]) -> Story:
    """The story when nothing more can be left out.

    Args:
        story: fails.
        still_fails: whether a smaller one does so, too.
        tell: called with each that does.
    """
    while True:
        found = next((one for one in smaller(story) if _is_legal(one.graph) and still_fails(one)), None)
        if found is None:
            return story
        story = found
        tell(story)


def smaller(story: Story) -> Iterator[Story]:
    """Stories with a little less, those with much less first."""
    starts = story.starts
    for number in range(len(starts)):
        if len(starts) > 1:
            yield replace(story, starts=starts[:number] + starts[number + 1 :])
    for graph, places in _smaller_graphs(story.graph):
        yield replace(story, graph=graph, starts=tuple(_moved(start, places) for start in starts))
    for number, start in enumerate(starts):
        for fewer in _smaller_starts(start):
            yield replace(story, starts=(*starts[:number], fewer, *starts[number + 1 :]))
    most = max((len(values) for start in starts for values in start.records.values()), default=0)
    if story.limit <= most * sum(story.partitions):
        yield replace(story, limit=story.limit + 10)  # fewer batches


def _smaller_starts(start: Start) -> Iterator[Start]:
    if start.fault is not None:
        yield replace(start, fault=None)
    for place, values in start.records.items():
        others = {one: of_one for one, of_one in start.records.items() if one != place}
        yield replace(start, records=others)
        if len(values) > 1:
            yield replace(start, records={**others, place: values[: len(values) // 2]})
            yield replace(start, records={**others, place: values[1:]})


_Places = Mapping[int, int]
"""Where each node that is left was, to where it is."""


def _smaller_graphs(graph: Graph) -> Iterator[tuple[Graph, _Places]]:
    numbers = list(reversed(range(len(graph))))
    unread = [number for number in numbers if not _readers(graph, number)]
    for number in unread:
        yield _without(graph, {number})
    for number in numbers:
        node = graph[number]
        if node.inputs and node.kind not in SINKS and _readers(graph, number):
            yield _without(_bypassed(graph, number), {number})
    for number in numbers:
        if _readers(graph, number):
            yield _without(graph, _dependents(graph, number))
    for number, node in enumerate(graph):
        yield from ((_replaced(graph, number, one), _unmoved(graph)) for one in _smaller_nodes(node))


def _smaller_nodes(node: Node) -> Iterator[Node]:
    if len(node.views) > 1:
        yield from (
            replace(node, views=node.views[:place] + node.views[place + 1 :]) for place in range(len(node.views))
        )
    elif node.views:
        yield Node("map", node.inputs)
    if len(node.inputs) > 2:
        yield from (replace(node, inputs=node.inputs[:place] + node.inputs[place + 1 :]) for place in range(3))
    if node.kind in SINKS and node.kind not in ("json", "rejecting"):
        yield replace(node, kind="json")
    if node.number:
        yield replace(node, number=0)


def _readers(graph: Graph, number: int) -> list[int]:
    return [reader for reader, node in enumerate(graph) if any(ref.node == number for ref in node.refs)]


def _dependents(graph: Graph, number: int) -> set[int]:
    found = {number}
    for reader, node in enumerate(graph):
        if any(ref.node in found for ref in node.refs):
            found.add(reader)
    return found


def _replaced(graph: Graph, number: int, node: Node) -> Graph:
    return (*graph[:number], node, *graph[number + 1 :])


def _bypassed(graph: Graph, number: int) -> Graph:
    """Whoever reads a node reads what that reads first."""
    instead = graph[number].inputs[0]
    return tuple(_redirected(node, lambda ref: instead if ref.node == number else ref) for node in graph)


def _redirected(node: Node, new: Callable[[Ref], Ref]) -> Node:
    views = tuple(View(view.how, new(view.of)) for view in node.views)
    return replace(node, inputs=tuple(map(new, node.inputs)), views=views)


def _without(graph: Graph, gone: set[int]) -> tuple[Graph, _Places]:
    left = [number for number in range(len(graph)) if number not in gone]
    places = {old: new for new, old in enumerate(left)}
    moved = (_redirected(graph[old], lambda ref: Ref(places.get(ref.node, -1), ref.output)) for old in left)
    return tuple(moved), places


def _unmoved(graph: Graph) -> _Places:
    return {number: number for number in range(len(graph))}


def _moved(start: Start, places: _Places) -> Start:
    """A fault moves with its node, and goes with it."""
    if start.fault is None:
        return start
    place = places.get(start.fault.node)
    return replace(start, fault=None if place is None else replace(start.fault, node=place))


def _is_legal(graph: Graph) -> bool:
    try:
        shapes_of(graph)
    except Illegal:
        return False
    return True
