"""``beam-exactly-once wal receive``: take requests over HTTP, and answer when their records are durable."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import click

from beam_exactly_once.cli.options import at_location
from beam_exactly_once.receiver.access import named_secret
from beam_exactly_once.receiver.settings import ReceiverSettings

_Command = TypeVar("_Command", bound=Callable[..., Any])
_DEFAULTS = {one.name: one.default for one in fields(ReceiverSettings) if one.default is not MISSING}
_FILE = click.Path(exists=True, dir_okay=False)


def _flag(name: str, kind: Any = None, metavar: str = "", help: str = "") -> Callable[[_Command], _Command]:
    """An option as the settings have it, with their default."""
    default = _DEFAULTS[name]
    if isinstance(default, bool):
        return click.option(f"--{name.replace('_', '-')}", is_flag=True, help=help)
    kind = kind or (str if default is None else type(default))
    return click.option(
        f"--{name.replace('_', '-')}",
        type=kind,
        default=default,
        show_default=default is not None,
        metavar=metavar or None,
        help=help,
    )


def _secrets(name: str, help: str) -> Callable[[_Command], _Command]:
    return click.option(
        f"--{name.replace('_', '-')}",
        multiple=True,
        metavar="[NAME=]${file:PATH}",
        callback=lambda _, __, texts: tuple(named_secret(name, text) for text in texts),
        help=help,
    )


@click.command(short_help="Take requests over HTTP into a write-ahead log.")
@at_location
@_flag("listen", metavar="HOST:PORT", help="Where. Port 0 takes a free one.")
@_flag("partition", help="Which one; one receiver each.")
@_secrets("token", "What Authorization: Bearer may say, and whose it is. Repeatable; several may have one NAME.")
@_flag("signature", metavar="KIND", help="github, stripe or hmac-sha256:HEADER: requests are signed.")
@_secrets("signature_secret", "What they are signed with, and whose it is. Repeatable.")
@_flag("anyone", help="Let everybody send.")
@_flag("tls_cert", _FILE, metavar="FILE", help="Certificate of this receiver, and those above it.")
@_flag("tls_key", _FILE, metavar="FILE", help="Its key.")
@_flag("tls_client_ca", _FILE, metavar="FILE", help="What signs certificates of clients; others cannot connect.")
@_flag("linger_s", help="How long a segment waits for more records. Fewer segments cost less, answers come later.")
@_flag("id_header", metavar="NAME", help="Header that holds the id of a request.")
@_flag("id_json_field", metavar="NAME", help="Field that holds the id of a record, instead.")
@click.option(
    "--keep-header", multiple=True, metavar="NAME", help="Header that becomes a header of the records. Repeatable."
)
@_flag("max_record_bytes", help="The largest record.")
@_flag("max_request_bytes", help="The largest request.")
@_flag("max_pending_bytes", help="What may wait for the store; more is answered with 503.")
@_flag("max_connections", help="At any time.")
@_flag("ack_timeout_s", help="How long a request waits for the store before it is answered with 503.")
@_flag("request_timeout_s", help="How long a request may take to come.")
@_flag("id_window", help="Among how many of the last offsets an id is recognised. It can only grow.")
@_flag("claim", click.Choice(["at-start", "at-first-request"]), help="When; the second way makes a cold standby.")
@_flag("takeover_after_s", help="So long the log must stand still before a standby claims it.")
def receive(**given: Any) -> None:
    """Take requests over HTTP into a write-ahead log, and answer 200 when their records are durable.

    POST /v1/records: the body is a record; with the type application/x-ndjson each of its lines is. GET /healthz, /readyz and
    /metrics. LOCATION is the log's; it is made if there is none.

    Ends by SIGTERM, with all requests answered. Exit code 3: another receiver has claimed the partition. Do not start this
    one again.
    """
    from beam_exactly_once.receiver.serving import serve

    logging.getLogger("beam_exactly_once").setLevel(logging.WARNING)
    settings = ReceiverSettings(**given)

    def on_listening(host: str, port: int) -> None:
        click.echo(f"receives at {host}:{port} into partition {settings.partition} of {settings.location}", err=True)

    serve(settings, on_listening=on_listening)
