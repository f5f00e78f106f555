"""What is told of a batch, from its plan, what its commit counted, and its marker where that was read."""

from __future__ import annotations

from collections.abc import Mapping

from beam_exactly_once.checkpoint import Marker, Plan
from beam_exactly_once.checkpoint.inspection import times_reached
from beam_exactly_once.offsets import TopicPartition, by_topic
from beam_exactly_once.pipelines.progress.listeners import BatchProgress
from beam_exactly_once.transforms.commit_counts import CommitCounts
from beam_exactly_once.transforms.stream_graph import StreamGraph


def progress_of(
    plan: Plan,
    counts: CommitCounts,
    decided: Marker | None,
    graph: StreamGraph,
    *,
    stream_id: str,
    writer_epoch: int,
    lag: Mapping[str, Mapping[TopicPartition, int]],
    plan_s: float,
    run_s: float,
    attempts_lost: int,
    finished_at_ms: int,
) -> BatchProgress:
    """One batch, as it went.

    Args:
        plan: of the batch.
        counts: of the run that decided it.
        decided: its marker; None if that was not read, since this run committed.
        graph: of the stream.
        stream_id: of the stream.
        writer_epoch: of the driver.
        lag: of each source and partition, in offsets.
        plan_s: how long planning took.
        run_s: the same of the graph, commit and publish included.
        attempts_lost: how many attempts were lost with their runner.
        finished_at_ms: when all was published.
    """
    commit_s, publish_s = counts.commit_us / 1e6, counts.publish_us / 1e6
    return BatchProgress(
        stream_id=stream_id,
        batch_id=plan.batch_id,
        outcome="committed" if decided is None else decided.outcome,
        writer_epoch=writer_epoch,
        records_read=sum(counts.records_read.values()),
        bytes_read=sum(counts.bytes_read.values()),
        rows_written={name: counts.rows_written.get(name, 0) for name in graph.sinks},
        records_rejected={name: counts.records_rejected.get(name, 0) for name in graph.rejecting},
        offsets_lost={name: counts.offsets_lost.get(name, 0) for name in graph.sources},
        lag_offsets={name: by_topic(of_source) for name, of_source in lag.items()},
        plan_s=plan_s,
        run_s=max(0.0, run_s - commit_s - publish_s),
        commit_s=commit_s,
        publish_s=publish_s,
        finished_at_ms=finished_at_ms,
        rows_late={name: counts.rows_late.get(name, 0) for name, one in graph.operators.items() if one.times},
        event_time={} if decided is None else times_reached(decided, plan),
        attempts_lost=attempts_lost,
    )
