"""From JSON to values of a declared type: dataclasses, TypedDicts, enums, and what holds them."""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from beam_exactly_once.errors import ConfigurationError

Build: TypeAlias = Callable[[Any], Any]
"""Makes a value out of what JSON says."""

_AS_IT_IS = (None, Any, type(None), bool, int, float, str, list, dict, object)
_MARKS = ("Required", "NotRequired", "ReadOnly")


class Misfit(ValueError):
    """JSON is not of the declared type. The message has names of fields and types, no values."""


def name_of(declared: Any) -> str:
    """Of a type, for people."""
    return declared.__qualname__ if isinstance(declared, type) and not typing.get_args(declared) else str(declared)


@functools.lru_cache(maxsize=256)
def builder_of(declared: Any) -> Build | None:
    """What makes values of a declared type; None if JSON already is one.

    Raises:
        ConfigurationError: values of it cannot be made out of JSON.
    """
    if any(declared is one for one in _AS_IT_IS):
        return None
    origin, arguments = typing.get_origin(declared), typing.get_args(declared)
    if origin is typing.Annotated or getattr(origin, "_name", None) in _MARKS:
        return builder_of(arguments[0])
    if origin is typing.Union or origin is types.UnionType:
        return _optional(declared, arguments)
    if origin is typing.Literal and all(type(one) in (str, int, bool, type(None)) for one in arguments):
        return None
    if origin is list or origin is Sequence:
        return _list_of(builder_of(arguments[0]))
    if origin in (dict, Mapping) and arguments[0] is str:
        return _dict_of(builder_of(arguments[1]))
    if origin is tuple:
        return _tuple_of(arguments)
    if isinstance(declared, type) and origin is None:
        if dataclasses.is_dataclass(declared):
            return _dataclass(declared)
        if hasattr(declared, "__required_keys__"):
            return _typed_dict(declared)
        if issubclass(declared, enum.Enum):
            return _enum(declared)
    raise ConfigurationError(
        f"JsonState: JSON cannot say {name_of(declared)}. Declare dataclasses, TypedDicts, enums, None, bool, int, float, str, "
        "and lists, tuples, or dicts by str, of such (moments as whole milliseconds); or use CoderState."
    )


def _optional(declared: Any, arguments: tuple[Any, ...]) -> Build | None:
    builders = [builder for builder in map(builder_of, arguments) if builder is not None]
    if not builders:
        return None
    if len(arguments) != 2 or type(None) not in arguments:
        raise ConfigurationError(
            f"JsonState: JSON does not say which type of {declared} a value is. Declare one, or None."
        )
    (build,) = builders
    return lambda value: None if value is None else build(value)


def _list_of(build: Build | None) -> Build | None:
    if build is None:
        return None
    return lambda value: list(map(build, _expected(list, value)))


def _dict_of(build: Build | None) -> Build | None:
    if build is None:
        return None
    return lambda value: {name: build(item) for name, item in _expected(dict, value).items()}


def _tuple_of(arguments: tuple[Any, ...]) -> Build:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        build = builder_of(arguments[0])
        return lambda value: tuple(_expected(list, value) if build is None else map(build, _expected(list, value)))
    builders = [builder_of(argument) for argument in arguments]

    def build_tuple(value: Any) -> tuple[Any, ...]:
        if len(_expected(list, value)) != len(builders):
            raise Misfit(f"a tuple of {len(builders)} has {len(value)} items")
        return tuple(item if build is None else build(item) for build, item in zip(builders, value, strict=True))

    return build_tuple


def _enum(declared: type[enum.Enum]) -> Build:
    def build_member(value: Any) -> enum.Enum:
        try:
            return declared(value)
        except ValueError:
            raise Misfit(f"no member of {declared.__qualname__} has this value") from None

    return build_member


def _typed_dict(declared: type) -> Build | None:
    builders = _field_builders(declared)
    if not builders:
        return None

    def build_dict(value: Any) -> dict[str, Any]:
        fields = dict(_expected(dict, value))
        for name, build in builders.items():
            if name in fields:
                fields[name] = build(fields[name])
        return fields

    return build_dict


def _dataclass(declared: type) -> Build:
    fields = dataclasses.fields(declared)
    for field in fields:
        if not field.init or not field.compare or field.name.startswith("_"):
            raise ConfigurationError(
                f"JsonState({declared.__qualname__}): field {field.name!r} has init=False, compare=False or an underscore, so it "
                "would not come back, or could change unseen. Leave it out of what is stored."
            )
    if not getattr(declared, "__dataclass_params__").eq:  # noqa: B009
        raise ConfigurationError(
            f"JsonState({declared.__qualname__}): it has eq=False, so what would come back cannot be compared. Leave that out."
        )
    builders = _field_builders(declared)
    names = frozenset(field.name for field in fields)

    def build_instance(value: Any) -> Any:
        stored = _expected(dict, value)
        if not names.issuperset(stored):
            # Not by their names: those of what once was a plain dict may be anybody's data.
            raise Misfit(f"it has fields ({len(stored.keys() - names)}) that {declared.__qualname__} has not")
        for name, build in builders.items():
            if name in stored:
                stored[name] = build(stored[name])
        try:
            return declared(**stored)
        except TypeError:
            missing = [field.name for field in fields if field.name not in stored and _has_no_default(field)]
            if not missing:
                raise
            raise Misfit(f"it has no {', '.join(missing)}, and {declared.__qualname__} gives no default") from None

    return build_instance


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _field_builders(declared: type) -> dict[str, Build]:
    try:
        hints = typing.get_type_hints(declared)
    except NameError as error:
        raise ConfigurationError(
            f"JsonState({declared.__qualname__}): its annotations name {error.name!r}, which its module has not. Define it there."
        ) from None
    builders = {name: builder_of(hint) for name, hint in hints.items()}
    return {name: build for name, build in builders.items() if build is not None}


def _expected(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise Misfit(f"where a {kind.__name__} is declared, it has a {type(value).__name__}")
    return value
