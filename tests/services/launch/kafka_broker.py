"""Apache Kafka for tests: one broker or several in KRaft mode, from the jars that Maven resolves; needs Java 17."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, PartitionMetadata

from beam_exactly_once import TopicPartition
from services.launch.built import built, run_build
from services.launch.server import Server, Service, free_ports
from services.streams.topics import TIMEOUT_S, wait_until

KAFKA_VERSION = "4.1.1"
SCALA_VERSION = "2.13"
LOG4J_VERSION = "2.24.3"
MAX_RECORD_BYTES = 8 * 1024 * 1024

_DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"
_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>beam_exactly_once</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_{SCALA_VERSION}</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-core</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""
_LOGGING = """rootLogger.level=INFO
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{ISO8601} %p %c: %m%n
"""
# Nothing is deleted by age; transactions that hang, compaction and dead brokers are looked after every moment.
_PROPERTIES = """process.roles=broker,controller
node.id={node_id}
listeners={listeners},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners={listeners}
controller.listener.names=CONTROLLER
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.quorum.voters={voters}
log.dirs={log_dir}
default.replication.factor={replicas}
min.insync.replicas={min_replicas}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=1
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={min_replicas}
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={min_replicas}
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
message.max.bytes={max_record_bytes}
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.cleaner.backoff.ms=300
log.retention.ms=-1
log.retention.check.interval.ms=500
file.delete.delay.ms=500
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=6000
controlled.shutdown.enable={controlled_shutdown}
"""


@dataclass(frozen=True)
class Listener:
    """A port besides the plaintext one that every broker has.

    Args:
        name: of the listener, in capital letters.
        protocol: Kafka's, such as ``SASL_SSL``.
        properties: of this listener alone.
    """

    name: str
    protocol: str
    properties: Mapping[str, str] = field(default_factory=dict)


def kafka_jars() -> Path:
    """The folder of Kafka's jars; downloaded at first use."""

    def resolve(folder: Path) -> None:
        (folder / "pom.xml").write_text(_POM)
        goal = f"{_DEPENDENCY_PLUGIN}:copy-dependencies"
        run_build(
            ["mvn", "-B", "-q", "-f", "pom.xml", goal, "-DincludeScope=runtime", "-DoutputDirectory=libs"], folder
        )

    return built(f"kafka-{KAFKA_VERSION}", resolve) / "libs"


class _Node:
    """One broker, which is a controller too."""

    def __init__(self, node_id: int, listeners: Sequence[Listener]) -> None:
        self.node_id = node_id
        self.server = Server(f"kafka-{node_id}" if node_id > 1 else "kafka")
        names = ["PLAINTEXT", *(listener.name for listener in listeners)]
        self.controller_port, *ports = free_ports(1 + len(names))
        self.addresses = {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
        self._properties = self.server.folder / "server.properties"
        logging = self.server.folder / "log4j2.properties"
        logging.write_text(_LOGGING)
        self._java = ["java", f"-Dlog4j2.configurationFile={logging}", "-Xmx512m", "-XX:+UseSerialGC"]
        self._java += ["-XX:TieredStopAtLevel=1", "-cp", f"{kafka_jars()}/*"]

    def format(self, properties: str, scram_users: Sequence[str]) -> None:
        """Write its configuration and make its storage."""
        self._properties.write_text(properties)
        tool = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(self._properties)]
        users = [word for user in scram_users for word in ("--add-scram", user)]
        done = subprocess.run(
            [*self._java, *tool, *users], cwd=self.server.folder, capture_output=True, text=True, check=False
        )
        self.server.log.write_text(done.stdout + done.stderr)
        if done.returncode:
            raise RuntimeError(f"Kafka's storage cannot be formatted:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    def start(self) -> None:
        """Start, and wait until it takes part in the cluster."""
        self.server.start([*self._java, "kafka.Kafka", str(self._properties)], {}, self._answers)

    def _answers(self) -> bool:
        admin = AdminClient({"bootstrap.servers": self.addresses["PLAINTEXT"], "log_level": 0})
        try:
            return self.node_id in admin.list_topics(timeout=1.0).brokers
        except KafkaException:
            return False


class Kafka(Service):
    """A cluster on free ports, with no topics and its data in temporary folders; a context manager.

    Args:
        brokers: how many; 3 keep each partition three times, and take writes while two of them live.
        listeners: ports of each broker besides the plaintext one.
        properties: more of every broker's.
        scram_users: who may log in by SCRAM, as ``kafka-storage format --add-scram`` takes it.
    """

    def __init__(
        self,
        brokers: int = 1,
        *,
        listeners: Sequence[Listener] = (),
        properties: Mapping[str, str] | None = None,
        scram_users: Sequence[str] = (),
    ) -> None:
        self._nodes = {node_id: _Node(node_id, listeners) for node_id in range(1, brokers + 1)}
        self.bootstrap_servers = self.addresses("PLAINTEXT")
        try:
            for node in self._nodes.values():
                node.format(self._properties(node, listeners, properties or {}), scram_users)
            self.start_all()
        except BaseException:
            self.stop(keep_log=True)
            raise

    def addresses(self, listener: str) -> str:
        """Where all brokers listen by this listener, as ``bootstrap_servers``."""
        return ",".join(node.addresses[listener] for node in self._nodes.values())

    @property
    def environment(self) -> dict[str, str]:
        """Variables that say where it is."""
        return {"KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers}

    @property
    def broker_ids(self) -> list[int]:
        """Of all brokers, also of those that do not run."""
        return list(self._nodes)

    def kill(self, broker_id: int) -> None:
        """End a broker by SIGKILL."""
        self._nodes[broker_id].server.kill()

    def end(self, broker_id: int) -> None:
        """End a broker as an operator would: it hands over its leaderships first."""
        self._nodes[broker_id].server.end()

    def start(self, broker_id: int) -> None:
        """Start a broker again that was ended."""
        self._nodes[broker_id].start()

    def start_all(self) -> None:
        """Start those that do not run, side by side: none is ready before most of them have started."""
        ended = [node for node in self._nodes.values() if not node.server.is_running]
        with ThreadPoolExecutor(len(self._nodes)) as starting:
            list(starting.map(_Node.start, ended))

    def leader(self, place: TopicPartition) -> int:
        """The broker that leads a partition now; -1 while none does."""
        return int(self._metadata(place.topic)[place.partition].leader)

    def wait_in_sync(self, topic: str) -> None:
        """Wait until every broker holds all of a topic."""
        brokers = len(self._nodes)
        wait_until(lambda: all(len(one.isrs) == brokers for one in self._metadata(topic).values()))

    def _metadata(self, topic: str) -> dict[int, PartitionMetadata]:
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        return admin.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions

    def _properties(self, node: _Node, listeners: Sequence[Listener], more: Mapping[str, str]) -> str:
        brokers = len(self._nodes)
        protocols = {"PLAINTEXT": "PLAINTEXT", **{listener.name: listener.protocol for listener in listeners}}
        common = _PROPERTIES.format(
            node_id=node.node_id,
            listeners=",".join(f"{name}://{address}" for name, address in node.addresses.items()),
            controller_port=node.controller_port,
            protocols=",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            voters=",".join(f"{one.node_id}@127.0.0.1:{one.controller_port}" for one in self._nodes.values()),
            log_dir=node.server.folder / "data",
            replicas=brokers,
            min_replicas=brokers // 2 + 1,
            max_record_bytes=MAX_RECORD_BYTES,
            controlled_shutdown=str(brokers > 1).lower(),
        )
        own = {
            f"listener.name.{listener.name.lower()}.{key}": value
            for listener in listeners
            for key, value in listener.properties.items()
        }
        return common + "".join(f"{key}={value}\n" for key, value in {**own, **more}.items())

    def stop(self, *, keep_log: bool = False) -> None:
        """End all brokers; twice does no harm."""
        for node in self._nodes.values():
            node.server.kill()  # nothing is kept, so nothing needs a good end
            node.server.stop(keep_log=keep_log)


_CLUSTER_ID = "beam-exactly-once-test"  # 22 letters of URL-safe base64
