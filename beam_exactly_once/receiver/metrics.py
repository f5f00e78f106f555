"""What the receiver counts, in the text that Prometheus reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

_PREFIX = "beam_exactly_once_receiver_"


class Metrics:
    """Counters of one receiver, all for one thread."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        """By status."""
        self.records = 0
        """Answered as durable, duplicates included."""
        self.duplicates = 0
        self.bytes = 0
        """Of bodies whose records are durable."""

    def text(self, gauges: Mapping[str, float]) -> bytes:
        """All of it, and what else is known now."""
        lines = [f"# TYPE {_PREFIX}requests_total counter"]
        lines += [f'{_PREFIX}requests_total{{status="{status}"}} {n}' for status, n in sorted(self.requests.items())]
        for name in ("records", "duplicates", "bytes"):
            lines += _one(f"{name}_total", "counter", getattr(self, name))
        for name, value in gauges.items():
            lines += _one(name, "counter" if name.endswith("_total") else "gauge", value)
        return ("\n".join(lines) + "\n").encode()


def _one(name: str, kind: str, value: float) -> Iterable[str]:
    return f"# TYPE {_PREFIX}{name} {kind}", f"{_PREFIX}{name} {value}"
