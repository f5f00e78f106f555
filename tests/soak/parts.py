"""What a stream runs on, and what can be done to it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import psutil

from services.launch.flink import Flink
from services.launch.server import Server, free_ports
from services.streams.flink_streams import cluster_options
from soak.drivers import Drivers

AWAY_S = 3.0
"""How long a part that was killed is not there; whoever looks after it starts it again then."""
FROZEN_S = 8.0
"""How long a driver is frozen, while another one goes on."""
FOUND_TIMEOUT_S = 60.0
LIMITS_S: Mapping[str, float] = {"worker": 5.0, "task manager": 20.0}
OTHER_LIMIT_S = 30.0
"""The stream goes on within these seconds."""
Mend = Callable[[], object]
Break = Callable[[Drivers, random.Random], Mend]
"""Does a thing, and returns what mends it, which may take a while."""


def limit_s(fault: str) -> float:
    """Within how many seconds of it the stream goes on."""
    return LIMITS_S.get(fault, OTHER_LIMIT_S)


class Place:
    """A runner.

    Args:
        flags: of a driver on it.
        faults: what can be done to it, by name.
    """

    def __init__(self, flags: list[str], faults: Mapping[str, Break]) -> None:
        self.flags = flags
        self.faults: Mapping[str, Break] = {
            "driver": _kill_driver,
            "frozen driver": _freeze_driver,
            "two drivers": _second_driver,
            **faults,
        }


@contextlib.contextmanager
def prism(program: str) -> Iterator[Place]:
    """A Prism of each driver's own, and one pool of workers."""
    (port,) = free_ports(1)
    pool = Server("soak-worker-pool")

    def start() -> None:
        command = [sys.executable, "-m", "beam_exactly_once", "worker-pool", f"--port={port}"]
        pool.start(command, {}, lambda: _listens(port))

    def kill_pool(drivers: Drivers, chance: random.Random) -> Mend:
        pool.kill()
        return _after_a_while(start)

    flags = [
        "--runner=PrismRunner",
        f"--prism_location={program}",
        "--environment_type=EXTERNAL",
        f"--environment_config=localhost:{port}",
    ]
    start()
    try:
        yield Place(
            flags,
            {
                "worker": lambda drivers, chance: _kill_worker([pool.pid], chance),
                "worker pool": kill_pool,
                "Prism": lambda drivers, chance: _kill_child(drivers, lambda one: one.exe() == program),
            },
        )
    finally:
        pool.stop(keep_log=False)


@contextlib.contextmanager
def flink(parallelism: int) -> Iterator[Place]:
    """A cluster of two task managers, each with slots for the whole job, and a pool of workers beside each."""
    with Flink(slots=parallelism) as cluster:

        def kill_pool(drivers: Drivers, chance: random.Random) -> Mend:
            index = chance.randrange(2)
            cluster.kill_worker_pool(index)
            return _after_a_while(lambda: cluster.start_worker_pool(index))

        def kill_task_manager(drivers: Drivers, chance: random.Random) -> Mend:
            index = chance.randrange(2)
            cluster.kill_task_manager(index)
            return _after_a_while(lambda: cluster.start_task_manager(index))

        def kill_job_manager(drivers: Drivers, chance: random.Random) -> Mend:
            cluster.kill_job_manager()
            return _after_a_while(cluster.start_job_manager)

        options = cluster_options(
            cluster.master, cluster.worker_pool, cluster.environment["FLINK_JOB_SERVER_JAR"], parallelism
        )
        yield Place(
            options,
            {
                "worker": lambda drivers, chance: _kill_worker(
                    [cluster.worker_pool_pid(one) for one in range(2)], chance
                ),
                "worker pool": kill_pool,
                "task manager": kill_task_manager,
                "job manager": kill_job_manager,
                "job server": lambda drivers, chance: _kill_child(drivers, lambda one: one.name() == "java"),
            },
        )


def _kill_driver(drivers: Drivers, chance: random.Random) -> Mend:
    def kill() -> bool:
        drivers.newest.kill()
        return True

    return _as_soon_as_it_is_there(kill)


def _freeze_driver(drivers: Drivers, chance: random.Random) -> Mend:
    frozen = drivers.newest
    os.kill(frozen.pid, signal.SIGSTOP)
    drivers.start_another()

    def wake() -> None:
        time.sleep(FROZEN_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(frozen.pid, signal.SIGCONT)

    return wake


def _second_driver(drivers: Drivers, chance: random.Random) -> Mend:
    drivers.start_another()
    return _nothing


def _kill_worker(pools: list[int], chance: random.Random) -> Mend:
    """One that lives just now; between two batches there may be none."""

    def kill() -> bool:
        zygotes = [one for pool in pools for one in psutil.Process(pool).children()]
        workers = [one for zygote in zygotes for one in zygote.children()]
        if workers:
            chance.choice(workers).kill()
        return bool(workers)

    return _as_soon_as_it_is_there(kill)


def _kill_child(drivers: Drivers, is_it: Callable[[psutil.Process], bool]) -> Mend:
    """A process that the driver, or what it started, has started."""

    def kill() -> bool:
        found = [one for one in drivers.newest.children(recursive=True) if is_it(one)]
        for one in found:
            one.kill()
        return bool(found)

    return _as_soon_as_it_is_there(kill)


def _as_soon_as_it_is_there(kill: Callable[[], bool]) -> Mend:
    deadline_s = time.monotonic() + FOUND_TIMEOUT_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(psutil.Error):
            if kill():
                return _nothing
        time.sleep(0.01)
    raise AssertionError("what was to be killed does not come")


def _after_a_while(start: Callable[[], None]) -> Mend:
    def mend() -> None:
        time.sleep(AWAY_S)
        start()

    return mend


def _nothing() -> None:
    """What was killed is started again by the driver, or by who looks after drivers."""


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
