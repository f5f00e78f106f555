"""A receiver as a process: claims, listens, and ends without leaving a request unanswered."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.receiver.access import Access
from beam_exactly_once.receiver.app import ReceiverApp
from beam_exactly_once.receiver.forms import Form
from beam_exactly_once.receiver.keeper import Keeper
from beam_exactly_once.receiver.settings import ReceiverSettings

BACKLOG = 2048
_COLLECT_AFTER_OBJECTS = 20_000
"""Above what is on its way at a time: 700 are Python's own choice."""
_LOGGER = logging.getLogger(__name__)


def serve(
    settings: ReceiverSettings,
    *,
    on_listening: Callable[[str, int], None] = lambda host, port: None,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Receive until SIGTERM or SIGINT comes.

    Then it takes no more connections, answers what it has taken, and returns.

    Args:
        settings: all that it is told.
        on_listening: called with host and port when requests are taken.
        clock: tells when records arrived, and how old signatures are.

    Raises:
        ConfigurationError: it cannot be so, or the extra ``receive`` is not installed.
        Fenced: another receiver has claimed the partition. Requests that waited were answered with 503. Do not start again.
        UnsuitableStore, CorruptObject, StoreUnavailable: see ``WalWriter``.
    """
    try:
        import httptools  # noqa: F401 # uvicorn would go on without it, four times as slow
        import uvicorn  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "a receiver needs an HTTP server, which is not installed: pip install 'beam_exactly_once[receive]'."
        ) from None
    _run(_serve(settings, on_listening, clock))


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:  # not there on Windows
        asyncio.run(main)
    else:
        uvloop.run(main)


async def _serve(settings: ReceiverSettings, on_listening: Callable[[str, int], None], clock: Clock) -> None:
    import uvicorn

    from beam_exactly_once.receiver.protocol import Connection, sweep

    class Server(uvicorn.Server):
        def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override] # theirs raises them again
            return contextlib.nullcontext()

    tls = settings.tls()
    access = Access(
        tokens=settings.token,
        signature=settings.signature,
        signature_secrets=settings.signature_secret,
        certificates=settings.tls_client_ca is not None,
        anyone=settings.anyone,
        clock=clock,
    )
    form = Form(settings.id_header, settings.id_json_field, settings.keep_header, settings.max_record_bytes)
    listener = _listener(settings)
    keeper = Keeper(
        settings.location,
        partition=settings.partition,
        linger_s=settings.linger_s,
        id_window=settings.id_window,
        max_pending_bytes=settings.max_pending_bytes,
        ack_timeout_s=settings.ack_timeout_s,
        claim=settings.claim,
        takeover_after_s=settings.takeover_after_s,
        storage_options=settings.storage_options,
        clock=clock,
    )
    app = ReceiverApp(
        keeper,
        access,
        form,
        max_request_bytes=settings.max_request_bytes,
        max_held_bytes=settings.max_pending_bytes,
    )
    Connection.app, Connection.max_connections = app, settings.max_connections
    Connection.max_raw_bytes = 8 * settings.max_request_bytes
    config = uvicorn.Config(
        _no_application,
        http=Connection,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    config.load()
    config.ssl = tls
    server = Server(config)
    try:
        await keeper.start()
        with listener, _stopping(server):
            listener.listen(BACKLOG)
            on_listening(*listener.getsockname()[:2])
            _collect_rarely()
            sweeping = asyncio.create_task(sweep(server.server_state.connections, settings.request_timeout_s))
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            either: list[asyncio.Future[Any]] = [serving, keeper.ended]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            await serving
            sweeping.cancel()
    finally:
        await keeper.close()
    if keeper.ended.done():
        raise keeper.ended.result()


def _collect_rarely() -> None:
    """Requests leave nothing in cycles, and what is on its way fills a generation many times a second: looking through it, and
    through all that was imported, finds nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_OBJECTS, *gc.get_threshold()[1:])


def _no_application(*_: Any) -> None:
    """Uvicorn asks for one; connections answer by themselves."""


def _listener(settings: ReceiverSettings) -> socket.socket:
    """A socket that is bound, and does not listen yet: an address in use shows before the partition is claimed."""
    host, port = settings.address
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise ConfigurationError(
            f"--listen {settings.listen!r} is no address to listen at: {error.strerror}."
        ) from None
    return listener


@contextlib.contextmanager
def _stopping(server: Any) -> Iterator[None]:
    """SIGTERM and SIGINT end the server, while it runs."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.should_exit = True

    try:
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, stop)
        yield
    except NotImplementedError:  # on Windows the interpreter ends it
        yield
    finally:
        for one in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(one)
