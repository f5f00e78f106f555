"""Random stories: the same seed gives the same one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

from graphs.ends import SINKS, SOURCES
from graphs.evaluation import KINDS, STEPS, shapes_of, views_of
from graphs.kinds import Kind, Shape
from graphs.model import Fault, Graph, Node, Place, Ref, Start, Story, View

TRIPPING = ("trip", "each")
"""Kinds of nodes at which a fault can be."""


def story(seed: int, without: Collection[str] = (), *, max_nodes: int = 9) -> Story:
    """A random graph, and starts of its stream.

    Args:
        seed: decides all.
        without: kinds of nodes that are not drawn.
        max_nodes: most steps between sources and sinks.
    """
    random = Random(seed)
    partitions = tuple(random.randint(1, 3) for _ in range(random.choice([1, 1, 2, 3])))
    graph = _graph(random, len(partitions), frozenset(without), max_nodes)
    shapes_of(graph)
    starts = tuple(_start(random, graph, partitions) for _ in range(random.choice([1, 1, 2, 2, 3])))
    return Story(graph, partitions, starts, limit=random.randint(3, 9))


class _Drawn:
    """A graph that grows."""

    def __init__(self, random: Random, without: frozenset[str]) -> None:
        self._random = random
        self._without = without
        self.nodes: list[Node] = []
        self.shapes: dict[Ref, Shape] = {}

    def add(self, node: Node) -> Ref:
        self.nodes.append(node)
        number, kind = len(self.nodes) - 1, KINDS[node.kind]
        shape = kind.shape([self.shapes[ref] for ref in node.inputs])
        self.shapes.update({Ref(number, output): shape for output in range(kind.outputs)})
        return Ref(number)

    def some(self) -> Ref:
        """A collection, rather a late one."""
        refs = list(self.shapes)
        return refs[max(self._random.randrange(len(refs)) for _ in range(2))]

    def kind(self, kinds: dict[str, Kind], *, not_these: Collection[str] = ()) -> str:
        names = [name for name in kinds if name not in self._without and name not in not_these]
        return self._random.choices(names, [kinds[name].weight for name in names])[0]

    def view(self) -> View:
        ref = self.some()
        return self._random.choice(views_of(ref, self.shapes[ref]))

    def step(self) -> None:
        name = self.kind(STEPS)
        kind = STEPS[name]
        inputs = tuple(self.some() for _ in range(self._random.randint(*kind.inputs)))
        if kind.needs_some and not self.shapes[inputs[0]].has_some:
            name, kind = "map", STEPS["map"]
        views = tuple(self.view() for _ in range(self._random.randint(*kind.views)))
        self.add(Node(name, inputs, views, self._random.randrange(10)))


def _graph(random: Random, topics: int, without: frozenset[str], max_nodes: int) -> Graph:
    drawn = _Drawn(random, without)
    kinds = [drawn.kind(SOURCES) for _ in range(max(topics, random.choice([1, 1, 1, 2])))]
    alone = len(kinds) == 1 and kinds[0] != "read_rejecting"
    for number, kind in enumerate(kinds):
        ref = drawn.add(Node(kind, number=number % topics))
        drawn.shapes[ref] = Shape(has_some=alone)
    if random.random() < 0.2:
        _late_branch(drawn, random)
    for _ in range(random.randint(2, max_nodes)):
        drawn.step()
    _sinks(drawn, random)
    return tuple(drawn.nodes)


def _late_branch(drawn: _Drawn, random: Random) -> None:
    """Two readers of a shuffle, one of which waits longer for its side input, and the other is run twice."""
    shuffled = drawn.add(Node("reshuffle", (drawn.some(),)))
    soon = drawn.add(Node("total", (shuffled,)))
    late = drawn.add(Node("total", (soon,)))
    first = drawn.add(Node("look_up", (shuffled,), (View("singleton", soon),)))
    again = drawn.kind({name: STEPS[name] for name in ("timers", "deferred", "user_timer", "map")})
    sinks = [drawn.add(Node(again, (first,))), drawn.add(Node("look_up", (shuffled,), (View("singleton", late),)))]
    random.shuffle(sinks)
    for ref in sinks:
        drawn.add(Node("json", (ref,)))


def _sinks(drawn: _Drawn, random: Random) -> None:
    """One to four, rather of what nobody else reads; the first is one that says what each batch has."""
    read = {ref for node in drawn.nodes for ref in node.refs}
    for number in range(random.choice([1, 2, 2, 3, 4])):
        unread = [ref for ref in drawn.shapes if ref not in read]
        ref = random.choice(unread) if unread and random.random() < 0.8 else drawn.some()
        kind = drawn.kind(SINKS, not_these=("sql",) if number == 0 else ())
        drawn.add(Node(kind, (ref,), number=random.randrange(10)))
        read.add(ref)


def _start(random: Random, graph: Graph, partitions: Sequence[int]) -> Start:
    records: dict[Place, tuple[int, ...]] = {}
    for topic, count in enumerate(partitions):
        readers = [node.kind for node in graph if node.kind in SOURCES and node.number == topic]
        dirty = bool(readers) and set(readers) == {"read_rejecting"}
        for partition in range(count):
            values = [_value(random, dirty=dirty) for _ in range(random.choice([0, 1, 2, 4, 6]))]
            if values:
                records[topic, partition] = tuple(values)
    return Start(records, _fault(random, graph))


def _value(random: Random, *, dirty: bool) -> int:
    value = random.randrange(1, 40)
    return -value if dirty and random.random() < 0.3 else value


def _fault(random: Random, graph: Graph) -> Fault | None:
    places = [number for number, node in enumerate(graph) if node.kind in TRIPPING]
    if not places or random.random() < 0.5:
        return None
    return Fault(random.choice(places), random.choice([0, 0, 1]))
