"""``StatelessDoFn``: the base of the library's DoFns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
from apache_beam import typehints
from apache_beam.typehints.decorators import IOTypeHints

from beam_exactly_once.errors import mark_errors, mark_of_errors
from beam_exactly_once.randomness import new_token

mark_errors(new_token())


class StatelessDoFn(beam.DoFn):
    """A DoFn that uses neither state nor timers of Beam, and says so.

    For every bundle Beam looks for them in the signatures of all methods that ``dir()`` shows, some thirty inherited ones,
    several times over. That is a tenth of the cost of a small batch.

    It brings the driver's mark of errors to the worker that runs it. Beam's worker pickles it once more before that, so the mark
    that it carries is the one that it brought, not the one that the worker had.
    """

    def __dir__(self) -> Iterable[str]:
        """No method that could ask for state or timers."""
        return []

    def __getstate__(self) -> dict[str, Any]:
        return {"fields": self.__dict__, "mark": mark_of_errors()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state["fields"])
        mark_errors(state["mark"])

    def default_type_hints(self) -> IOTypeHints:
        """Elements may be anything, until a step says what it gives: annotations are for people and checkers.

        Beam would read those of ``process``, and knows none that is text: it takes each for anything, and says so in the log.
        """
        return IOTypeHints.empty().with_output_types(typehints.Any)
