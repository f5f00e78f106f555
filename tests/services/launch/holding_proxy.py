"""A proxy before a Kafka broker that keeps back a chosen request, and lets it arrive later, as a network may."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading

END_TXN = 26
"""Kafka's number of the request that ends a transaction."""
ANSWER_TIMEOUT_S = 120.0


class HoldingProxy:
    """Hands requests and answers on; a broker that is told to advertise ``port`` is reached only through it.

    What is held reaches the broker when it is released, also after its sender is gone.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.broker_port = 0
        """Where the broker listens; to be set once it is known."""
        self._holding = False
        self._held: tuple[socket.socket, bytes] | None = None
        self._late_answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._accept, daemon=True).start()

    def hold_next_end(self) -> None:
        """Keep back the next request that ends a transaction, and what follows it on its connection."""
        self._holding = True

    @property
    def holds(self) -> bool:
        """Whether it keeps one."""
        return self._held is not None

    def release(self) -> int:
        """Let the broker have it; returns the code of its answer, 0 for success."""
        assert self._held is not None
        server, request = self._held
        server.sendall(request)
        answer = self._late_answers.get(timeout=ANSWER_TIMEOUT_S)
        self._held = None
        # The size, the correlation id, a byte for tags from version 3 on, the time of throttling, the code.
        (version,) = struct.unpack(">h", request[6:8])
        (code,) = struct.unpack_from(">h", answer, 4 + 4 + (1 if version >= 3 else 0) + 4)
        return int(code)

    def close(self) -> None:
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if not self.broker_port:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self.broker_port))
                threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answers, args=(server, client), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (request := _frame(client)) is not None:
                if self._holding and struct.unpack(">h", request[4:6]) == (END_TXN,):
                    self._holding, self._held = False, (server, request)
                    return
                server.sendall(request)
            server.shutdown(socket.SHUT_RDWR)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (answer := _frame(server)) is not None:
                if self._held is not None and self._held[0] is server:
                    self._late_answers.put(answer)
                else:
                    client.sendall(answer)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


def _frame(source: socket.socket) -> bytes | None:
    """One request or answer with its size; None at the end."""
    head = _exactly(source, 4)
    body = None if head is None else _exactly(source, struct.unpack(">i", head)[0])
    return None if head is None or body is None else head + body


def _exactly(source: socket.socket, count: int) -> bytes | None:
    received = bytearray()
    while len(received) < count:
        chunk = source.recv(count - len(received))
        if not chunk:
            return None
        received += chunk
    return bytes(received)
