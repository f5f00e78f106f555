"""Kinds of nodes that look at one element at a time, and those that only move elements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from graphs import steps
from graphs.kinds import Applied, Given, Kind, Numbers, Plain, Shape, fewer, no_shape, one, same_shape, simple


def _tagged(node: Applied) -> Sequence[Numbers]:
    found = node.inputs[0] | beam.ParDo(steps.Tagging()).with_outputs("of1", "of2", main="of0")
    return [found.of0, found.of1, found.of2]


def _by_remainder(node: Given) -> Sequence[Plain]:
    return [[value for value in node.inputs[0] if value % 3 == remainder] for remainder in range(3)]


def _looked_up(node: Applied) -> Sequence[Numbers]:
    return [node.inputs[0] | beam.Map(steps.looked_up, *node.views, hows=node.hows).with_output_types(int)]


def _plain_looked_up(node: Given) -> Sequence[Plain]:
    sides = [as_seen(how, of) for how, of in zip(node.hows, node.views, strict=True)]
    return [[steps.looked_up(value, *sides, hows=node.hows) for value in node.inputs[0]]]


def as_seen(how: str, side: Plain) -> Any:
    """What a step sees of a side input."""
    if how in ("singleton", "default"):
        assert len(side) == 1 or (how == "default" and not side), "not a single value"
        return side[0] if side else DEFAULT
    if how == "dict":
        return dict(map(steps.itself_as_key, side))
    if how == "multimap":
        by_key = defaultdict(list)
        for value in side:
            by_key[value % steps.VIEW_KEYS].append(value)
        return by_key
    return side


DEFAULT = 77
"""Of a single value that is not there."""


def as_view(how: str, side: Numbers, name: str) -> Any:
    """A side input of Beam."""
    if how == "singleton":
        return beam.pvalue.AsSingleton(side)
    if how == "default":
        return beam.pvalue.AsSingleton(side, default_value=DEFAULT)
    if how == "dict":
        return beam.pvalue.AsDict(side | f"{name}.Pairs" >> beam.Map(steps.itself_as_key))
    if how == "multimap":
        return beam.pvalue.AsMultiMap(side | f"{name}.Pairs" >> beam.Map(steps.keyed, steps.VIEW_KEYS))
    return beam.pvalue.AsList(side) if how == "list" else beam.pvalue.AsIter(side)


def _created(node: Applied) -> Sequence[Numbers]:
    return [node.begin | f"{node.name}.Create" >> beam.Create(_constants(node.number)).with_output_types(int)]


def _constants(number: int) -> Plain:
    return [number + place for place in range(number % 4)]


def _all(node: Given) -> Sequence[Plain]:
    return [node.inputs[0]]


def _grown(values: Plain, most: int) -> Plain:
    return [value + place for value in values for place in range(1 + value % most)]


def _in_batches(node: Applied) -> Sequence[Numbers]:
    batches = node.inputs[0] | beam.BatchElements(min_batch_size=1, max_batch_size=3)
    return [batches | beam.FlatMap(list).with_output_types(int)]


def _with_timers(node: Applied) -> Sequence[Numbers]:
    batches = node.inputs[0] | beam.Map(steps.keyed, 1 + node.number % 2) | beam.GroupIntoBatches(2)
    return [batches | beam.FlatMap(steps.ungrouped).with_output_types(int)]


def _flattened(node: Applied) -> Sequence[Numbers]:
    return [tuple(node.inputs) | beam.Flatten()]


def _tripping(node: Applied) -> Sequence[Numbers]:
    fault = steps.Tripping(node.site.armed(node.name), at_end=bool(node.number % 2))
    return [node.inputs[0] | beam.ParDo(fault).with_output_types(int)]


ELEMENTWISE: dict[str, Kind] = {
    "map": Kind(
        simple(lambda node: beam.Map(steps.scaled, node.number)),
        lambda node: [[steps.scaled(value, node.number) for value in node.inputs[0]]],
        same_shape,
    ),
    "untyped": Kind(simple(lambda node: beam.Map(steps.same).with_output_types(Any)), _all, same_shape, weight=1),
    "flat_map": Kind(
        simple(lambda node: beam.FlatMap(steps.some_copies, node.number)),
        lambda node: [[copy for value in node.inputs[0] for copy in steps.some_copies(value, node.number)]],
        no_shape,
    ),
    "filter": Kind(
        simple(lambda node: beam.Filter(steps.is_kept, node.number)),
        lambda node: [[value for value in node.inputs[0] if steps.is_kept(value, node.number)]],
        fewer,
    ),
    "nothing": Kind(
        simple(lambda node: beam.ParDo(steps.Nothing()).with_output_types(int)), lambda node: [[]], fewer, weight=1
    ),
    "tagged": Kind(_tagged, _by_remainder, fewer, outputs=3),
    "partition": Kind(
        lambda node: list(node.inputs[0] | beam.Partition(steps.third, 3)), _by_remainder, fewer, outputs=3
    ),
    "buffered": Kind(simple(lambda node: beam.ParDo(steps.Buffering()).with_output_types(int)), _all, same_shape),
    "split": Kind(
        simple(lambda node: beam.ParDo(steps.Splitting()).with_output_types(int)),
        lambda node: [_grown(node.inputs[0], 3)],
    ),
    "deferred": Kind(
        simple(lambda node: beam.ParDo(steps.Deferring()).with_output_types(int)),
        lambda node: [[value + place for value in node.inputs[0] for place in range(2)]],
    ),
    "look_up": Kind(_looked_up, _plain_looked_up, same_shape, views=(1, 2), weight=10),
    "reshuffle": Kind(simple(lambda node: beam.Reshuffle()), _all, same_shape, weight=3),
    "batches": Kind(_in_batches, _all, same_shape),
    "timers": Kind(_with_timers, _all, same_shape, weight=4),
    "flatten": Kind(
        _flattened,
        lambda node: [[value for values in node.inputs for value in values]],
        lambda shapes: Shape(has_some=any(shape.has_some for shape in shapes)),
        inputs=(2, 3),
        weight=3,
    ),
    "create": Kind(_created, lambda node: [_constants(node.number)], no_shape, inputs=(0, 0), weight=1),
    "create_one": Kind(
        lambda node: [node.begin | f"{node.name}.Create" >> beam.Create([node.number]).with_output_types(int)],
        lambda node: [[node.number]],
        one,
        inputs=(0, 0),
        weight=1,
    ),
    "trip": Kind(_tripping, _all, same_shape, weight=1),
}
