"""Apache Flink for tests: a standalone cluster of plain Java processes, each task manager with a pool of Python workers;
and Beam's job server for it. From the jars that Maven resolves; needs Java 17.

The registry that this was made with had no job server as one jar, and no Flink runner of Beam's newest versions: this is
the newest version of which all parts were there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from services.launch.built import built, run_build
from services.launch.forwarder import Forwarder
from services.launch.server import START_TIMEOUT_S, Server, Service, free_ports

TASK_MANAGERS = 2
SHARED_SLOTS = 4
"""Of each task manager of a cluster for several processes of tests, so that no job waits for another one."""
PRELOADED = ["beam_exactly_once.object_store.s3"]
WORKER_POOL = [sys.executable, "-m", "beam_exactly_once", "worker-pool", *(f"--preload={name}" for name in PRELOADED)]
POOL_HOST = "beam-worker-pool"
"""What every task manager calls the pool of its own machine."""

_PROJECT = Path(__file__).parents[3] / "deploy" / "flink"
"""Makes the job server and the folder of jars, as the guide tells users to."""
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_OPENED = ("java.lang", "java.net", "java.nio", "java.time", "java.util")
"""To what decodes and copies values; an installed Flink opens them itself."""
_JAVA = [
    "java",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED),
]
_CLUSTER = """jobmanager.rpc.address: 127.0.0.1
jobmanager.rpc.port: {rpc_port}
jobmanager.bind-host: 127.0.0.1
rest.address: 127.0.0.1
rest.port: {rest_port}
rest.bind-address: 127.0.0.1
blob.server.port: {blob_port}
jobmanager.memory.process.size: 1024m
parallelism.default: {task_managers}
io.tmp.dirs: {folder}
heartbeat.interval: 1000
heartbeat.timeout: 10000
slot.request.timeout: 30000
classloader.resolve-order: parent-first
jobstore.max-capacity: 20
"""
_TASK_MANAGER_ONLY = """taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.numberOfTaskSlots: {slots}
taskmanager.cpu.cores: 1.0
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 64m
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 0m
taskmanager.memory.managed.size: 64m
taskmanager.memory.network.min: 256m
taskmanager.memory.network.max: 256m
taskmanager.network.sort-shuffle.min-buffers: 64
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 64m
taskmanager.memory.jvm-overhead.max: 64m
"""


def _made() -> Path:
    """The folder of the job server, and of the jars of Flink and of Beam's runner beside it; downloaded at first use."""
    sources = [_PROJECT / name for name in ("pom.xml", "UnstagedJars.java")]

    def make(folder: Path) -> None:
        for source in sources:
            shutil.copy(source, folder)
        run_build(["mvn", "-B", "-q", "package"], folder)

    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:8]
    return built(f"flink-{digest}", make) / "target"


def job_server_jar() -> Path:
    """One jar that starts Beam's job server."""
    return _made() / "job-server.jar"


class Flink(Service):
    """One job manager, two task managers with slots and a pool of Python workers each; a context manager.

    Every process can be killed, with all that it started, and started again.

    Args:
        modules: a folder of modules that only the Python workers find.
        worker_pool: what starts a pool, besides its ``--port``.
        slots: of each task manager.
    """

    def __init__(
        self, modules: Path | None = None, worker_pool: Sequence[str] = WORKER_POOL, *, slots: int = 1
    ) -> None:
        self._class_path = f"{job_server_jar().parent}/libs/*"
        paths = [str(modules or ""), os.environ.get("PYTHONPATH", "")]
        self._worker_environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self._pool_command = worker_pool
        self._slots = slots
        rpc_port, self._rest_port, blob_port, self._pool_port, *self._pool_ports = free_ports(4 + TASK_MANAGERS)
        self.master = f"127.0.0.1:{self._rest_port}"
        self.worker_pool = f"{POOL_HOST}:{self._pool_port}"
        self._job_manager = Server("flink-job-manager")
        self._task_managers = [Server(f"flink-task-manager-{index}") for index in range(TASK_MANAGERS)]
        self._pools = [Server(f"beam-workers-{index}") for index in range(TASK_MANAGERS)]
        self._forwarders: list[Forwarder] = []
        self._ports = {"rpc_port": rpc_port, "rest_port": self._rest_port, "blob_port": blob_port}
        try:
            self._start()
        except BaseException:
            self.stop(keep_log=True)
            raise

    def _start(self) -> None:
        for index, port in enumerate(self._pool_ports):
            self._forwarders.append(Forwarder(_pool_address(index), self._pool_port, port))
            self.start_worker_pool(index)
        self.start_job_manager()
        for index in range(TASK_MANAGERS):
            self.start_task_manager(index)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that say where it is."""
        return {
            "FLINK_MASTER": self.master,
            "FLINK_JOB_SERVER_JAR": str(job_server_jar()),
            "BEAM_WORKER_POOL": self.worker_pool,
        }

    def start_task_manager(self, index: int) -> None:
        """Start it, and wait for its slots."""
        server = self._task_managers[index]
        # Whoever has this file knows no other names.
        (server.folder / "hosts").write_text(
            f"127.0.0.1 localhost {socket.gethostname()}\n{_pool_address(index)} {POOL_HOST}\n"
        )
        self._wait_slots()
        slots = self._running_slots + self._slots
        self._start_java(
            server, _TASK_MANAGER_ONLY.format(slots=self._slots), [_TASK_MANAGER], slots, "-Djdk.net.hosts.file=hosts"
        )

    @property
    def _running_slots(self) -> int:
        return self._slots * sum(server.is_running for server in self._task_managers)

    def _wait_slots(self) -> None:
        """Until the job manager knows of those task managers that run, and of no other."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while self.overview()["slots-total"] != self._running_slots:
            assert time.monotonic() < deadline_s, "the job manager still knows of a task manager that is gone"
            time.sleep(0.1)

    def kill_task_manager(self, index: int) -> None:
        """SIGKILL it."""
        self._task_managers[index].kill()

    def start_job_manager(self) -> None:
        """Start it, and wait until the task managers that run have found it."""
        self._start_java(self._job_manager, "", [_JOB_MANAGER, "--host", "127.0.0.1"], self._running_slots)

    def kill_job_manager(self) -> None:
        """SIGKILL it; it has no memory."""
        self._job_manager.kill()

    def worker_pool_pid(self, index: int) -> int:
        """Of the process whose descendants are the workers."""
        return self._pools[index].pid

    def start_worker_pool(self, index: int) -> None:
        """Start it, and wait until it listens."""
        port = self._pool_ports[index]
        self._pools[index].start(
            [*self._pool_command, f"--port={port}"], self._worker_environment, lambda: _listens(port)
        )

    def kill_worker_pool(self, index: int) -> None:
        """SIGKILL it and its workers."""
        self._pools[index].kill()

    def overview(self) -> dict[str, Any]:
        """Flink's own: slots and jobs."""
        with urllib.request.urlopen(f"http://{self.master}/overview", timeout=5.0) as answer:
            found: dict[str, Any] = orjson.loads(answer.read())
            return found

    def _start_java(self, server: Server, more_config: str, main: list[str], slots: int, *more_java: str) -> None:
        def is_ready() -> bool:
            try:
                return bool(self.overview()["slots-total"] == slots)
            except (urllib.error.URLError, OSError):
                return False

        config = _CLUSTER.format(folder=server.folder, task_managers=TASK_MANAGERS, **self._ports) + more_config
        (server.folder / "flink-conf.yaml").write_text(config)
        main = [main[0], "-c", str(server.folder), *main[1:]]
        server.start([*_JAVA, "-Xmx512m", *more_java, "-cp", self._class_path, *main], {}, is_ready)

    def destroy(self) -> None:
        """SIGKILL everything at once."""
        for server in [*self._task_managers, *self._pools, self._job_manager]:
            server.kill()

    def stop(self, *, keep_log: bool = False) -> None:
        """End everything; twice does no harm."""
        for server in [*self._task_managers, *self._pools, self._job_manager]:
            server.kill()
            server.stop(keep_log=keep_log)
        for forwarder in self._forwarders:
            forwarder.close()
        self._forwarders.clear()


class SharedFlink(Service):
    """A cluster for many tests at once, with a job server that serves all their streams; a context manager."""

    def __init__(self) -> None:
        self._cluster = Flink(Path(__file__).parents[2], slots=SHARED_SLOTS)  # which has the steps of tests
        self._job_server = Server("flink-job-server")
        self._port, artifact_port, expansion_port = free_ports(3)
        ports = f"--job-port={self._port} --artifact-port={artifact_port} --expansion-port={expansion_port}".split()
        folder = f"--artifacts-dir={self._job_server.folder}"
        jar = ["-Djava.system.class.loader=UnstagedJars", "-jar", str(job_server_jar())]
        command = [*_JAVA, "-Xmx700m", *jar, f"--flink-master=http://{self._cluster.master}", folder, *ports]
        try:
            self._job_server.start(command, {}, lambda: _listens(self._port))
        except BaseException:
            self.stop(keep_log=True)
            raise

    @property
    def environment(self) -> dict[str, str]:
        """Variables that say where it is."""
        return {**self._cluster.environment, "FLINK_JOB_ENDPOINT": f"localhost:{self._port}"}

    def stop(self, *, keep_log: bool = False) -> None:
        """End everything; twice does no harm."""
        self._job_server.stop(keep_log=keep_log)
        self._cluster.stop(keep_log=keep_log)


def _pool_address(index: int) -> str:
    return f"127.0.0.{2 + index}"


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
