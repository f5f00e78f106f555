"""How to reach a Kafka cluster: validated on the driver, resolved on the worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

from beam_exactly_once.arguments import one_of, seconds, true_or_false
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.logs import Log
from beam_exactly_once.properties import PropertyLine, property_lines
from beam_exactly_once.secrets import Secret, is_secret_name, referenced, secret_from_file

ConfigValue: TypeAlias = str | int | float | bool | Secret | Callable[..., Any]
"""A librdkafka property: plain, a secret by reference, or a callable that returns the text on the worker."""

IsolationLevel: TypeAlias = Literal["read_committed", "read_uncommitted"]

_FETCH_WAIT = "fetch.wait.max.ms"
_PATIENT_FETCH_WAIT_MS = 500  # Kafka's own default: brokers expect to be waited for that long

_DEFAULTS: Mapping[str, str] = {
    # assign() never joins a group, yet the client insists on a name for one.
    "group.id": "beam-exactly-once-no-group",
    # librdkafka waits this long before it fetches again once its queue was full; its default of a second leaves a
    # reader idle 80 % of the time.
    "fetch.queue.backoff.ms": "10",
    # A reader that goes on to its next partition waits behind a fetch in flight, which a partition at its end holds
    # open for this long: in small batches nearly always. Shorter, and readers that wait for slow steps ask brokers too often.
    # A reader that gets nothing changes to a consumer that is `patient`.
    _FETCH_WAIT: "5",
    # What a reader may hold in memory ahead of its consumer (16 MiB).
    "queued.max.messages.kbytes": "16384",
    # Errors come back through error_cb and end in our messages; only the client's own alarms go to stderr. At 3 it would
    # also write a line for each of its attempts to connect.
    "log_level": "2",
}

_OWNED: Mapping[str, str] = {
    "bootstrap.servers": "give it as bootstrap_servers=",
    "metadata.broker.list": "give it as bootstrap_servers=",
    "isolation.level": "give it as isolation_level=",
    "auto.offset.reset": "where to start is the stream's choice, and a silent reset would lose records",
    "enable.auto.commit": "offsets are recorded in the checkpoint, not in Kafka",
    "enable.auto.offset.store": "offsets are recorded in the checkpoint, not in Kafka",
    "enable.partition.eof": "the reader needs it to find the end of a range",
    "group.instance.id": "no consumer group is joined",
    "group.protocol": "no consumer group is joined",
    "partition.assignment.strategy": "no consumer group is joined",
    "error_cb": "client errors become the library's own errors",
    "throttle_cb": "client events are served by the reader",
    "stats_cb": "client events are served by the reader",
    "on_commit": "offsets are recorded in the checkpoint, not in Kafka",
    "logger": "a logger cannot travel to a worker",
}

_JAVA_NAMES: Mapping[str, str] = {"sasl.mechanism": "sasl.mechanisms"}

_JAVA_ONLY: Mapping[str, str] = {
    "sasl.jaas.config": "use sasl.username and sasl.password",
    "sasl.login.callback.handler.class": "use sasl.oauthbearer.method=oidc or oauth_cb",
    "ssl.truststore.location": "use ssl.ca.location with a PEM file",
    "ssl.truststore.password": "use ssl.ca.location with a PEM file",
    "ssl.truststore.type": "use ssl.ca.location with a PEM file",
    "ssl.keystore.type": "ssl.keystore.location is a PKCS#12 file here",
    "key.deserializer": "records are bytes here; decode them in the pipeline",
    "value.deserializer": "records are bytes here; decode them in the pipeline",
    "key.serializer": "records are bytes here",
    "value.serializer": "records are bytes here",
}


@dataclass(frozen=True)
class KafkaSettings:
    """A cluster and how to read it. Safe to print, to pickle and to send to workers: it holds no secret.

    Args:
        bootstrap_servers: ``host:port``, several separated by commas.
        config: Further librdkafka properties, e.g. ``{"security.protocol": "SASL_SSL", "sasl.mechanisms": "PLAIN",
            "sasl.username": "me", "sasl.password": secret_from_env("KAFKA_PASSWORD")}``. A callable is called
            without arguments on the worker for its text; only ``oauth_cb`` is handed to the client as it is.
        isolation_level: ``read_committed`` (default) ends at the last stable offset and hides aborted records.
        timeout_s: Longest wait for the cluster's metadata and bounds.
        no_progress_timeout_s: Longest wait of a read for its next record or end.
        headers: Whether records are read with their headers.

    Raises:
        ConfigurationError: a value is missing or out of range, a secret is plain text, or a property is one that the
            library must set itself.
    """

    bootstrap_servers: str
    config: Mapping[str, ConfigValue] = field(default_factory=dict, hash=False)
    isolation_level: IsolationLevel = "read_committed"
    timeout_s: float = 30.0
    no_progress_timeout_s: float = 60.0
    headers: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.bootstrap_servers, str) or not self.bootstrap_servers.strip(" ,"):
            raise ConfigurationError(
                f"bootstrap_servers={self.bootstrap_servers!r} must name at least one broker as host:port, several with commas."
            )
        one_of("isolation_level", self.isolation_level, get_args(IsolationLevel))
        seconds("timeout_s", self.timeout_s)
        seconds("no_progress_timeout_s", self.no_progress_timeout_s)
        true_or_false("headers", self.headers)
        object.__setattr__(self, "config", dict(self.config))
        for key, value in self.config.items():
            _check_property(key, value)

    def __repr__(self) -> str:
        # A callable shows as such: the repr of a partial() would show what it was given.
        config = ", ".join(f"{key!r}: {'<callable>' if callable(v) else repr(v)}" for key, v in self.config.items())
        return (
            f"KafkaSettings(bootstrap_servers={self.bootstrap_servers!r}, config={{{config}}}, "
            f"isolation_level={self.isolation_level!r}, timeout_s={self.timeout_s!r}, "
            f"no_progress_timeout_s={self.no_progress_timeout_s!r}, headers={self.headers!r})"
        )

    @property
    def patient(self) -> KafkaSettings | None:
        """The same for a reader whose fetches wait longer; None: how long they wait is given, and stays."""
        if _FETCH_WAIT in self.config:
            return None
        return replace(self, config={**self.config, _FETCH_WAIT: _PATIENT_FETCH_WAIT_MS})

    @property
    def rest_s(self) -> float:
        """See :class:`~beam_exactly_once.logs.opening.LogSettings`."""
        return 0.2

    @property
    def definition(self) -> Mapping[str, str]:
        """See :class:`~beam_exactly_once.logs.opening.LogSettings`. A cluster may get another address."""
        return {"kind": "kafka"}

    def at_isolation_level(self, isolation_level: str | None) -> KafkaSettings:
        """See :class:`~beam_exactly_once.logs.opening.LogSettings`."""
        return self if isolation_level is None else replace(self, isolation_level=isolation_level)  # type: ignore[arg-type] # it is checked

    def open(self) -> Log:
        """See :class:`~beam_exactly_once.logs.opening.LogSettings`."""
        from beam_exactly_once.kafka.log import ConfluentLog  # which needs settings

        return ConfluentLog(self)

    def client_config(self) -> dict[str, Any]:
        """Properties for ``confluent_kafka.Consumer``, secrets included: call it where the client is made.

        Raises:
            ConfigurationError: a secret cannot be resolved here.
        """
        resolved: dict[str, Any] = dict(_DEFAULTS)
        for key, value in self.config.items():
            resolved[_JAVA_NAMES.get(key, key)] = _resolve(key, value)
        resolved.update(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "isolation.level": self.isolation_level,
                "auto.offset.reset": "error",
                "enable.auto.commit": "false",
                "enable.auto.offset.store": "false",
                "enable.partition.eof": "true",
            }
        )
        return resolved

    def secret_texts(self, client_config: Mapping[str, Any]) -> tuple[str, ...]:
        """The texts in ``client_config`` that no message may show, longest first."""
        hidden = {
            client_config[_JAVA_NAMES.get(key, key)]
            for key, value in self.config.items()
            if key != "oauth_cb" and (isinstance(value, Secret) or callable(value))
        }
        return tuple(sorted((text for text in hidden if text), key=lambda text: (-len(text), text)))


def _check_property(key: str, value: object) -> None:
    if not isinstance(key, str) or not key:
        raise ConfigurationError(f"a Kafka property's name must be a text, got {key!r}")
    if key in _OWNED:
        raise ConfigurationError(f"the Kafka property {key} cannot be set: {_OWNED[key]}")
    if key in _JAVA_ONLY:
        raise ConfigurationError(f"the Kafka property {key} exists only in the Java client: {_JAVA_ONLY[key]}")
    if is_secret_name(key) and not (isinstance(value, Secret) or callable(value)):
        raise ConfigurationError(
            f"the Kafka property {key} must not be plain text, since settings travel to workers and into logs; "
            "use secret_from_env(...) or secret_from_file(...)"
        )
    if not isinstance(value, (str, int, float, Secret)) and not callable(value):
        raise ConfigurationError(
            f"the Kafka property {key} must be text, a number, a secret or a callable, got {type(value).__name__}"
        )


def _resolve(key: str, value: ConfigValue) -> Any:
    if key == "oauth_cb":
        return value
    if isinstance(value, Secret):
        return value.resolve()
    if isinstance(value, bool):
        return "true" if value else "false"
    if not callable(value):
        return str(value)
    text = value()
    if not isinstance(text, str):
        raise ConfigurationError(f"the callable for the Kafka property {key} returned {type(text).__name__}, not text")
    return text


def read_properties(path: str | os.PathLike[str]) -> dict[str, ConfigValue]:
    """Read a Java-style properties file as ``KafkaSettings.config``, without taking secrets out of their place.

    ``${env:NAME}`` becomes ``secret_from_env(NAME)`` and ``${file:/path}`` ``secret_from_file("/path")``. A secret
    that stands in the file itself becomes ``secret_from_file(path, key=...)``: every worker needs the same file.
    ``bootstrap.servers`` is returned like any other; take it out for ``KafkaSettings(bootstrap_servers=...)``.

    Raises:
        ConfigurationError: the file cannot be read, a line is not a property, or a property exists only in the Java
            client; the line is named by number.
    """
    config: dict[str, ConfigValue] = {}
    for line in property_lines(path):
        if line.key in _JAVA_ONLY:
            raise ConfigurationError(
                f"{os.fspath(path)} line {line.line_number}: {line.key} exists only in the Java client: "
                f"{_JAVA_ONLY[line.key]}"
            )
        config[_JAVA_NAMES.get(line.key, line.key)] = _value_of(line, path)
    return config


def _value_of(line: PropertyLine, path: str | os.PathLike[str]) -> ConfigValue:
    value = referenced(line.value)
    if isinstance(value, str) and is_secret_name(line.key):
        return secret_from_file(path, key=line.key)
    return value
