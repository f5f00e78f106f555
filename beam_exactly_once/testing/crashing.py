"""Kill a pipeline before or after a chosen call to an object store, to see that its next start loses and repeats nothing.

    python -m beam_exactly_once.testing.crashing --kill_after put_if_absent:commits/:1 \\
        beam_exactly_once.pipelines.kafka_to_files --bootstrap-servers …

runs the module in this process and SIGKILLs the process right after the first marker was written, between
commit and publish. ``--kill_after any::17`` means after the 17th call of any kind. ``--kill_before`` kills it right
before a call, which is then never made.
"""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from beam_exactly_once.object_store import (
    ObjectEntry,
    ObjectStore,
    PutResult,
    StagedObject,
    StagingWriter,
    open_object_store,
    override_stores,
)

ANY = "any"
READS = frozenset({"check_reachable", "get", "get_range", "list", "list_staged", "size_bytes"})
"""Methods that change nothing: who dies after one leaves what it would have left before it."""


@dataclass(frozen=True, slots=True)
class KillPoint:
    """After the ``occurrence``-th call of ``method`` on a key that begins with ``key_prefix``, counted from 1; or before it."""

    method: str
    key_prefix: str
    occurrence: int
    is_before: bool = False

    @classmethod
    def parse(cls, text: str) -> KillPoint:
        """After ``method:key_prefix:occurrence``; the method may be ``any``."""
        method, key_prefix, occurrence = text.split(":")
        return cls(method, key_prefix, int(occurrence))

    @classmethod
    def parse_before(cls, text: str) -> KillPoint:
        """The same, before that call."""
        return replace(cls.parse(text), is_before=True)

    def __str__(self) -> str:
        return f"{self.method}:{self.key_prefix}:{self.occurrence}"


class StoreCalls:
    """Counts calls to all watched stores and runs ``on_kill`` after the one at the kill point, or before it."""

    def __init__(self, kill_point: KillPoint | None, on_kill: Callable[[], None]) -> None:
        self.log: list[tuple[str, str]] = []
        """Method and key of every call, in order."""
        self._kill_point = kill_point
        self._on_kill = on_kill
        self._seen = 0
        self._lock = threading.Lock()

    @contextmanager
    def made(self, method: str, key: str) -> Iterator[None]:
        """Around a call."""
        self._kill_if_reached(method, key, is_before=True)
        yield
        self.after(method, key)

    def after(self, method: str, key: str) -> None:
        """Note a call that was carried out."""
        with self._lock:
            self.log.append((method, key))
        self._kill_if_reached(method, key, is_before=False)

    def _kill_if_reached(self, method: str, key: str, *, is_before: bool) -> None:
        point = self._kill_point
        if (
            point is None
            or point.is_before != is_before
            or point.method not in (ANY, method)
            or not key.startswith(point.key_prefix)
        ):
            return
        with self._lock:
            self._seen += 1
            reached = self._seen == point.occurrence
        if reached:
            self._on_kill()


class WatchedStore(ObjectStore):
    """Hands every call on, and tells :class:`StoreCalls`."""

    def __init__(self, inner: ObjectStore, calls: StoreCalls) -> None:
        self._inner = inner
        self._calls = calls
        self.uri = inner.uri

    def put_if_absent(self, key: str, body: bytes) -> PutResult:
        """As the inner store."""
        with self._calls.made("put_if_absent", key):
            return self._inner.put_if_absent(key, body)

    def get(self, key: str) -> bytes | None:
        """As the inner store."""
        with self._calls.made("get", key):
            return self._inner.get(key)

    def get_range(self, key: str, start: int, size_bytes: int) -> bytes | None:
        """As the inner store."""
        with self._calls.made("get_range", key):
            return self._inner.get_range(key, start, size_bytes)

    def size_bytes(self, key: str) -> int | None:
        """As the inner store."""
        with self._calls.made("size_bytes", key):
            return self._inner.size_bytes(key)

    def written_at_ms(self, key: str) -> int | None:
        """As the inner store; nobody is told."""
        return self._inner.written_at_ms(key)

    def list(self, prefix: str = "", start_after: str = "", limit: int | None = None) -> Iterator[ObjectEntry]:
        """As the inner store; one call, however many entries."""
        with self._calls.made("list", prefix):
            return iter(list(self._inner.list(prefix, start_after, limit)))

    def delete(self, keys: Iterable[str]) -> None:
        """As the inner store."""
        keys = list(keys)
        with self._calls.made("delete", keys[0] if keys else ""):
            self._inner.delete(keys)

    def stage(self, final_key: str) -> StagingWriter:
        """As the inner store."""
        with self._calls.made("stage", final_key):
            return self._inner.stage(final_key)

    def takes(self, final_key: str) -> bool:
        """As the inner store."""
        return self._inner.takes(final_key)

    def publish(self, staged: StagedObject) -> bool:
        """As the inner store."""
        with self._calls.made("publish", staged.final_key):
            return self._inner.publish(staged)

    def discard(self, staged: StagedObject) -> None:
        """As the inner store."""
        with self._calls.made("discard", staged.final_key):
            self._inner.discard(staged)

    def list_staged(self, prefix: str = "") -> Iterator[StagedObject]:
        """As the inner store."""
        with self._calls.made("list_staged", prefix):
            return iter(list(self._inner.list_staged(prefix)))

    def check_reachable(self) -> None:
        """As the inner store."""
        with self._calls.made("check_reachable", ""):
            self._inner.check_reachable()

    def verify(self) -> None:
        """As the inner store."""
        with self._calls.made("verify", ""):
            self._inner.verify()

    def check_writable(self) -> None:
        """As the inner store."""
        with self._calls.made("check_writable", ""):
            self._inner.check_writable()


def watching(calls: StoreCalls) -> Any:
    """Context manager: every store that is opened inside it is watched."""

    def open_watched(uri: str, options: Mapping[str, Any] | None) -> ObjectStore:
        return WatchedStore(open_object_store(uri, options), calls)

    return override_stores(open_watched)


def main(argv: Sequence[str] | None = None) -> None:
    """Run a module as a program, with its stores watched."""
    parser = argparse.ArgumentParser(prog="python -m beam_exactly_once.testing.crashing")
    kill = parser.add_mutually_exclusive_group()
    for flag, parse in (("--kill_after", KillPoint.parse), ("--kill_before", KillPoint.parse_before)):
        kill.add_argument(flag, type=parse, dest="kill", metavar="METHOD:KEY_PREFIX:N")
    parser.add_argument("--log", default=None, metavar="FILE", help="write one line a store call, at the end")
    parser.add_argument("module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    flags = parser.parse_args(argv)
    calls = StoreCalls(flags.kill, lambda: os.kill(os.getpid(), signal.SIGKILL))
    sys.argv = [flags.module, *flags.arguments]
    try:
        with watching(calls):
            runpy.run_module(flags.module, run_name="__main__", alter_sys=True)
    finally:
        if flags.log is not None:
            with open(flags.log, "w", encoding="utf-8") as log:  # noqa: PTH123
                log.writelines(f"{method} {key}\n" for method, key in calls.log)


if __name__ == "__main__":
    main()
