"""What the commands have in common: arguments, options, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from beam_exactly_once.checkpoint.records import Json

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _options(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str] | None:
    options = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE.")
        options[key] = value
    return options or None


def at_location(command: _Command) -> _Command:
    """The argument and option that name a checkpoint."""
    command = click.option(
        "--storage-options",
        multiple=True,
        callback=_options,
        metavar="KEY=VALUE",
        help="Option of the checkpoint's store, e.g. endpoint_url=http://localhost:9000. Repeatable.",
    )(command)
    return click.argument("location")(command)


def client_config(flag: str) -> Callable[[_Command], _Command]:
    """The options that say how to reach Kafka besides its address."""

    def add(command: _Command) -> _Command:
        command = click.option(
            f"{flag}-file",
            type=click.Path(exists=True, dir_okay=False),
            metavar="FILE",
            help="Kafka client properties; bootstrap.servers may stand there too.",
        )(command)
        return click.option(
            flag,
            multiple=True,
            callback=_options,
            metavar="KEY=VALUE",
            help="Kafka client property. ${env:NAME} and ${file:/path} are secrets. Repeatable.",
        )(command)

    return add


JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


def print_json(found: Json) -> None:
    """For machines, and for people who like it. With the standard library: to ``orjson`` an int has 64 bits."""
    sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
