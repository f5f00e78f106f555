"""What a graph does batch by batch that its user may have meant for the whole stream: said in the log; refused where state would
add it up, for ever."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor

from beam_exactly_once.errors import UnsupportedPipeline
from beam_exactly_once.transforms.emit_task import BatchTasks
from beam_exactly_once.transforms.for_each_batch import ForEachBatch
from beam_exactly_once.transforms.stateful.by_key import DeduplicateByKey, KeyedTransform
from beam_exactly_once.transforms.write_delta import WriteToDelta
from beam_exactly_once.transforms.write_files import WriteToFiles
from beam_exactly_once.transforms.write_kafka import WriteToKafka
from beam_exactly_once.transforms.write_sql import WriteToSql
from beam_exactly_once.transforms.write_to import WriteTo

_LOGGER = logging.getLogger(__name__)

_SINKS = (ForEachBatch, WriteTo, WriteToDelta, WriteToFiles, WriteToKafka, WriteToSql)
_COMBINING = (beam.CombinePerKey, beam.CombineGlobally, beam.CombineValues)
_GROUPING_INSIDE = (*_SINKS, *_COMBINING, KeyedTransform, beam.Reshuffle)
"""Steps whose own grouping is not that of the user."""


def warn_of_batches(pipeline: beam.Pipeline) -> None:
    """Warn of rows that every batch writes again, and of results that a later batch replaces.

    Raises:
        UnsupportedPipeline: every batch would add the same rows to what an operator remembers.
    """
    pipeline.visit(_Warnings())


class _Warnings(PipelineVisitor):
    """Visits what makes a collection before what reads it."""

    def __init__(self) -> None:
        self._constant: dict[Any, str] = {}
        """Collections that are the same in each batch, and the step where they begin."""
        self._repeated: dict[Any, str] = {}
        """Collections with rows of such, and the step where those begin."""
        self._combined: dict[Any, str] = {}
        """Collections with a result of one batch for a key, and the step that combines."""
        self._changed: dict[Any, str] = {}
        """Collections with what a batch changed of what an operator remembers, and that operator."""

    def enter_composite_transform(self, node: AppliedPTransform) -> None:
        if isinstance(node.transform, _COMBINING):
            self._note_combined(node, node.full_label)
        elif isinstance(node.transform, beam.Reshuffle):
            self._take_over(node)  # it groups inside, and gives what it got
        elif isinstance(node.transform, _SINKS):
            for rows in node.inputs:
                self._warn(rows, node)

        elif isinstance(node.transform, beam.CoGroupByKey):
            self._warn_of_join(node)
        elif isinstance(node.transform, KeyedTransform) and not isinstance(node.transform, DeduplicateByKey):
            for rows in node.inputs:
                self._refuse(rows, node)
            if node.transform._update().adds_up:
                self._changed.update(dict.fromkeys(node.outputs.values(), node.full_label))

    def visit_transform(self, node: AppliedPTransform) -> None:
        inputs = _collections(node.inputs)
        read = [*inputs, *(side_input.pvalue for side_input in node.side_inputs)]
        if not inputs:
            if not isinstance(node.parent.transform, BatchTasks):
                self._constant.update(dict.fromkeys(node.outputs.values(), node.full_label.split("/")[0]))
        elif self._constant.keys() >= set(read):
            self._constant.update(dict.fromkeys(node.outputs.values(), self._constant[inputs[0]]))
        elif not self._constant.keys() >= set(inputs):  # else a side input of the batch makes another row each time
            self._take_over(node)
        for one in inputs:
            if one in self._changed and not _is_inside(node, (KeyedTransform,)):
                for output in node.outputs.values():
                    self._changed.setdefault(output, self._changed[one])
        if isinstance(node.transform, beam.GroupByKey) and not _is_inside(node, _GROUPING_INSIDE):
            self._note_combined(node, node.full_label)

    def _take_over(self, node: AppliedPTransform) -> None:
        """What is said of an input holds for all outputs."""
        for one in _collections(node.inputs):
            begins = self._constant.get(one) or self._repeated.get(one)
            if begins and not isinstance(node.transform, beam.GroupByKey):
                self._repeated.update(dict.fromkeys(node.outputs.values(), begins))
            if one in self._combined:
                self._note_combined(node, self._combined[one])

    def _note_combined(self, node: AppliedPTransform, step: str) -> None:
        """The outermost step is told of: one is made of others."""
        for output in node.outputs.values():
            self._combined.setdefault(output, step)

    def _refuse(self, rows: Any, operator: AppliedPTransform) -> None:
        begins = self._constant.get(rows) or self._repeated.get(rows)
        if begins:
            raise UnsupportedPipeline(
                f"rows of step {begins!r} do not come from Kafka: they are the same in each batch, and each would give them "
                f"to {operator.full_label!r} again, which remembers what it got. Give them to a step as a side input, or put "
                "them into the topic."
            )

    def _warn_of_join(self, join: AppliedPTransform) -> None:
        changed = sorted({self._changed[one] for one in _collections(join.inputs) if one in self._changed})
        if len(changed) > 1:
            _LOGGER.warning(
                "step %r joins what %s give, and each gives the keys that a batch changes, not all that it remembers: a key "
                "meets itself only where one batch changes it in both. Keep both in the state of one step; or write them to "
                "tables, and join those.",
                join.full_label,
                " and ".join(map(repr, changed)),
            )

    def _warn(self, rows: Any, sink: AppliedPTransform) -> None:
        begins = self._constant.get(rows) or self._repeated.get(rows)
        if begins:
            _LOGGER.warning(
                "rows of step %r do not come from Kafka: they are the same in each batch, and each batch writes them again to "
                "%r. Give them to a step as a side input, or write them once with an ordinary beam.Pipeline.",
                begins,
                sink.full_label,
            )
        if rows in self._combined and getattr(sink.transform, "replaces_rows", False):
            _LOGGER.warning(
                'step %r combines the rows of one batch, and %r has mode="upsert": what a later batch has for a key replaces '
                "the result of an earlier one, and is not added to it. For totals over all batches use StatefulCombinePerKey, "
                "which goes on from batch to batch; or append a row for each key and batch, and add them up in a view.",
                self._combined[rows],
                sink.full_label,
            )


def _is_inside(node: AppliedPTransform | None, kinds: tuple[type, ...]) -> bool:
    return node is not None and (isinstance(node.transform, kinds) or _is_inside(node.parent, kinds))


def _collections(values: Iterable[Any]) -> list[Any]:
    return [one for one in values if isinstance(one, beam.PCollection)]
