"""A TCP forwarder: gives a server an address of its own on the loopback interface."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from typing import Any


class Forwarder:
    """Forwards connections to ``host:port`` on to ``127.0.0.1:to_port`` until it is closed."""

    def __init__(self, host: str, port: int, to_port: int) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", to_port)) as onward:
                    there = threading.Thread(target=_pump, args=(self.request, onward), daemon=True)
                    there.start()
                    _pump(onward, self.request)
                    there.join()

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server((host, port), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Accept no more."""
        self._server.shutdown()
        self._server.server_close()


def _pump(source: Any, target: Any) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
    # Both ways: a connection that is closed on one side is of no use to gRPC.
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
