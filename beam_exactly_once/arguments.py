"""Arguments of streams, sources and sinks, checked where the user gives them: each message names argument, value and way out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from beam_exactly_once.errors import ConfigurationError


def one_of(argument: str, value: object, choices: Sequence[str], *, of: str = "") -> None:
    """Refuse what is not one of a few words.

    Args:
        argument: its name.
        value: what was given.
        choices: the words.
        of: what they are the words of, such as another argument's value.

    Raises:
        ConfigurationError: it is not.
    """
    if value not in choices or not isinstance(value, str):
        *first, last = map(repr, choices)
        where = f" for {of}" if of else ""
        raise ConfigurationError(f"{argument}={value!r} is not known{where}; use {', '.join(first)} or {last}.")


def true_or_false(argument: str, value: object) -> None:
    """Refuse what is not a bool.

    Raises:
        ConfigurationError: it is not.
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{argument}={value!r} must be True or False.")


def whole_number(argument: str, value: object, *, least: int = 1, most: int | None = None, none: str = "") -> None:
    """Refuse what is not a whole number from ``least`` to ``most``.

    Args:
        argument: its name.
        value: what was given.
        least: the least that is possible.
        most: the most; None for no end.
        none: what None means, such as "no limit"; empty if it is refused.

    Raises:
        ConfigurationError: it is not.
    """
    if value is None and none:
        return
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):  # type: ignore[operator] # it is an int
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigurationError(f"{argument}={value!r} must be a whole number {span}{_or_none(none)}.")


def seconds(argument: str, value: object, *, zero: bool = False, none: str = "") -> None:
    """Refuse what is not a duration.

    Args:
        argument: its name.
        value: what was given.
        zero: whether 0 is possible.
        none: what None means; empty if it is refused.

    Raises:
        ConfigurationError: it is not.
    """
    if value is None and none:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (0 <= value < math.inf) or (value == 0 and not zero):  # type: ignore[operator] # it is a number
        span = "of at least 0" if zero else "above 0"
        raise ConfigurationError(f"{argument}={value!r} must be a number of seconds {span}{_or_none(none)}.")


def names(argument: str, value: object, *, of: str = "columns") -> tuple[str, ...]:
    """``value`` as a list of different names.

    Raises:
        ConfigurationError: it is a plain string, or not a list of strings, or names one twice.
    """
    if isinstance(value, str):
        raise ConfigurationError(f"{argument}={value!r} must be a list of {of}: {argument}=[{value!r}].")
    if not isinstance(value, Sequence) or not all(isinstance(name, str) and name for name in value):
        raise ConfigurationError(f"{argument}={value!r} must be a list of names of {of}.")
    if len(set(value)) < len(value):
        raise ConfigurationError(f"{argument}={list(value)} names one of its {of} twice; name each once.")
    return tuple(value)


def location_of(argument: str, value: object, what: str) -> str:
    """``value`` as the URI of a folder.

    Raises:
        ConfigurationError: it is not text, or empty.
    """
    if not isinstance(value, str) or not value:
        raise ConfigurationError(
            f"{argument}={value!r} must be the URI of {what}: a path, s3://bucket/prefix or gs://bucket/prefix."
        )
    return value


def options_of(argument: str, value: object) -> dict[str, Any] | None:
    """``value`` as options by their names.

    Raises:
        ConfigurationError: it is not a mapping.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{argument}={type(value).__name__} must be a mapping of options: {argument}={{…}}.")
    return dict(value)


def _or_none(none: str) -> str:
    return f", or None for {none}" if none else ""
