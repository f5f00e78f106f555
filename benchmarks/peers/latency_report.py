"""What was measured of latencies, as a table and in docs/."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from peers.ways import Sink

MOST_MS: dict[Sink, float] = {"files": 50, "kafka": 150}
"""The bars of this library's median."""
_KEPT_UP = 0.99


@dataclass(frozen=True)
class Latency:
    """One line of the table."""

    title: str
    sink: Sink
    guarantee: str
    p50_ms: float
    p99_ms: float
    share: float
    """Of the records that were sent, those that were seen in time."""

    @property
    def median(self) -> str:
        """As tables show it."""
        return f"{self.p50_ms:.0f} ms" if self.kept_up else "fell behind"

    @property
    def kept_up(self) -> bool:
        """Whether the stream was as fast as the producer."""
        return self.share >= _KEPT_UP


def table(found: Sequence[Latency]) -> Iterator[str]:
    """Lines of Markdown, with the bars behind them."""
    yield "| to | way | promises | p50 | p99 |"
    yield "|---|---|---|---|---|"
    for one in found:
        p99 = f"{one.p99_ms:.0f} ms" if one.kept_up else ""
        yield f"| {one.sink} | {one.title} | {one.guarantee} | {one.median} | {p99} |"
    yield ""
    yield "| bar | measured | met |"
    yield "|---|---|---|"
    for sink, most_ms in MOST_MS.items():
        ours, *peers = (one for one in found if one.sink == sink)
        met = ours.kept_up and ours.p50_ms <= most_ms
        yield f"| {sink}: p50 of at most {most_ms:.0f} ms | {ours.median} | {'yes' if met else 'no'} |"
        for peer in peers:
            met = ours.kept_up and (ours.p50_ms < peer.p50_ms or not peer.kept_up)
            yield f"| {sink}: p50 below that of {peer.title.split(',')[0]} | {peer.median} | {'yes' if met else 'no'} |"
