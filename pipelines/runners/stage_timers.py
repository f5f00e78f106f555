"""Timers that the steps of a stage have set, and which of them are due next.

The input of a stage has ended when its first timer fires, so time goes from one timer to the next one. Beam's loop fires all
of a stage at once, and takes timers of two steps for those of one where both call them the same.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import execution, translations
from apache_beam.transforms.userstate import Timer
from apache_beam.utils.timestamp import Timestamp

_LOGGER = logging.getLogger(__name__)

ROUNDS_TO_WARN = 1000
"""After so many rounds somebody may ask why a batch does not end."""

Family: TypeAlias = tuple[str, str]
"""The name of a step, and that of a timer (or of a family of timers) of it."""
_When: TypeAlias = tuple[bool, Timestamp]
"""Event time comes before processing time: it is over when the input is."""


class StageTimers:
    """Timers of one stage.

    They fire in rounds. In a round is one step: the first one that has any, since what it makes may be input of the others.
    Of each of its keys, in each window, those fire that have the earliest time: what they set, clear or keep in state comes
    before all that is later.
    """

    def __init__(self, context: Any, manager: Any) -> None:
        self._context = context
        families = manager.stage_timer_outputs.items()
        self.outputs: dict[Family, tuple[bytes, Any]] = {
            family: (translations.create_buffer_id(str(number), "timers"), domain)
            for number, (family, (_, domain)) in enumerate(families)
        }
        """Where bundles write timers: in one place for each family, whatever others are called."""
        self._coders = {family: manager.get_timer_coder_impl(*family) for family in self.outputs}
        self._set: dict[str, dict[bytes, dict[tuple[Family, str], tuple[_When, bytes]]]] = {
            step: {} for step, _ in self.outputs
        }
        self._rounds = 0
        self._make_buffers()

    def take_written(self) -> None:
        """Note what bundles have set and cleared since the last call."""
        for family, (buffer_id, domain) in self.outputs.items():
            coder = self._coders[family]
            for encoded in self._context.timer_buffers[buffer_id]:
                for timer in coder.decode_all(encoded):
                    of_key = self._set[family[0]].setdefault(coder.encode(_key_and_window(timer)), {})
                    name = (family, timer.dynamic_timer_tag)
                    of_key.pop(name, None)
                    if not timer.clear_bit:
                        in_processing_time = domain == beam_runner_api_pb2.TimeDomain.PROCESSING_TIME
                        of_key[name] = ((in_processing_time, timer.fire_timestamp), coder.encode_nested(timer))
        self._make_buffers()

    def take_due(self) -> Mapping[Family, Sequence[bytes]]:
        """Those of the next round; none are left if there are none."""
        due: dict[Family, list[bytes]] = {}
        for step, of_step in self._set.items():
            for of_key in of_step.values():
                first = min((when for when, _ in of_key.values()), default=None)
                for family, tag in [name for name, (when, _) in of_key.items() if when == first]:
                    due.setdefault(family, []).append(of_key.pop((family, tag))[1])
            self._set[step] = {key: of_key for key, of_key in of_step.items() if of_key}
            if due:
                self._note_round(step)
                break
        return due

    def _make_buffers(self) -> None:
        for family, (buffer_id, _) in self.outputs.items():
            self._context.timer_buffers[buffer_id] = execution.ListBuffer(self._coders[family])

    def _note_round(self, step: str) -> None:
        self._rounds += 1
        if self._rounds % ROUNDS_TO_WARN == 0:
            _LOGGER.warning(
                "timers of step %r have fired %d times in this batch, one after the other. A batch ends when none is set any "
                "more: does a timer set itself again for ever?",
                step,
                self._rounds,
            )


def _key_and_window(timer: Timer) -> Timer:
    """What timers of one key in one window have in common."""
    return Timer(timer.user_key, "", timer.windows, True, None, None, None)
