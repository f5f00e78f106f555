"""What a verification finds: checks, faults, notes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from beam_exactly_once.checkpoint.records import Json


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is not as it must be. The message names the way out."""

    where: str
    message: str


@dataclass(slots=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: what, for people and machines.
        examined: how many objects or batches were looked at.
        faults: what is wrong.
        notes: what is unusual and harmless.
    """

    name: str
    examined: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, where: str, message: str) -> None:
        """Add a fault."""
        self.faults.append(Fault(where, message))

    def to_json(self) -> Json:
        """For machines."""
        return {
            "name": self.name,
            "examined": self.examined,
            "faults": [{"where": fault.where, "message": fault.message} for fault in self.faults],
            "notes": self.notes,
        }


def listed(numbers: Iterable[int], max_names: int = 5) -> str:
    """``3 to 7, 9``: numbers in order, in spans."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    texts = [str(first) if first == last else f"{first} to {last}" for first, last in spans]
    more = f" and {len(texts) - max_names} more" if len(texts) > max_names else ""
    return ", ".join(texts[:max_names]) + more
