"""Apache Flink for tests: a standalone cluster of plain Java processes, each task manager with a pool of Python workers;
and Beam's job server for it. From the jars that Maven resolves; needs Java 17.

The registry that this was made with had no job server as one jar, and no Flink runner of Beam's newest versions: this is
the newest version of which all parts were there.
"""

from __future__ import annotations

import os
import socket
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from services.launch.built import built, run_build
from services.launch.forwarder import Forwarder
from services.launch.server import Server, Service, free_ports

FLINK_VERSION = "1.19"
BEAM_VERSION = "2.62.0"
"""Of the job server and of the code that it sends to Flink; the Python SDK may be newer."""
SLF4J_VERSION = "1.7.36"
TASK_MANAGERS = 2
POOL_HOST = "beam-worker-pool"
"""What every task manager calls the pool of its own machine."""

_DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>beam_exactly_once</groupId>
  <artifactId>flink-for-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.beam</groupId>
      <artifactId>beam-runners-flink-{FLINK_VERSION}</artifactId>
      <version>{BEAM_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId>
      <artifactId>slf4j-simple</artifactId>
      <version>{SLF4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""
_JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_JAVA = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
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
"""
_TASK_MANAGER_ONLY = """taskmanager.host: 127.0.0.1
taskmanager.bind-host: 127.0.0.1
taskmanager.numberOfTaskSlots: 1
taskmanager.cpu.cores: 1.0
taskmanager.memory.framework.heap.size: 128m
taskmanager.memory.framework.off-heap.size: 64m
taskmanager.memory.task.heap.size: 256m
taskmanager.memory.task.off-heap.size: 0m
taskmanager.memory.managed.size: 64m
taskmanager.memory.network.min: 128m
taskmanager.memory.network.max: 128m
taskmanager.memory.jvm-metaspace.size: 256m
taskmanager.memory.jvm-overhead.min: 64m
taskmanager.memory.jvm-overhead.max: 64m
"""


def flink_jars() -> Path:
    """The folder of the jars of Flink and of Beam's runner; downloaded at first use."""

    def resolve(folder: Path) -> None:
        (folder / "pom.xml").write_text(_POM)
        goal = f"{_DEPENDENCY_PLUGIN}:copy-dependencies"
        run_build(
            ["mvn", "-B", "-q", "-f", "pom.xml", goal, "-DincludeScope=runtime", "-DoutputDirectory=libs"], folder
        )
        _write_job_server_jar(folder)

    return built(f"flink-{FLINK_VERSION}-beam-{BEAM_VERSION}", resolve) / "libs"


def job_server_jar() -> Path:
    """One jar that starts Beam's job server."""
    return flink_jars().parent / "job-server.jar"


def _write_job_server_jar(folder: Path) -> None:
    """A jar of nothing but the names of all others, for ``java -jar``."""
    class_path = " ".join(f"libs/{jar.name}" for jar in sorted((folder / "libs").glob("*.jar")))
    line, lines = f"Class-Path: {class_path}", []
    while line:  # a manifest's line has at most 72 bytes, and goes on after a space
        lines.append(line[:72])
        line = f" {line[72:]}" if line[72:] else ""
    manifest = "\r\n".join(["Manifest-Version: 1.0", f"Main-Class: {_JOB_SERVER}", *lines, "", ""])
    with zipfile.ZipFile(folder / "job-server.jar", "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", manifest)


class Flink(Service):
    """One job manager, two task managers with a slot and a pool of Python workers each; a context manager.

    Every process can be killed, with all that it started, and started again.

    Args:
        worker_environment: variables of the Python workers, besides this process's.
        worker_path: the folder whose ``python`` the pools start; this interpreter's by default.
    """

    def __init__(
        self, worker_environment: Mapping[str, str] | None = None, worker_path: Path = Path(sys.executable).parent
    ) -> None:
        jars = flink_jars()
        self._class_path = f"{jars}/*"
        path = f"{worker_path}{os.pathsep}{os.environ['PATH']}"
        self._worker_environment = {**(worker_environment or {}), "PATH": path}
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
        self._start_java(self._job_manager, "", [_JOB_MANAGER, "--host", "127.0.0.1"], slots=0)
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
        """Start it, and wait for its slot."""
        server = self._task_managers[index]
        # Whoever has this file knows no other names.
        (server.folder / "hosts").write_text(
            f"127.0.0.1 localhost {socket.gethostname()}\n{_pool_address(index)} {POOL_HOST}\n"
        )
        slots = self.overview()["slots-total"] + 1
        self._start_java(server, _TASK_MANAGER_ONLY, [_TASK_MANAGER], slots, "-Djdk.net.hosts.file=hosts")

    def kill_task_manager(self, index: int) -> None:
        """SIGKILL it."""
        self._task_managers[index].kill()

    def start_worker_pool(self, index: int) -> None:
        """Start it, and wait until it listens."""
        port = self._pool_ports[index]
        command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
        self._pools[index].start(command, self._worker_environment, lambda: _listens(port))

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


def _pool_address(index: int) -> str:
    return f"127.0.0.{2 + index}"


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
