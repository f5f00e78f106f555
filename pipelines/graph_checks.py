"""What a finished graph must be before it may run as a stream, and which of its collections a commit must wait for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import apache_beam as beam
from apache_beam.io import fileio
from apache_beam.io.filebasedsink import FileBasedSink
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.transforms import userstate
from apache_beam.transforms.window import GlobalWindows

from beam_exactly_once.errors import ConfigurationError, UnsupportedPipeline
from beam_exactly_once.transforms.stream_graph import StreamGraph, windows_refused

_PER_BATCH_BY_DESIGN = frozenset({"_GroupIntoBatchesDoFn", "_StatefulBatchElementsDoFn"})
"""Beam's own stateful DoFns whose result is right when each batch starts from nothing."""


def refuse_unsupported(pipeline: beam.Pipeline, *, allow_per_batch: bool, is_continuous: bool = False) -> None:
    """Refuse steps whose result in a stream would silently be another than the user means.

    A batch is one run of the graph, so Beam's state, timers and windows would start from nothing in each batch.

    Args:
        pipeline: the whole graph.
        allow_per_batch: the user knows and wants it so.
        is_continuous: one pipeline runs all batches, and its windows are looked at elsewhere.

    Raises:
        UnsupportedPipeline: naming the step and what to use instead.
    """
    pipeline.visit(_Refusals(allow_per_batch, is_continuous))


def refuse_companions_of_direct_sinks(graph: StreamGraph) -> None:
    """Refuse a sink, or state, beside a sink that writes before the marker: a batch is to be final in none before all have it.

    Raises:
        UnsupportedPipeline: naming both.
    """
    for name, sink in graph.sinks.items():
        others = sorted(graph.sinks.keys() - {name})
        if sink.publisher.is_direct and graph.operators:
            raise UnsupportedPipeline(
                f"sink {name!r} has direct=True, and the stream keeps state ({', '.join(sorted(graph.operators))}): a batch that "
                "is passed by hand could leave rows that the state never saw. Leave direct=True out."
            )
        if sink.publisher.is_direct and others:
            raise UnsupportedPipeline(
                f"sink {name!r} has direct=True and is not the only one ({', '.join(others)}): its rows would be final before "
                "the others have theirs. Leave direct=True out, or give each sink a stream and a checkpoint_location of its own."
            )


def unconsumed(pipeline: beam.Pipeline) -> list[beam.PCollection[Any]]:
    """Every collection that no step consumes, in the order of the graph.

    A commit that did not wait for them could run while a side branch is still going to fail.
    """
    visitor = _Leaves()
    pipeline.visit(visitor)
    return [collection for collection in visitor.produced if collection not in visitor.consumed]


def refuse_dropped(graph: StreamGraph, without: Iterable[str]) -> None:
    """
    Raises:
        ConfigurationError: an operator is to be dropped that the graph has.
    """
    for name in sorted(set(without) & graph.operators.keys()):
        raise ConfigurationError(
            f"without names 'operators/{name}', which this pipeline has. Remove the step, or leave it out of without; to begin "
            "it with nothing, give the step another name=."
        )


def refuse_renamed(graph: StreamGraph, without: Collection[str]) -> None:
    """
    Raises:
        ConfigurationError: an operator says that it was one that the graph has, that is to be dropped, or that another one was.
    """
    of_old: dict[str, str] = {}
    for name, operator in graph.operators.items():
        old = operator.renamed_from
        if old is None:
            continue
        said = f"operator {name!r} has renamed_from={old!r}"
        if old in graph.operators:
            raise ConfigurationError(
                f"{said}, and this pipeline has an operator {old!r}. Remove that one, or leave renamed_from out; to change names "
                "round, start once with names that are new."
            )
        if old in without:
            raise ConfigurationError(
                f"{said}, and without names 'operators/{old}': what it remembers goes on, or goes. Leave one of both out."
            )
        if old in of_old:
            raise ConfigurationError(
                f"{said}, and so has operator {of_old[old]!r}: one of them can go on with what it remembers. Leave the other out."
            )
        of_old[old] = name


class _Refusals(PipelineVisitor):
    def __init__(self, allow_per_batch: bool, is_continuous: bool) -> None:
        self._allow_per_batch = allow_per_batch
        self._is_continuous = is_continuous

    def enter_composite_transform(self, node: AppliedPTransform) -> None:
        self._check(node)

    def visit_transform(self, node: AppliedPTransform) -> None:
        self._check(node)

    def _check(self, node: AppliedPTransform) -> None:
        transform = node.transform
        _refuse_overwriting(node.full_label, transform)
        _refuse_late_batches(node)
        if self._allow_per_batch:
            return
        if isinstance(transform, beam.ParDo) and _is_stateful(transform.fn):
            raise UnsupportedPipeline(
                f"step {node.full_label!r} uses Beam state or timers, which start from nothing in each batch of a stream. "
                "Use MapGroupsWithState, UpdateStateByKey, StatefulCombinePerKey or DeduplicateByKey, whose state lives in the "
                "checkpoint, or pass allow_per_batch=True to ExactlyOnceStream if state within one batch is what you mean."
            )
        for output in () if self._is_continuous else node.outputs.values():
            windowing = getattr(output, "windowing", None)
            if windowing is not None and not isinstance(windowing.windowfn, GlobalWindows):
                raise windows_refused(node.full_label, output)


def _is_stateful(fn: Any) -> bool:
    return userstate.is_stateful_dofn(fn) and type(fn).__name__ not in _PER_BATCH_BY_DESIGN


def _refuse_overwriting(label: str, transform: Any) -> None:
    """Beam's file writers name files without the batch, so each batch would replace the one before."""
    sink = getattr(transform, "sink", None)
    if isinstance(transform, fileio.WriteToFiles) or isinstance(sink, FileBasedSink):
        raise UnsupportedPipeline(
            f"step {label!r} is one of Beam's own file writers, and in a stream each batch would overwrite the files of the "
            "batch before. Use beam_exactly_once.WriteToFiles."
        )


def _refuse_late_batches(node: AppliedPTransform) -> None:
    """Beam hands on what waits for a ``process_batch`` before it calls the ``finish_bundle`` above, and loses what that emits."""
    if not isinstance(node.transform, beam.ParDo) or not node.transform.fn._process_batch_defined:
        return
    for collection in node.inputs:
        above = None if collection.producer is None else collection.producer.transform
        if isinstance(above, beam.ParDo) and type(above.fn).finish_bundle is not beam.DoFn.finish_bundle:
            raise UnsupportedPipeline(
                f"step {node.full_label!r} has process_batch, right behind {collection.producer.full_label!r} with "
                "finish_bundle: Beam would lose what finish_bundle emits. Put beam.Reshuffle() between them."
            )


class _Leaves(PipelineVisitor):
    def __init__(self) -> None:
        self.produced: list[beam.PCollection[Any]] = []
        self.consumed: set[beam.PCollection[Any]] = set()

    def visit_transform(self, node: AppliedPTransform) -> None:
        self.consumed.update(node.inputs)
        self.consumed.update(side_input.pvalue for side_input in node.side_inputs)
        self.produced.extend(output for output in node.outputs.values() if isinstance(output, beam.PCollection))
