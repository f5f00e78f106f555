"""Topics as who writes to them must know them: described, created, grown."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

from beam_exactly_once.clock import Clock, SystemClock
from beam_exactly_once.errors import ConfigurationError, OutputNotWritable, SinkUnavailable
from beam_exactly_once.kafka.client_errors import DENIED_CODES, UNKNOWN_TOPIC_CODES, ClientErrors
from beam_exactly_once.kafka.owned_admin import OwnedAdmin
from beam_exactly_once.kafka.settings import KafkaSettings

UNKNOWN_TOPIC_WAIT_S = 5.0
_REQUEST_TIMEOUT_S = 5.0
_PAUSE_S = 0.1
_FINAL_CODES = frozenset(
    {
        KafkaError.POLICY_VIOLATION,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError._INVALID_ARG,
    }
)
"""What asking again does not change."""

_Answer = TypeVar("_Answer")


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


class TopicAdmin:
    """One cluster's topics. Connected at first use; a context manager that ends the connections.

    Raises:
        SinkUnavailable: no broker answers within ``timeout_s``.
        KafkaRefused: the cluster does not let us in.
        OutputNotWritable: the cluster refuses; the message has Kafka's word for it.
        ConfigurationError: the client refuses its configuration.
    """

    def __init__(self, settings: KafkaSettings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._errors = ClientErrors()
        self._admin: OwnedAdmin | None = None

    def __enter__(self) -> TopicAdmin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()

    def describe(self, topic: str, *, doubt_s: float = UNKNOWN_TOPIC_WAIT_S) -> TopicFacts | None:
        """What a topic is; None if there is none, also when asked again for ``doubt_s``: a broker that has just started
        may not know it yet."""
        asked = TopicCollection([topic])

        def describe(timeout_s: float) -> Any:
            described = self._client.ask(
                lambda client: client.describe_topics(
                    asked, include_authorized_operations=True, request_timeout=timeout_s
                )
            )
            return described[topic].result()

        try:
            found = self._ask(f"describe topic {topic}", describe, doubt_s)
        except _Unknown:
            return None
        operations = frozenset(operation.name for operation in found.authorized_operations or ())
        config = self._config(topic) if "DESCRIBE_CONFIGS" in operations else {}
        replication_factor = len(found.partitions[0].replicas)
        return TopicFacts(topic, len(found.partitions), replication_factor, operations, config)

    def create(self, topic: str, partitions: int, replication_factor: int, config: Mapping[str, str]) -> None:
        """Create a topic, and wait until the cluster knows it. One that exists stays as it is."""
        new = NewTopic(topic, partitions, replication_factor, config=dict(config))

        def create(timeout_s: float) -> None:
            try:
                self._client.ask(lambda client: client.create_topics([new], request_timeout=timeout_s))[topic].result()
            except KafkaException as exception:
                if exception.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise

        self._ask(f"create topic {topic}", create)
        self._wait_until(f"creation of topic {topic}", lambda: self.describe(topic, doubt_s=0) is not None)

    def grow(self, topic: str, partitions: int) -> None:
        """Let a topic have that many partitions, and wait until the cluster knows them."""

        def is_grown() -> bool:
            facts = self.describe(topic)
            return facts is not None and facts.partitions >= partitions

        def grow(timeout_s: float) -> None:
            new = NewPartitions(topic, partitions)
            try:
                grown = self._client.ask(lambda client: client.create_partitions([new], request_timeout=timeout_s))
                grown[topic].result()
            except KafkaException as exception:
                if exception.args[0].code() != KafkaError.INVALID_PARTITIONS:  # another driver was faster
                    raise

        self._ask(f"add partitions to topic {topic}", grow)
        self._wait_until(f"growth of topic {topic} to {partitions} partitions", is_grown)

    def _config(self, topic: str) -> Mapping[str, str]:
        resource = ConfigResource(ResourceType.TOPIC, topic)

        def describe(timeout_s: float) -> Any:
            described = self._client.ask(lambda client: client.describe_configs([resource], request_timeout=timeout_s))
            return described[resource].result()

        found = self._ask(f"describe the configuration of topic {topic}", describe)
        return {name: entry.value for name, entry in found.items() if entry.value is not None}

    @property
    def _client(self) -> OwnedAdmin:
        if self._admin is None:
            self._admin = OwnedAdmin(self._open)
        return self._admin

    def _open(self) -> AdminClient:
        config = self._settings.client_config()
        self._errors.concern(config, self._settings.secret_texts(config))
        try:
            config["error_cb"] = self._errors.remember
            return AdminClient(config)
        except KafkaException as exception:
            text = self._errors.text_of(exception.args[0])
        # Outside of the handler: the client's own exception may quote the configuration.
        raise ConfigurationError(f"the Kafka client does not accept its configuration: {text}")

    def _ask(self, what: str, ask: Callable[[float], _Answer], doubt_s: float = UNKNOWN_TOPIC_WAIT_S) -> _Answer:
        """Ask again while the cluster settles."""
        began_s = self._clock.monotonic_s()
        deadline_s = began_s + self._settings.timeout_s
        where = f"Kafka at {self._settings.bootstrap_servers}"
        while True:
            left_s = deadline_s - self._clock.monotonic_s()
            try:
                answer = ask(max(0.1, min(_REQUEST_TIMEOUT_S, left_s)))
                self._errors.forget()
                return answer
            except KafkaException as exception:  # cannot be pickled, so it must not leave this process
                error = exception.args[0]
            text = self._errors.text_of(error)
            if error.code() in UNKNOWN_TOPIC_CODES and self._clock.monotonic_s() - began_s >= doubt_s:
                raise _Unknown(what)
            if error.code() in DENIED_CODES or error.code() in _FINAL_CODES:
                raise OutputNotWritable(f"{where} refused to {what}: {text}.")
            self._client.ask(lambda client: client.poll(0))  # lets the client say why
            self._errors.raise_if_refused()
            if left_s <= 0:
                self._errors.raise_if_contradicted()
                raise SinkUnavailable(
                    f"{where} did not {what} within {self._settings.timeout_s:g} s ({text}); "
                    f"{self._errors.describe()}. Check the address and the network."
                )
            self._clock.wait(threading.Event(), _PAUSE_S)

    def _wait_until(self, what: str, is_so: Callable[[], bool]) -> None:
        deadline_s = self._clock.monotonic_s() + self._settings.timeout_s
        while not is_so():
            if self._clock.monotonic_s() > deadline_s:
                raise SinkUnavailable(f"Kafka at {self._settings.bootstrap_servers} does not show the {what}.")
            self._clock.wait(threading.Event(), _PAUSE_S)


class _Unknown(Exception):
    """No such topic."""
