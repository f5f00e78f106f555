"""From the text of a flag to the value of an argument, by the argument's type.

    value_of("10", float)                       -> 10.0
    value_of("orders,payments", Sequence[str])  -> ["orders", "payments"]
    value_of("processing_time=10", Trigger)     -> ProcessingTime(10.0)

What begins with ``{`` or ``[`` is JSON. A value object is its class in snake_case, with ``=`` and its first argument where it
needs one; in JSON it is ``{"processing_time": {"argument": …}}``. ``${env:NAME}`` and ``${file:/path}`` are secrets.
"""

from __future__ import annotations

import datetime
import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import orjson

from beam_exactly_once.rows.iso_texts import moment_of
from beam_exactly_once.secrets import Secret, referenced

Kinds: TypeAlias = Mapping[str, Callable[..., Any]]
"""What makes the value objects that an argument takes, by their names in a flag."""

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "none",
    datetime.datetime: "a time with its zone, such as 2026-01-31T06:00:00Z",
    Secret: "${env:NAME} or ${file:/path}",
}
"""How the values of a type are written, for people."""


class Unreadable(ValueError):
    """A text is not a value of the type. The message goes on behind the flag's name."""


def value_of(text: str, hint: Any, kinds: Kinds) -> Any:
    """The value of type ``hint`` that ``text`` says.

    Raises:
        Unreadable: it says none.
    """
    members = members_of(hint)
    if text == "none" and type(None) in members:
        return None
    if text.startswith(("{", "[")):
        try:
            return converted(orjson.loads(text), hint, kinds)
        except orjson.JSONDecodeError as error:
            raise Unreadable(f"is not JSON ({error})") from None
    if any(is_list(member) for member in members):
        parts = [part.strip() for part in text.split(",")]
        return converted([part for part in parts if part], hint, kinds)
    return converted(text, hint, kinds)


def converted(given: Any, hint: Any, kinds: Kinds) -> Any:
    """A text, or what JSON holds, as a value of type ``hint``.

    Raises:
        Unreadable: it is none.
    """
    members = members_of(hint)
    if kinds and isinstance(given, (str, dict)):
        made = _made(given, kinds, _only_kind(members, kinds))
        if made is not None:
            return made
    if isinstance(given, str) and (Secret in members or Any in members):
        given = referenced(given)
    for member in members:
        fits, value = _as_member(given, member, kinds)
        if fits:
            return value
    raise Unreadable(f"must be {described(hint, kinds)}")


def described(hint: Any, kinds: Kinds) -> str:
    """What the values of a type look like, for people."""
    words = [_written(kind, make) for kind, make in kinds.items()]
    for member in members_of(hint):
        if get_origin(member) is Literal:
            words += [str(one) for one in get_args(member)]
        elif is_list(member):
            words.append("a list with commas")
            words += [_written(kind, make) for kind, make in known_kinds(get_args(member)[0]).items()]
        elif is_mapping(member):
            words.append("KEY=VALUE" if is_only_mapping(hint) else "JSON")
        elif member in _WORDS:
            words.append(_WORDS[member])
    words = list(dict.fromkeys(words))
    return " or ".join([*([", ".join(words[:-1])] if words[:-1] else []), *words[-1:]]) or "text"


def members_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union; the type itself if it is none."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(inner for member in get_args(hint) for inner in members_of(member))
    return (hint,)


def known_kinds(hint: Any) -> dict[str, Callable[..., Any]]:
    """The value objects that a type names itself."""
    found = [one for one in members_of(hint) if isinstance(one, type) and is_dataclass(one) and one is not Secret]
    return {re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", one.__name__).lower(): one for one in found}


def is_list(member: Any) -> bool:
    """Whether a type, which is not a union, is one of lists."""
    return _is_of(member, Sequence)


def is_mapping(member: Any) -> bool:
    """Whether a type, which is not a union, is one of mappings."""
    return _is_of(member, Mapping)


def is_only_mapping(hint: Any) -> bool:
    """Whether a type has nothing but mappings, so that ``KEY=VALUE`` can say them."""
    members = [member for member in members_of(hint) if member is not type(None)]
    return all(map(is_mapping, members)) and bool(members)


def arguments_of(make: Callable[..., Any]) -> dict[str, Any]:
    """The types of the arguments of a function or class, by name."""
    hints = get_type_hints(make.__init__ if isinstance(make, type) else make)  # type: ignore[misc]
    return {name: hints.get(name, str) for name in inspect.signature(make).parameters}


def _is_of(member: Any, kind: type) -> bool:
    origin = get_origin(member)
    return isinstance(origin, type) and issubclass(origin, kind)


def _only_kind(members: Sequence[Any], kinds: Kinds) -> str | None:
    """The kind that need not be said, since the type has no other values."""
    others = [member for member in members if member is not type(None) and member not in kinds.values()]
    return next(iter(kinds)) if len(kinds) == 1 and not others else None


def _made(given: str | dict[str, Any], kinds: Kinds, only: str | None) -> Any:
    """The value object that ``given`` says; None if it begins with no kind, unless there is one ``only``."""
    if isinstance(given, dict):
        kind, argument = next(iter(given.items())) if len(given) == 1 else ("", None)
        is_given = True
    else:
        kind, separator, argument = given.partition("=")
        is_given = bool(separator)
    if kind not in kinds and only is not None:
        kind, argument, is_given = only, given, True
    if kind not in kinds:
        return None
    make, hints = kinds[kind], arguments_of(kinds[kind])
    if (is_given and not hints) or (not is_given and _needed(make)):
        raise Unreadable(f"must be {_written(kind, make)}")
    named = argument if isinstance(argument, dict) else {_first(kind, make): argument} if is_given else {}
    unknown = sorted(named.keys() - hints.keys())
    if unknown:
        raise Unreadable(f"says {', '.join(unknown)} of {kind}, which has {', '.join(hints) or 'nothing to say'}")
    return make(**{name: converted(value, hints[name], known_kinds(hints[name])) for name, value in named.items()})


def _needed(make: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(make).parameters
    return [name for name, parameter in parameters.items() if parameter.default is parameter.empty]


def _first(kind: str, make: Callable[..., Any]) -> str:
    """The argument that needs no name.

    Raises:
        Unreadable: there is none.
    """
    parameters = inspect.signature(make).parameters.values()
    found = next((one.name for one in parameters if one.kind is not one.KEYWORD_ONLY), None)
    if found is None:
        arguments = ", ".join(f'"{one.name}": …' for one in parameters)
        raise Unreadable(f'must be {_written(kind, make)} or {{"{kind}": {{{arguments}}}}}')
    return found


def _written(kind: str, make: Callable[..., Any]) -> str:
    needed = _needed(make)
    return f"{kind}={needed[0].upper()}" if needed else kind


def _as_member(given: Any, member: Any, kinds: Kinds) -> tuple[bool, Any]:
    """Whether ``given`` is a value of a type that is not a union, and that value."""
    if get_origin(member) is Literal:
        return given in get_args(member), given
    if is_mapping(member) and isinstance(given, dict):
        key, value = get_args(member)
        return True, {converted(one, key, {}): converted(of_one, value, kinds) for one, of_one in given.items()}
    if is_list(member) and isinstance(given, list):
        item = get_args(member)[0]
        return True, [converted(one, item, {**known_kinds(item), **kinds}) for one in given]
    if isinstance(given, str):
        return _as_scalar(given, member)
    if member is Any:
        return True, given
    if isinstance(given, bool) or member in (bool, type(None), Secret):
        return type(given) is member, given
    # Python 3.10 takes Sequence[str] for a type.
    is_kind = get_origin(member) is None and isinstance(member, type)
    return is_kind and isinstance(given, (int, float) if member is float else member), given


def _as_scalar(text: str, member: Any) -> tuple[bool, Any]:
    """The same, of a text."""
    if member is bool:
        return text in ("true", "false"), text == "true"
    if member is datetime.datetime:
        return _as_moment(text)
    if member is int or member is float:
        try:
            return True, member(text)
        except ValueError:
            return False, None
    return member is str or member is Any, text


def _as_moment(text: str) -> tuple[bool, Any]:
    try:
        moment = moment_of(text)
    except ValueError:
        return False, None
    if moment.tzinfo is None:
        raise Unreadable(f"has no time zone: write {text}Z for UTC, or an offset such as {text}+02:00")
    return True, moment
