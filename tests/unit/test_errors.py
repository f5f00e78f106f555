"""The error tree: what the docstring draws is what is there, and errors survive the way through a runner."""

from __future__ import annotations

import inspect
import pickle
import re
import traceback

import pytest

from beam_exactly_once import errors
from beam_exactly_once.errors import (
    BeamExactlyOnceError,
    ConfigurationError,
    DataLoss,
    Fenced,
    KafkaUnavailable,
    find_in_text,
    known_error,
    leaving_step,
    mark_errors,
)

MARK = "5ca1ab1e"


@pytest.fixture(autouse=True)
def marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_mark", "")
    mark_errors(MARK)


def left_a_step(error: BeamExactlyOnceError) -> BeamExactlyOnceError:
    """As Beam makes it anew at the end of a step."""
    made = type(error)(f"{error} [while running 'Write']")
    made._tagged_with_step = True
    return made


ERROR_CLASSES = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, BeamExactlyOnceError)]

EXIT_CODES = {
    "BeamExactlyOnceError": 1,
    "ConfigurationError": 2,
    "Fenced": 3,
    "DataLoss": 4,
    "CheckpointError": 5,
    "Retryable": 75,
}
"""What shell scripts and schedulers rely on: a changed number breaks them."""


def tree_of_docstring() -> dict[str, str]:
    """``{class: its parent}`` as drawn."""
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"\s+(?:[│├└─ ]*)(\w+)(?:\s|$)", line)
        if match is None:
            continue
        column, name = match.start(1), match.group(1)
        above = [(left, parent) for left, parent in above if left < column]
        drawn[name] = above[-1][1] if above else "Exception"
        above.append((column, name))
    return drawn


def test_the_tree_drawn_in_the_docstring_is_the_real_tree() -> None:
    assert tree_of_docstring() == {one.__name__: one.__bases__[0].__name__ for one in ERROR_CLASSES}


@pytest.mark.parametrize("error_class", ERROR_CLASSES)
def test_every_class_takes_exactly_one_message(error_class: type[BeamExactlyOnceError]) -> None:
    assert str(error_class("partition orders-3 is gone")) == "partition orders-3 is gone"
    assert list(inspect.signature(error_class).parameters) == ["message"]


@pytest.mark.parametrize("error_class", ERROR_CLASSES)
def test_every_class_pickles(error_class: type[BeamExactlyOnceError]) -> None:
    copy = pickle.loads(pickle.dumps(error_class("partition orders-3 is gone")))
    assert type(copy) is error_class
    assert copy.args == ("partition orders-3 is gone",)


@pytest.mark.parametrize("error_class", ERROR_CLASSES)
def test_every_class_says_what_it_means(error_class: type[BeamExactlyOnceError]) -> None:
    assert error_class.__doc__ is not None
    assert "__doc__" in vars(error_class)


@pytest.mark.parametrize("error_class", ERROR_CLASSES)
def test_a_class_exits_as_the_branch_it_is_on(error_class: type[BeamExactlyOnceError]) -> None:
    nearest = next(one for one in error_class.__mro__ if one.__name__ in EXIT_CODES)
    assert error_class.exit_code == EXIT_CODES[nearest.__name__]


@pytest.mark.parametrize("error_class", ERROR_CLASSES)
def test_every_class_is_found_in_the_text_of_its_traceback(error_class: type[BeamExactlyOnceError]) -> None:
    try:
        raise left_a_step(error_class("partition orders-3: next offset 15 is gone; use a new checkpoint_location"))
    except BeamExactlyOnceError:
        found = find_in_text(traceback.format_exc())
    assert type(found) is error_class
    assert (
        str(found)
        == "partition orders-3: next offset 15 is gone; use a new checkpoint_location [while running 'Write']"
    )


def test_the_error_that_came_last_is_found() -> None:
    try:
        try:
            raise left_a_step(KafkaUnavailable("no broker at localhost:9092"))
        except KafkaUnavailable as cause:
            raise left_a_step(Fenced("writer 8 goes on")) from cause
    except Fenced:
        found = find_in_text(traceback.format_exc())
    assert type(found) is Fenced
    assert str(found) == "writer 8 goes on [while running 'Write']"


def test_an_error_is_found_in_a_runners_error() -> None:
    worker_text = (
        "Error processing instruction 7. Original traceback is\n"
        "Traceback (most recent call last):\n"
        '  File "read.py", line 12, in process\n'
        "    raise DataLoss(message)\n"
        f"beam_exactly_once.errors.DataLoss: {MARK} partition orders-3 lost 5 offsets\n"
        "\n"
        "During handling of the above exception, another exception occurred:\n"
        "\n"
        "RuntimeError: bundle failed\n"
    )
    found = find_in_text(f"RuntimeError: {worker_text}")
    assert type(found) is DataLoss
    assert str(found) == "partition orders-3 lost 5 offsets"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "RuntimeError: bundle failed",
        f"beam_exactly_once.errors.NoSuchClass: {MARK} text",
        f"beam_exactly_once.errors.re: {MARK} a module of errors.py, but no error",
        f"beam_exactly_once.errors.EXIT_DONE: {MARK} a number of errors.py, but no error",
        f"beam_exactly_once.errors.annotations: {MARK} text",
        f"someones_fork.errors.DataLoss: {MARK} text",
        "beam_exactly_once.errors.DataLoss: a record says so",
        "ValueError: bad row\nbeam_exactly_once.errors.Fenced: 0badcafe a record says so",
    ],
)
def test_text_without_an_error_of_ours_has_none(text: str) -> None:
    assert find_in_text(text) is None


def test_without_a_mark_nothing_is_found() -> None:
    mark_errors("")
    assert find_in_text("beam_exactly_once.errors.DataLoss:  a record says so") is None


def test_what_only_looks_like_an_error_hides_none() -> None:
    text = (
        f"beam_exactly_once.errors.ConfigurationError: {MARK} no topics\n"
        f"beam_exactly_once.errors.NoSuchClass: {MARK} text\n"
        "beam_exactly_once.errors.Fenced: a record says so"
    )
    assert type(find_in_text(text)) is ConfigurationError


def test_an_error_that_arrives_whole_shows_no_mark() -> None:
    error = left_a_step(DataLoss("gone"))
    assert str(error) == f"{MARK} gone [while running 'Write']"
    assert known_error(error) is error
    assert str(error) == "gone [while running 'Write']"
    assert known_error(ValueError("beam_exactly_once.errors.DataLoss: gone")) is None


def test_an_error_that_leaves_a_splittable_step_is_found() -> None:
    try:
        with leaving_step():
            raise DataLoss("gone")
    except DataLoss:
        found = find_in_text(traceback.format_exc())
    assert (type(found), str(found)) == (DataLoss, "gone")
