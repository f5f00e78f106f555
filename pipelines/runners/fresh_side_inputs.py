"""Side inputs that are asked for again in each run of a step that stays set up.

Beam 2.77 fills in the side inputs of a step when its first element comes, and never again as long as the step lives, where all
of them are in the global window. Of a step that lives on, that would be those of the first batch. Beam has a switch against it,
which a step reads when it is made. But that is one of the whole process, and every pipeline that is run turns it off.
"""

from __future__ import annotations

import threading

from apache_beam.options.value_provider import RuntimeValueProvider

_SWITCH = "disable_global_windowed_args_caching"


class FreshSideInputs:
    """Turns the switch on while somebody needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._on: set[str] = set()
        self._was_on = False

    def begin(self) -> set[str]:
        """Turn it on; returns what :meth:`end` is to be given."""
        with self._lock:
            self._inside += 1
            found = RuntimeValueProvider.experiments
            if found is not self._on:
                self._was_on = _SWITCH in found
                self._on = RuntimeValueProvider.experiments = {*found, _SWITCH}
            return self._on

    def end(self, begun: set[str]) -> bool:
        """Whether it was on all the time. If not, steps that were made since :meth:`begin` must not live on."""
        with self._lock:
            self._inside -= 1
            found = RuntimeValueProvider.experiments
            if not self._inside and found is self._on:
                RuntimeValueProvider.experiments = found if self._was_on else found - {_SWITCH}
            return found is begun


FRESH_SIDE_INPUTS = FreshSideInputs()
