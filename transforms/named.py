"""``Composite``, the base of the library's composites; ``NamedTransform``, one whose name is its identity in the checkpoint, and
its label in Beam."""

from __future__ import annotations

import apache_beam as beam
from apache_beam.typehints.decorators import IOTypeHints

from beam_exactly_once.checkpoint.layout import checked_name


class Composite(beam.PTransform):
    """A transform whose annotations are for people and checkers.

    Beam would read those of ``expand``, and knows none that is text: it takes each for anything, and says so in the log.
    Collections say their types themselves.
    """

    def default_type_hints(self) -> IOTypeHints:
        """None."""
        return IOTypeHints.empty()


class NamedTransform(Composite):
    """A transform that takes ``name=``.

    Two of a class need no ``"label" >>`` while their names differ: ``WriteToFiles(orders)``, ``WriteToFiles(rejected)``.

    Args:
        name: letters, digits, ``.``, ``_`` and ``-``; None while it is the only one of its kind.

    Raises:
        ConfigurationError: it is not a name.
    """

    def __init__(self, name: str | None) -> None:
        super().__init__()
        self._name = None if name is None else checked_name(name)

    def default_label(self) -> str:
        """The class, with the name if there is one."""
        kind = type(self).__name__
        return kind if self._name is None else f"{kind}({self._name})"
