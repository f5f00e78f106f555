"""Topics as who writes to them must know them: described, created, grown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import OutputNotWritable, SinkUnavailable
from beam_exactly_once.kafka.asking import PAUSE_S, UNKNOWN_TOPIC_WAIT_S, Answer, Asker, NoAnswer
from beam_exactly_once.kafka.client_errors import DENIED_CODES
from beam_exactly_once.kafka.owned_admin import OwnedAdmin
from beam_exactly_once.kafka.settings import KafkaSettings
from beam_exactly_once.patience import Patience

_FINAL_CODES = frozenset(
    {
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError._INVALID_ARG,
    }
)
"""What asking again does not change."""


@dataclass(frozen=True)
class TopicFacts:
    """A topic."""

    name: str
    partitions: int
    replication_factor: int
    operations: frozenset[str]
    """What we may do with it, as Kafka calls it: ``WRITE``, ``READ``, ``DESCRIBE_CONFIGS``, …"""
    config: Mapping[str, str]
    """Its configuration; empty if we may not see it."""

    @property
    def cleanup_policy(self) -> frozenset[str]:
        """``compact``, ``delete``, or both; empty if unknown."""
        return frozenset(part.strip() for part in self.config.get("cleanup.policy", "").split(",") if part.strip())

    @property
    def max_record_bytes(self) -> int | None:
        """Largest batch of records that it takes; None if unknown."""
        found = self.config.get("max.message.bytes")
        return None if found is None else int(found)


class TopicAdmin(Asker):
    """One cluster's topics. Connected at first use; a context manager that ends the connections.

    Raises:
        SinkUnavailable: no broker answers within ``timeout_s``.
        KafkaRefused: the cluster does not let us in.
        OutputNotWritable: the cluster refuses; the message has Kafka's word for it.
        ConfigurationError: the client refuses its configuration.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(settings, clock)

    def __enter__(self) -> TopicAdmin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def describe(self, topic: str, *, doubt_s: float = UNKNOWN_TOPIC_WAIT_S) -> TopicFacts | None:
        """What a topic is; None if there is none, also when asked again for ``doubt_s``: a broker that has just started
        may not know it yet."""
        asked = TopicCollection([topic])

        def describe(client: AdminClient, timeout_s: float) -> Any:
            described = client.describe_topics(asked, include_authorized_operations=True, request_timeout=timeout_s)
            return described[topic].result()

        try:
            found = self._ask_for(f"describe topic {topic}", describe, doubt_s)
        except _Unknown:
            return None
        operations = frozenset(operation.name for operation in found.authorized_operations or ())
        config = self._config(topic) if "DESCRIBE_CONFIGS" in operations else {}
        replication_factor = len(found.partitions[0].replicas)
        return TopicFacts(topic, len(found.partitions), replication_factor, operations, config)

    def cluster_id(self) -> str:
        """Kafka's id of the cluster: the same by whatever address it is reached."""

        def describe(client: AdminClient, timeout_s: float) -> str:
            return str(client.describe_cluster(request_timeout=timeout_s).result().cluster_id)

        return self._ask_for("describe the cluster", describe)

    def create(self, topic: str, partitions: int, replication_factor: int, config: Mapping[str, str]) -> None:
        """Create a topic, and wait until the cluster knows it. One that exists stays as it is."""
        new = NewTopic(topic, partitions, replication_factor, config=dict(config))

        def create(client: AdminClient, timeout_s: float) -> None:
            try:
                client.create_topics([new], request_timeout=timeout_s)[topic].result()
            except KafkaException as exception:
                if exception.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

        self._ask_for(f"create topic {topic}", create)
        self._wait_until(f"creation of topic {topic}", lambda: self.describe(topic, doubt_s=0) is not None)

    def grow(self, topic: str, partitions: int) -> None:
        """Let a topic have that many partitions, and wait until the cluster knows them."""

        def is_grown() -> bool:
            facts = self.describe(topic)
            return facts is not None and facts.partitions >= partitions

        def grow(client: AdminClient, timeout_s: float) -> None:
            new = NewPartitions(topic, partitions)
            try:
                client.create_partitions([new], request_timeout=timeout_s)[topic].result()
            except KafkaException as exception:
                if exception.args[0].code() != KafkaError.INVALID_PARTITIONS:  # another driver was faster
                    raise

        self._ask_for(f"add partitions to topic {topic}", grow)
        self._wait_until(f"growth of topic {topic} to {partitions} partitions", is_grown)

    def _config(self, topic: str) -> Mapping[str, str]:
        resource = ConfigResource(ResourceType.TOPIC, topic)

        def describe(client: AdminClient, timeout_s: float) -> Any:
            return client.describe_configs([resource], request_timeout=timeout_s)[resource].result()

        found = self._ask_for(f"describe the configuration of topic {topic}", describe)
        return {name: entry.value for name, entry in found.items() if entry.value is not None}

    def _ask_for(
        self, what: str, ask: Callable[[AdminClient, float], Answer], unknown_wait_s: float = UNKNOWN_TOPIC_WAIT_S
    ) -> Answer:
        def ask_once(admin: OwnedAdmin, timeout_s: float) -> Answer:
            try:
                return admin.ask(lambda client: ask(client, timeout_s))
            except KafkaException as exception:  # cannot be pickled, so it must not leave this process
                error = exception.args[0]
            raise NoAnswer(error, what)

        return self._ask_admin(ask_once, unknown_wait_s)

    def _unknown(self, subject: str) -> Exception:
        return _Unknown(subject)

    def _refused(self, subject: str, error: KafkaError) -> OutputNotWritable | None:
        if error.code() not in DENIED_CODES | _FINAL_CODES:
            return None
        return OutputNotWritable(f"{self._where} refused to {subject}: {self._errors.text_of(error)}.")

    def _unavailable(self, subject: str, error: KafkaError) -> SinkUnavailable:
        return SinkUnavailable(
            f"{self._where} did not {subject} within {self._settings.timeout_s:g} s ({self._errors.text_of(error)}); "
            f"{self._errors.describe()}. Check the address and the network."
        )

    @property
    def _where(self) -> str:
        return f"Kafka at {self._settings.bootstrap_servers}"

    def _wait_until(self, what: str, is_so: Callable[[], bool]) -> None:
        patience = Patience(self._clock, timeout_s=self._settings.timeout_s, first_pause_s=PAUSE_S)
        while not is_so():
            if patience.is_over:
                raise SinkUnavailable(f"{self._where} does not show the {what}.")
            patience.wait()


class _Unknown(Exception):
    """No such topic."""
