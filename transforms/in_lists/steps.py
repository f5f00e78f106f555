"""Which steps of a stream hand on rows in lists: those from a reader on, while one step alone reads what another gives."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import TypeOptions
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor

from beam_exactly_once.transforms.in_lists.functions import function_in_lists
from beam_exactly_once.transforms.in_lists.row_list import CanBeInLists, with_dofn


def hand_on_in_lists(pipeline: beam.Pipeline) -> None:
    """Let rows travel in lists from where readers make them, up to the first step that takes only single ones.

    No step, collection, label or type changes, and nothing that users gave: a step gets a copy of its transform. What two
    steps read stays single, since each may see what the other one does to a row. Where types are checked while the pipeline
    runs, all rows are single.

    Args:
        pipeline: the whole graph.
    """
    types = pipeline.options.view_as(TypeOptions)
    if types.runtime_type_check or types.performance_runtime_type_check:
        return
    steps = _Steps()
    pipeline.visit(steps)
    for reader in steps.making_lists:
        steps.put_into_lists(reader)


class _Steps(PipelineVisitor):
    def __init__(self) -> None:
        self.making_lists: list[AppliedPTransform] = []
        self._readers: dict[beam.PCollection[Any], list[AppliedPTransform]] = {}

    def visit_transform(self, node: AppliedPTransform) -> None:
        for collection in {*node.inputs, *(side_input.pvalue for side_input in node.side_inputs)}:
            self._readers.setdefault(collection, []).append(node)
        if isinstance(node.transform, beam.ParDo) and _makes_lists(node.transform.fn):
            self.making_lists.append(node)

    def put_into_lists(self, first: AppliedPTransform) -> None:
        """From the step that makes lists to the last one that takes them."""
        steps = {first: first.transform.fn.in_lists()}
        last = first
        while (behind := self._only_reader(last)) is not None and (dofn := _in_lists(behind)) is not None:
            steps[behind] = dofn
            last = behind
        if len(steps) > 1 and not any(map(_batches_by_itself, self._readers_of(last))):
            for step, dofn in steps.items():
                step.transform = with_dofn(step.transform, dofn)

    def _only_reader(self, step: AppliedPTransform) -> AppliedPTransform | None:
        readers = self._readers_of(step)
        return readers[0] if len(readers) == 1 else None

    def _readers_of(self, step: AppliedPTransform) -> list[AppliedPTransform]:
        """Of its main output."""
        return self._readers.get(next(iter(step.outputs.values())), [])


def _makes_lists(dofn: beam.DoFn) -> bool:
    """It takes something else than rows."""
    return isinstance(dofn, CanBeInLists) and not dofn.in_lists()._process_batch_defined


def _in_lists(step: AppliedPTransform) -> beam.DoFn | None:
    transform = step.transform
    if not isinstance(transform, beam.ParDo) or transform.side_inputs:
        return None
    if isinstance(transform.fn, CanBeInLists):
        return transform.fn.in_lists()
    return function_in_lists(transform)


def _batches_by_itself(step: AppliedPTransform) -> bool:
    """Beam would tell it of batches as they come, and of others than now."""
    return isinstance(step.transform, beam.ParDo) and step.transform.fn._process_batch_defined
