"""Secrets by reference: a configuration holds where a secret is, never the secret.

A :class:`SecretValue` is safe to print, to pickle and to store. It is resolved on the machine that opens the
connection, so every worker needs the variable or the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from beam_exactly_once.errors import ConfigurationError

_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")


@dataclass(frozen=True, slots=True)
class SecretValue:
    """A reference to a secret; make one with :func:`secret_from_env` or :func:`secret_from_file`.

    Args:
        source: What ``name`` is: an environment variable or a file.
        name: The variable's name or the file's path.
        key: For a file of ``key=value`` lines, which value; None means the whole file.
    """

    source: Literal["env", "file"]
    name: str
    key: str | None = None

    def resolve(self) -> str:
        """The secret itself, read now, here.

        Raises:
            ConfigurationError: the variable is not set, or the file cannot be read or lacks the key.
        """
        if self.source == "env":
            return _resolve_env(self.name)
        return _resolve_file(self.name, self.key)


def secret_from_env(name: str) -> SecretValue:
    """A secret that the environment variable ``name`` holds on the machine that uses it.

    Raises:
        ConfigurationError: ``name`` is empty.
    """
    if not name:
        raise ConfigurationError("secret_from_env needs the name of an environment variable, got an empty string")
    return SecretValue("env", name)


def secret_from_file(path: str | os.PathLike[str], key: str | None = None) -> SecretValue:
    """A secret that a file holds on the machine that uses it.

    Args:
        path: The file, in UTF-8. Without ``key`` its whole text is the secret, less one trailing newline.
        key: Take the value of this key from a Java-style properties file instead.

    Raises:
        ConfigurationError: ``path`` is empty.
    """
    name = os.fspath(path)
    if not name:
        raise ConfigurationError("secret_from_file needs the path of a file, got an empty string")
    return SecretValue("file", name, key)


def referenced(text: str) -> SecretValue | str:
    """What a flag or a property says: ``${env:NAME}`` and ``${file:/path}`` are secrets, other text is itself."""
    reference = _REFERENCE.fullmatch(text)
    if reference is None:
        return text
    source, name = reference.groups()
    return secret_from_env(name) if source == "env" else secret_from_file(name)


def _resolve_env(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise ConfigurationError(
            f"the environment variable {name}, which a configuration names as a secret, is not set on this machine; "
            "set it for the driver and for every worker"
        )
    return value


def _resolve_file(path: str, key: str | None) -> str:
    if key is None:
        return _read_text(path).removesuffix("\n").removesuffix("\r")
    found = [line.value for line in read_properties(path) if line.key == key]
    if not found:
        raise ConfigurationError(f"the file {path}, which a configuration names as a secret, has no line for {key}")
    return found[-1]


class PropertyLine(NamedTuple):
    """One ``key=value`` of a properties file and the number of the line it begins on, from 1."""

    line_number: int
    key: str
    value: str


def read_properties(path: str | os.PathLike[str]) -> list[PropertyLine]:
    """Read a Java-style properties file.

    ``key=value`` or ``key: value``; lines that begin with ``#`` or ``!`` are comments; a line that ends in a
    backslash goes on in the next one; ``\\t``, ``\\n``, ``\\r``, ``\\f``, ``\\uXXXX`` and ``\\\\`` are escapes.

    Raises:
        ConfigurationError: the file cannot be read, or a line is no property; the line's number is named, its
            text is not, since it may be a secret.
    """
    name = os.fspath(path)
    properties: list[PropertyLine] = []
    for line_number, line in _logical_lines(_read_text(name)):
        key, separator, value = _split_property(line)
        if not separator or not key:
            raise ConfigurationError(f"{name} line {line_number} is not of the form key=value")
        try:
            properties.append(PropertyLine(line_number, _unescape(key), _unescape(value)))
        except ValueError as error:
            raise ConfigurationError(f"{name} line {line_number} has a broken \\u escape") from error
    return properties


def _read_text(path: str) -> str:
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
