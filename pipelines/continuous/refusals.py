"""What a graph must be before one unbounded pipeline may run all of its batches."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.transforms import userstate

from beam_exactly_once.errors import UnsupportedPipeline
from beam_exactly_once.pipelines.graph_checks import unconsumed
from beam_exactly_once.transforms.emit_task import BatchTasks
from beam_exactly_once.transforms.stream_graph import StreamGraph, is_whole_batch, windows_refused

_INSTEAD = "Use trigger=ProcessingTime(…)."


def refuse_unproved(graph: StreamGraph) -> None:
    """Refuse what is not proved in one unbounded pipeline.

    Raises:
        UnsupportedPipeline: naming the step.
    """
    if graph.allow_per_batch:
        raise _unproved("allow_per_batch=True")
    for name, sink in graph.sinks.items():
        if sink.publisher.is_direct:
            raise _unproved(f"direct=True of sink {name!r}")


def refuse_leaving_batches(pipeline: beam.Pipeline) -> None:
    """Refuse steps whose elements are not in the window of their batch, or wait in Beam's state.

    What does not come from a source is in no batch: it may be a side input.

    Raises:
        UnsupportedPipeline: naming the step, and what to use instead.
    """
    pipeline.visit(_Leaving())
    for leaf in unconsumed(pipeline):
        if not is_whole_batch(leaf):
            raise windows_refused(leaf.producer.full_label, leaf)


def _unproved(what: str) -> UnsupportedPipeline:
    return UnsupportedPipeline(f"{what} is not proved with trigger=Continuous(…) yet. {_INSTEAD}")


class _Leaving(PipelineVisitor):
    """Visits what makes a collection before what reads it."""

    def visit_transform(self, node: AppliedPTransform) -> None:
        if _is_inside(node, (BatchTasks, beam.Reshuffle)):
            return
        if isinstance(node.transform, beam.ParDo) and userstate.is_stateful_dofn(node.transform.fn):
            raise UnsupportedPipeline(
                f"step {node.full_label!r} uses Beam's state or timers, which is not proved with trigger=Continuous(…) yet. "
                f"{_INSTEAD}"
            )
        read = [one for one in node.inputs if isinstance(one, beam.PCollection)]
        of_batches = [one for one in read if is_whole_batch(one)]
        for one in [*read, *_collections(node.outputs)] if of_batches else ():
            if not is_whole_batch(one):
                raise windows_refused(node.full_label, one)
        if not of_batches and any(is_whole_batch(side_input.pvalue) for side_input in node.side_inputs):
            raise windows_refused(node.full_label, _collections(node.outputs)[0])


def _collections(outputs: dict[Any, Any]) -> list[beam.PCollection[Any]]:
    return [one for one in outputs.values() if isinstance(one, beam.PCollection)]


def _is_inside(node: AppliedPTransform | None, kinds: tuple[type, ...]) -> bool:
    return node is not None and (isinstance(node.transform, kinds) or _is_inside(node.parent, kinds))
