"""A source of a stream as plain data: all that planning asks of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.kafka import TopicSelection
from beam_exactly_once.logs.opening import LogSettings
from beam_exactly_once.planning.event_time import EventTime
from beam_exactly_once.planning.limits import BatchLimits
from beam_exactly_once.planning.start import Start
from beam_exactly_once.topics import OnDataLoss


@dataclass(frozen=True, slots=True)
class LogSource:
    """Topics of one log, where to begin in them, and how much of them a batch takes."""

    name: str
    settings: LogSettings
    selection: TopicSelection
    start: Start
    limits: BatchLimits
    on_data_loss: OnDataLoss
    event_time: EventTime | None = field(default=None, kw_only=True)

    @property
    def definition(self) -> Json:
        """What must not change while the checkpoint lives."""
        return dict(self.settings.definition)
