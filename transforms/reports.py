"""What a commit gathers: the task, and what readers, sinks and rejecting steps report of each bundle."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, TypeAlias

import apache_beam as beam

from beam_exactly_once.checkpoint import Piece
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.checkpoint.source_times import Noted, noted_from_json, noted_to_json
from beam_exactly_once.state.state_list import StateChange
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.coders import JsonCoder, OneOfCoder, TaskCoder


class Report(abc.ABC):  # noqa: B024 (a union with a name that Beam can have a coder for)
    """A :class:`BatchTask`, a ``Piece``, a :class:`Committable`, a :class:`RejectedCount`, a ``StateChange``, a
    :class:`RowsSent` or :class:`TimesNoted`."""


Gathered: TypeAlias = tuple[str, Report]
"""A report under the one key by which a commit groups. Producers make it themselves: a step of its own would cost more than
small batches do."""


@dataclass(frozen=True, slots=True)
class Committable:
    """What a sink staged."""

    sink: str
    staged: Json
    """The sink's own JSON, with ``rows`` and ``size_bytes``."""

    def to_json(self) -> Json:
        """As it travels to the commit."""
        return {"sink": self.sink, "staged": self.staged}

    @classmethod
    def from_json(cls, sent: Json) -> Committable:
        """The inverse of :meth:`to_json`."""
        return cls(**sent)


@dataclass(frozen=True, slots=True)
class RejectedCount:
    """How many records a bundle of a step rejected."""

    step: str
    records: int

    def to_json(self) -> Json:
        """As it travels to the commit."""
        return {"step": self.step, "records": self.records}

    @classmethod
    def from_json(cls, sent: Json) -> RejectedCount:
        """The inverse of :meth:`to_json`."""
        return cls(**sent)


@dataclass(frozen=True, slots=True)
class RowsSent:
    """How many rows a bundle sent to an operator with state."""

    operator: str
    rows: int
    rows_late: int = 0
    """Rows that it did not send, since they came too late."""

    def to_json(self) -> Json:
        """As it travels to the commit."""
        return {"operator": self.operator, "rows": self.rows, "rows_late": self.rows_late}

    @classmethod
    def from_json(cls, sent: Json) -> RowsSent:
        """The inverse of :meth:`to_json`."""
        return cls(**sent)


@dataclass(frozen=True, slots=True)
class TimesNoted:
    """When the records happened that a bundle had of a source."""

    source: str
    noted: Noted

    def to_json(self) -> Json:
        """As it travels to the commit."""
        return {"source": self.source, "noted": noted_to_json(self.noted)}

    @classmethod
    def from_json(cls, sent: Json) -> TimesNoted:
        """The inverse of :meth:`to_json`."""
        return cls(sent["source"], noted_from_json(sent["noted"]))


for _member in (BatchTask, Piece, Committable, RejectedCount, StateChange, RowsSent, TimesNoted):
    Report.register(_member)


def gathered(report: Any) -> Gathered:
    """``report`` for the commit."""
    return "", report


def times_gathered(source: str, noted: Noted) -> list[Gathered]:
    """What was noted of a source, for the commit; nothing if there was no record."""
    return [gathered(TimesNoted(source, noted))] if noted else []


def whose(report: Any) -> str:
    """Who reported, for people: ``sink 'orders'``."""
    match report:
        case Piece():
            return f"source {report.source!r}"
        case TimesNoted():
            return f"the event time of source {report.source!r}"
        case Committable():
            return f"sink {report.sink!r}"
        case RejectedCount():
            return f"rejecting step {report.step!r}"
        case StateChange() | RowsSent():
            return f"operator {report.operator!r}"
        case _:
            return "the stream"


class _PieceCoder(JsonCoder):
    value_type = Piece


class _CommittableCoder(JsonCoder):
    value_type = Committable


class _RejectedCountCoder(JsonCoder):
    value_type = RejectedCount


class _StateChangeCoder(JsonCoder):
    value_type = StateChange


class _RowsSentCoder(JsonCoder):
    value_type = RowsSent


class _TimesNotedCoder(JsonCoder):
    value_type = TimesNoted


class ReportCoder(OneOfCoder):
    """Reports between workers."""

    value_type = Report
    members = (
        (BatchTask, TaskCoder()),
        (Piece, _PieceCoder()),
        (Committable, _CommittableCoder()),
        (RejectedCount, _RejectedCountCoder()),
        (StateChange, _StateChangeCoder()),
        (RowsSent, _RowsSentCoder()),
        (TimesNoted, _TimesNotedCoder()),
    )


beam.coders.registry.register_coder(Report, ReportCoder)
