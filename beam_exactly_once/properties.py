"""Java-style properties files, as Kafka's own tools read them. What stands in a line is never in a message."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from beam_exactly_once.errors import ConfigurationError


class PropertyLine(NamedTuple):
    """One ``key=value`` of a properties file and the number of the line it begins on, from 1."""

    line_number: int
    key: str
    value: str


def property_lines(path: str | os.PathLike[str]) -> list[PropertyLine]:
    """Read a Java-style properties file.

    ``key=value`` or ``key: value``; lines that begin with ``#`` or ``!`` are comments; a line that ends in a
    backslash goes on in the next one; ``\\t``, ``\\n``, ``\\r``, ``\\f``, ``\\uXXXX`` and ``\\\\`` are escapes.

    Raises:
        ConfigurationError: the file cannot be read, or a line is not a property; the line's number is named, its
            text is not, since it may be a secret.
    """
    name = os.fspath(path)
    properties: list[PropertyLine] = []
    for line_number, line in _logical_lines(read_text(name)):
        key, separator, value = _split_property(line)
        if not separator or not key:
            raise ConfigurationError(f"{name} line {line_number} is not of the form key=value")
        try:
            properties.append(PropertyLine(line_number, _unescape(key), _unescape(value)))
        except ValueError as error:
            raise ConfigurationError(f"{name} line {line_number} has a broken \\u escape") from error
    return properties


def read_text(path: str) -> str:
    """The text of a file of configuration.

    Raises:
        ConfigurationError: it cannot be read; what it holds is not told, since it may be a secret.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"  # the error itself would quote bytes of the secret
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise ConfigurationError(f"the file {path}, which a configuration names, cannot be read on this machine: {reason}")


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    waiting, first_number = "", 0
    for number, natural_line in enumerate(text.splitlines(), start=1):
        line = natural_line.lstrip(" \t\f")
        if not waiting and (not line or line[0] in "#!"):
            continue
        first_number = first_number if waiting else number
        backslashes = len(line) - len(line.rstrip("\\"))
        if backslashes % 2 == 1:
            waiting += line[:-1]
            continue
        yield first_number, waiting + line
        waiting = ""
    if waiting:
        yield first_number, waiting


def _split_property(line: str) -> tuple[str, str, str]:
    position = 0
    while position < len(line) and line[position] not in "=:":
        position += 2 if line[position] == "\\" else 1
    if position >= len(line):
        return line, "", ""
    return line[:position].rstrip(" \t\f"), line[position], line[position + 1 :].lstrip(" \t\f")


_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def _unescape(text: str) -> str:
    parts = text.split("\\")
    if len(parts) == 1:
        return text
    characters = iter(text)
    unescaped: list[str] = []
    for character in characters:
        if character != "\\":
            unescaped.append(character)
            continue
        escaped = next(characters, "")
        if escaped == "u":
            digits = "".join(next(characters, "") for _ in range(4))
            if len(digits) < 4:
                raise ValueError("a \\u escape needs four hexadecimal digits")
            unescaped.append(chr(int(digits, 16)))
        else:
            unescaped.append(_ESCAPES.get(escaped, escaped))
    return "".join(unescaped)
