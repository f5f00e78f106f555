"""Senders that try again until they are answered, and remember what they were told."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from support.wal.receiver_process import post
from wal_kills.receivers import TOKEN

ANSWER_TIMEOUT_S = 2.0


@dataclass
class Told:
    """What was sent, and what of it was answered 200. Values are all different."""

    acknowledged: set[bytes] = field(default_factory=set)
    with_id: set[bytes] = field(default_factory=set)
    sent: Counter[bytes] = field(default_factory=Counter)
    """How often each value went out."""
    duplicates: int = 0
    """Records that the log knew when they came again."""
    unknown: int = 0
    """Requests that were answered 503, or not."""

    def faults(self, logged: list[bytes]) -> list[str]:
        """Where the log is not what was told."""
        counts = Counter(logged)
        lost = [value for value in self.acknowledged if not counts[value]]
        twice = [
            value
            for value in self.acknowledged | self.with_id
            if counts[value] > (1 if value in self.with_id else self.sent[value])
        ]
        unknown = [value for value in counts if value not in self.sent]
        named = {"lost": lost, "too often": twice, "never sent": unknown}
        return [f"{len(values)} {name}, such as {values[0].decode()}" for name, values in named.items() if values]


class Senders:
    """Tasks that send one request after the other.

    Args:
        ports: where receivers are, the newest last; some requests go to older ones.
        chance: draws what is sent.
        token: of the sender.
        trust: whose certificates, if they speak TLS.
    """

    def __init__(
        self,
        ports: Callable[[], list[int]],
        chance: random.Random,
        token: str = TOKEN,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.told = Told()
        self.is_ending = False
        self._ports = ports
        self._chance = chance
        self._token = token
        self._trust = trust
        self._numbers = iter(range(10**9))

    async def send_for_ever(self) -> None:
        """One request after the other, until the end; the last one until it is answered."""
        while not self.is_ending:
            values = [b'{"n":%d}' % next(self._numbers) for _ in range(self._chance.choice([1, 1, 1, 4]))]
            has_id = self._chance.random() < 0.85
            request = self._request(values, b"order-%d" % next(self._numbers) if has_id else None)
            if has_id:
                self.told.with_id.update(values)
            tries = 2 if has_id and self._chance.random() < 0.1 else 1  # some of them at the same time
            await asyncio.gather(*(self._until_told(request, values, has_id) for _ in range(tries)))

    def _request(self, values: list[bytes], key: bytes | None) -> bytes:
        lines = [] if key is None else [f"Idempotency-Key: {key.decode()}"]
        if len(values) > 1:
            lines.append("Content-Type: application/x-ndjson")
        return post(b"\n".join(values), *lines, "Connection: close", token=self._token)

    async def _until_told(self, request: bytes, values: list[bytes], has_id: bool) -> None:
        while True:
            self.told.sent.update(values)
            answer = await self._answer(request)
            if answer is not None:
                assert answer["records"] == len(values)
                self.told.duplicates += answer["duplicates"]
                self.told.acknowledged.update(values)
            else:
                self.told.unknown += 1
            if answer is not None or not has_id:
                return

    async def _answer(self, request: bytes) -> dict[str, int] | None:
        """What a 200 says; None: unknown."""
        ports = self._ports()
        port = ports[-1] if self._chance.random() < 0.8 else self._chance.choice(ports)
        try:
            opening = asyncio.open_connection("127.0.0.1", port, ssl=self._trust)
            reader, writer = await asyncio.wait_for(opening, ANSWER_TIMEOUT_S)
        except (OSError, asyncio.TimeoutError):
            await asyncio.sleep(0.01)
            return None
        try:
            writer.write(request)
            data = await asyncio.wait_for(reader.read(), ANSWER_TIMEOUT_S)
        except (OSError, asyncio.TimeoutError):
            return None
        finally:
            writer.close()
        head, _, body = data.partition(b"\r\n\r\n")
        status = head[9:12]
        assert status in (b"200", b"503", b""), data
        found: dict[str, int] | None = json.loads(body) if status == b"200" and body else None
        return found
