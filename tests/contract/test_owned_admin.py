"""A Kafka client is never destroyed in its own thread."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

from beam_exactly_once.kafka import owned_admin
from beam_exactly_once.kafka.owned_admin import OwnedAdmin


class Client:
    """Stands in for one."""


def test_garbage_that_is_collected_in_the_clients_thread_does_not_end_the_process() -> None:
    program = [sys.executable, "-m", "support.collecting_in_client_thread"]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    ended = subprocess.run(
        program, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("and alive\n")


def test_a_closed_client_is_gone_at_once() -> None:
    client = Client()
    seen = weakref.ref(client)
    admin = OwnedAdmin(lambda client=client: client)  # type: ignore[misc]
    assert admin.ask(lambda one: one) is client
    del client
    gc.collect()
    assert seen() is not None
    admin.close()
    admin.close()
    gc.collect()
    assert seen() is None


def test_a_client_that_nobody_closed_ends_when_the_next_is_opened() -> None:
    """Not when it is collected: that may be in its own thread."""
    before = len(owned_admin._clients)
    admin = OwnedAdmin(Client)  # type: ignore[arg-type]
    cycle = [admin]
    cycle.append(cycle)  # type: ignore[arg-type]
    del admin, cycle
    gc.collect()
    assert len(owned_admin._clients) == before + 1
    OwnedAdmin(Client).close()  # type: ignore[arg-type]
    assert len(owned_admin._clients) == before
