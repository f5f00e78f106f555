"""Apache Kafka for tests: one broker in KRaft mode, from the jars that Maven resolves; needs Java 17 or newer."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from services.built import built, run_build
from services.server import Server, free_ports

KAFKA_VERSION = "4.1.1"
SCALA_VERSION = "2.13"
LOG4J_VERSION = "2.24.3"
RECORD_BYTES_MAX = 8 * 1024 * 1024

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
# One node keeps everything itself and for ever; transactions that hang and compaction are looked after every moment.
_PROPERTIES = """process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
log.dirs={log_dir}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
min.insync.replicas=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
message.max.bytes={record_bytes_max}
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.cleaner.backoff.ms=300
log.retention.ms=-1
log.retention.check.interval.ms=500
file.delete.delay.ms=500
controlled.shutdown.enable=false
"""


def kafka_jars() -> Path:
    """The folder of Kafka's jars; downloaded at first use."""

    def resolve(folder: Path) -> None:
        (folder / "pom.xml").write_text(_POM)
        goal = f"{_DEPENDENCY_PLUGIN}:copy-dependencies"
        run_build(
            ["mvn", "-B", "-q", "-f", "pom.xml", goal, "-DincludeScope=runtime", "-DoutputDirectory=libs"], folder
        )

    return built(f"kafka-{KAFKA_VERSION}", resolve) / "libs"


class Kafka:
    """One broker on a free port, with no topics and its data in a temporary folder; a context manager.

    Args:
        bootstrap_servers: attribute, ``host:port``.
    """

    def __init__(self) -> None:
        jars = kafka_jars()
        self._server = Server("kafka")
        try:
            self._start(jars)
        except BaseException:
            self._server.stop(keep_log=True)
            raise

    def _start(self, jars: Path) -> None:
        folder = self._server.folder
        port, controller_port = free_ports(2)
        self.bootstrap_servers = f"127.0.0.1:{port}"
        properties, logging = folder / "server.properties", folder / "log4j2.properties"
        properties.write_text(
            _PROPERTIES.format(
                port=port, controller_port=controller_port, log_dir=folder / "data", record_bytes_max=RECORD_BYTES_MAX
            )
        )
        logging.write_text(_LOGGING)
        java = ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{jars}/*"]
        java.insert(1, f"-Dlog4j2.configurationFile={logging}")
        format_storage = [*java, "kafka.tools.StorageTool", "format", "--standalone", "-t", _CLUSTER_ID]
        done = subprocess.run(
            [*format_storage, "-c", str(properties)], cwd=folder, capture_output=True, text=True, check=False
        )
        self._server.log.write_text(done.stdout + done.stderr)
        if done.returncode:
            raise RuntimeError(f"Kafka's storage cannot be formatted:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        self._server.start([*java, "kafka.Kafka", str(properties)], {}, self._answers)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that say where it is."""
        return {"KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers}

    def _answers(self) -> bool:
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        try:
            return len(admin.list_topics(timeout=1.0).brokers) == 1
        except KafkaException:
            return False

    def stop(self, *, keep_log: bool = False) -> None:
        """End the broker; twice does no harm."""
        self._server.stop(keep_log=keep_log)

    def __enter__(self) -> Kafka:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop(keep_log=kind is not None)


_CLUSTER_ID = "beam-exactly-once-test"  # 22 letters of URL-safe base64
