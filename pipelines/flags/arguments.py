"""The arguments of streams, sources and sinks that are flags, as their signatures and docstrings say."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, Literal, get_args, get_origin

from beam_exactly_once.pipelines.flags.values import (
    Kinds,
    arguments_of,
    described,
    is_list,
    is_mapping,
    is_only_mapping,
    known_kinds,
    members_of,
)
from beam_exactly_once.pipelines.progress import JsonLinesListener, ProgressListener
from beam_exactly_once.rows.rejected import OnError

_LISTENERS: Kinds = {"json_lines": JsonLinesListener}


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument that is a flag."""

    name: str
    flag: str
    """With hyphens, as it is documented."""
    hint: Any
    kinds: Kinds
    is_required: bool
    help: str

    @property
    def is_mapping(self) -> bool:
        """Whether it is given as ``KEY=VALUE``, again and again."""
        return is_only_mapping(self.hint)

    @property
    def is_switch(self) -> bool:
        """Whether the flag alone says true."""
        return self.hint is bool


def flags_of(
    taker: Callable[..., Any],
    prefix: str = "",
    *,
    less: Collection[str] = (),
    optional: Collection[str] = (),
    kinds: Mapping[str, Kinds] | None = None,
    words: Mapping[str, Sequence[str]] | None = None,
) -> list[Argument]:
    """The arguments of a class or function that can be flags: not functions, schemas and other objects of Python.

    Args:
        taker: whose arguments.
        prefix: what their flags begin with, such as ``output-``.
        less: names of arguments that are not flags here.
        optional: names of arguments that need not be given although they have no default.
        kinds: the value objects of an argument, where its type does not name them.
        words: what an argument that is one of some words may say, too.
    """
    helps = _helps_of(taker)
    found = []
    for name, hint in arguments_of(taker).items():
        if words and name in words:
            hint = Literal[get_args(hint) + tuple(words[name])]
        of_argument = {**_kinds_of(hint), **(kinds or {}).get(name, {})}
        if name in less or hint == OnError or not (of_argument or _is_readable(hint)):
            continue
        parameter = inspect.signature(taker).parameters[name]
        is_required = parameter.default is parameter.empty and name not in optional
        text = f"{helps.get(name, '')} ({described(hint, of_argument)}{_default(parameter.default)})"
        found.append(
            Argument(name, f"--{prefix}{name.replace('_', '-')}", hint, of_argument, is_required, text.strip())
        )
    return found


def _kinds_of(hint: Any) -> dict[str, Callable[..., Any]]:
    found = known_kinds(hint)
    for member in members_of(hint):
        if is_list(member):
            item = get_args(member)[0]
            found.update(_LISTENERS if item == ProgressListener else known_kinds(item))
    return found


def _is_readable(hint: Any) -> bool:
    """Whether a text can say a value of the type."""
    return any(_is_readable_member(member) for member in members_of(hint))


def _is_readable_member(member: Any) -> bool:
    if is_list(member):
        return _is_readable(get_args(member)[0])
    if is_mapping(member):
        key, value = get_args(member)
        return key is str and (value is Any or _is_readable(value) or any(map(is_list, members_of(value))))
    return member in (bool, int, float, str) or get_origin(member) is Literal


def _default(default: Any) -> str:
    """The default, for ``--help``."""
    if default is inspect.Parameter.empty or default is None or (isinstance(default, Sequence) and not default):
        return ""
    if isinstance(default, bool):
        return f"; default: {str(default).lower()}"
    if is_dataclass(default):
        return f"; default: {next(iter(known_kinds(type(default))))}"
    return f"; default: {default}"


def _helps_of(taker: Callable[..., Any]) -> dict[str, str]:
    """What a docstring says of each argument, on one line."""
    section = (inspect.getdoc(taker) or "").partition("Args:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        match = re.match(r"    (\w+): (.*)", line)
        if match is not None:
            name = match[1]
        found[name] = f"{found.get(name, '')} {(match[2] if match else line).strip()}".strip()
    return {name: _plain(text) for name, text in found.items()}


def _plain(text: str) -> str:
    """Without the markup of docstrings."""
    return re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text).replace("``", "")
