"""Kinds of nodes that bring elements together: groups, joins, combiners, state."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import FixedWindows, GlobalWindows, TimestampedValue

from graphs import steps
from graphs.kinds import Applied, Given, Kind, Numbers, Plain, Shape, one, same_shape

WINDOW_S = 10


def _keys(number: int) -> int:
    return 1 + number % 3


def _keyed(node: Applied) -> Any:
    return node.inputs[0] | beam.Map(steps.keyed, _keys(node.number))


def _by_key(values: Plain, keys: int) -> dict[int, Plain]:
    groups: dict[int, Plain] = defaultdict(list)
    for value in values:
        groups[value % keys].append(value)
    return groups


def _folded_group(key: int, group: Iterable[int]) -> int:
    return steps.folded(key, [group])


def _grouped(node: Applied) -> Sequence[Numbers]:
    return [_keyed(node) | beam.GroupByKey() | beam.MapTuple(_folded_group)]


def _joined(node: Applied) -> Sequence[Numbers]:
    keyed = tuple(
        side | f"Keyed{place}" >> beam.Map(steps.keyed, _keys(node.number)) for place, side in enumerate(node.inputs)
    )
    return [keyed | beam.CoGroupByKey() | beam.MapTuple(steps.folded)]


def _plain_joined(node: Given) -> Sequence[Plain]:
    sides = [_by_key(values, _keys(node.number)) for values in node.inputs]
    keys = {key for side in sides for key in side}
    return [[steps.folded(key, [side.get(key, []) for side in sides]) for key in keys]]


def _per_key(fan_out: int | None) -> Callable[[Applied], Sequence[Numbers]]:
    def build(node: Applied) -> Sequence[Numbers]:
        combine = beam.CombinePerKey(sum)
        combined = _keyed(node) | (combine.with_hot_key_fanout(fan_out) if fan_out else combine)
        return [combined | beam.MapTuple(steps.mixed).with_output_types(int)]

    return build


def _plain_per_key(node: Given) -> Sequence[Plain]:
    groups = _by_key(node.inputs[0], _keys(node.number))
    return [[steps.mixed(key, sum(group)) for key, group in groups.items()]]


def _modulo(value: int) -> int:
    return value % steps.MODULUS


def _total(node: Applied) -> Sequence[Numbers]:
    return [node.inputs[0] | beam.CombineGlobally(sum) | beam.Map(_modulo)]


def _total_of_some(node: Applied) -> Sequence[Numbers]:
    return [node.inputs[0] | beam.CombineGlobally(sum).without_defaults() | beam.Map(_modulo)]


def _plain_total(node: Given) -> Sequence[Plain]:
    return [[_modulo(sum(node.inputs[0]))]]


def _of_list(values: list[int]) -> int:
    return steps.folded(0, [values])


def _first(values: list[int]) -> int:
    return values[0]


def _thousandth(count: int) -> int:
    return 1000 // count


def _greatest(node: Applied) -> Sequence[Numbers]:
    return [node.inputs[0] | beam.combiners.Top.Largest(1) | beam.Map(_first)]


def _state(dofn: Callable[[], beam.DoFn]) -> Callable[[Applied], Sequence[Numbers]]:
    return lambda node: [_keyed(node) | beam.ParDo(dofn()).with_output_types(int)]


def _timestamped(value: int) -> TimestampedValue:
    return TimestampedValue((0, value), value % 40)


def _windowed(node: Applied) -> Sequence[Numbers]:
    windows = node.inputs[0] | beam.Map(_timestamped) | beam.WindowInto(FixedWindows(WINDOW_S))
    groups = windows | beam.GroupByKey() | beam.MapTuple(_folded_group)
    return [groups | "Back" >> beam.WindowInto(GlobalWindows())]


def _plain_windowed(node: Given) -> Sequence[Plain]:
    groups: dict[int, Plain] = defaultdict(list)
    for value in node.inputs[0]:
        groups[value % 40 // WINDOW_S].append(value)
    return [[_folded_group(0, group) for group in groups.values()]]


def _one_if_some(shapes: Sequence[Shape]) -> Shape:
    return Shape(has_some=shapes[0].has_some, at_most_one=True)


SHUFFLES: dict[str, Kind] = {
    "group": Kind(
        _grouped,
        lambda node: [[_folded_group(*item) for item in _by_key(node.inputs[0], _keys(node.number)).items()]],
        same_shape,
        weight=3,
    ),
    "join": Kind(
        _joined,
        _plain_joined,
        lambda shapes: Shape(has_some=any(shape.has_some for shape in shapes)),
        inputs=(2, 3),
        weight=3,
    ),
    "per_key": Kind(_per_key(None), _plain_per_key, same_shape),
    "fan_out": Kind(_per_key(2), _plain_per_key, same_shape, weight=1),
    "total": Kind(_total, _plain_total, one, weight=4),
    "total_of_some": Kind(_total_of_some, lambda node: [_plain_total(node)[0] if node.inputs[0] else []], _one_if_some),
    "count": Kind(
        lambda node: [node.inputs[0] | beam.combiners.Count.Globally()], lambda node: [[len(node.inputs[0])]], one
    ),
    "count_each": Kind(
        lambda node: [node.inputs[0] | beam.combiners.Count.PerElement() | beam.MapTuple(steps.mixed)],
        lambda node: [[steps.mixed(*item) for item in Counter(node.inputs[0]).items()]],
        same_shape,
    ),
    "to_list": Kind(
        lambda node: [node.inputs[0] | beam.combiners.ToList() | beam.Map(_of_list)],
        lambda node: [[_of_list(node.inputs[0])]],
        one,
    ),
    "distinct": Kind(
        lambda node: [node.inputs[0] | beam.Distinct()], lambda node: [list(set(node.inputs[0]))], same_shape
    ),
    "greatest": Kind(_greatest, lambda node: [[max(node.inputs[0])]], one, needs_some=True),
    "per_count": Kind(
        lambda node: [node.inputs[0] | beam.combiners.Count.Globally() | beam.Map(_thousandth)],
        lambda node: [[_thousandth(len(node.inputs[0]))]],
        one,
        needs_some=True,
    ),
    "state": Kind(
        _state(steps.Counting),
        lambda node: [
            [
                steps.mixed(key, place + 1)
                for key, group in _by_key(node.inputs[0], _keys(node.number)).items()
                for place in range(len(group))
            ]
        ],
        same_shape,
    ),
    "user_timer": Kind(
        _state(steps.AtTheEnd),
        lambda node: [[steps.folded(0, [group]) for group in _by_key(node.inputs[0], _keys(node.number)).values()]],
        same_shape,
    ),
    "windows": Kind(_windowed, _plain_windowed, same_shape, weight=1),
}
