"""``NamedTransform``: a source, sink or step whose name is its identity in the checkpoint, and its label in Beam."""

from __future__ import annotations

import apache_beam as beam

from beam_exactly_once.checkpoint.layout import checked_name


class NamedTransform(beam.PTransform):
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
