"""An error that leaves a step on a worker carries the mark of the driver, by which the driver knows it."""

from __future__ import annotations

import pytest
from apache_beam.internal import pickler

from beam_exactly_once import errors
from beam_exactly_once.errors import Fenced, find_in_text, leaving_step, mark_errors
from beam_exactly_once.transforms.stateless import StatelessDoFn


def test_a_worker_marks_errors_as_its_driver_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beam's worker loads a step, pickles it once more with the windows of its input, and loads that."""
    monkeypatch.setattr(errors, "_mark", "")
    mark_errors("of-the-driver")
    sent = pickler.dumps(StatelessDoFn())

    mark_errors("of-the-worker")
    sent_again = pickler.dumps(pickler.loads(sent))
    mark_errors("of-the-worker")
    pickler.loads(sent_again)
    with pytest.raises(Fenced) as raised, leaving_step():
        raise Fenced("replaced")

    text = f"beam_exactly_once.errors.Fenced: {raised.value}"
    mark_errors("of-the-driver")
    assert type(find_in_text(text)) is Fenced
