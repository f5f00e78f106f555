"""Which outputs ``beam-exactly-once verify`` looks into, and with what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from beam_exactly_once.checkpoint.findings import Check
from beam_exactly_once.checkpoint.records import Json
from beam_exactly_once.checkpoint.verification import Contents
from beam_exactly_once.kafka import ConfigValue, KafkaSettings
from beam_exactly_once.object_store import ObjectStore, open_object_store
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.secrets import referenced
from beam_exactly_once.sinks.files.verification import verify_output

KAFKA_TIMEOUT_S = 10.0
"""A person waits."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """How to reach the outputs. A checkpoint has no addresses of servers, no options and no secrets."""

    checkpoint: ObjectStore
    storage_options: Mapping[str, str] | None
    url: str | None = None
    receipts_table: str | None = None
    bootstrap_servers: str | None = None
    client_config: Mapping[str, ConfigValue] = field(default_factory=dict)

    def options_of(self, location: str) -> Mapping[str, str] | None:
        """The options of an output's store: those of the checkpoint's, where both are of one kind."""
        return self.storage_options if _scheme(location) == _scheme(self.checkpoint.uri) else None

    def opening(self, location: str) -> Callable[[], ObjectStore]:
        """Opens the store of an output."""
        return lambda: open_object_store(location, self.options_of(location))

    def checks(self, contents: Contents) -> Iterator[Check]:
        """What is found of every sink."""
        for sink, definition in sorted(contents.sinks.items()):
            match definition.get("kind"):
                case "files":
                    yield from verify_output(contents, sink, self.opening(str(definition["location"])))
                case "delta":
                    yield from self._delta(contents, sink, definition)
                case "sql":
                    yield self._sql(contents, sink)
                case "kafka":
                    yield self._kafka(contents, sink)
                case "for_each_batch":
                    pass  # has no receipts
                case kind:
                    yield Check(
                        f"receipts of sink {sink}",
                        notes=[f"not looked at: only a sink of kind {kind!r} can read them."],
                    )

    def _delta(self, contents: Contents, sink: str, definition: Json) -> Iterator[Check]:
        from beam_exactly_once.sinks.delta.verification import verify_table

        location = str(definition["location"])
        yield from verify_table(contents, sink, StoreLocation(location, self.options_of(location)))

    def _sql(self, contents: Contents, sink: str) -> Check:
        if self.url is None:
            return _not_looked_at(sink, "--output-url")
        from beam_exactly_once.sinks.sql.verification import verify_table

        return verify_table(contents, sink, referenced(self.url), self.receipts_table)

    def _kafka(self, contents: Contents, sink: str) -> Check:
        if self.bootstrap_servers is None:
            return _not_looked_at(sink, "--output-bootstrap-servers")
        from beam_exactly_once.sinks.kafka.verification import verify_topic

        settings = KafkaSettings(
            self.bootstrap_servers, {"log_level": 0, **self.client_config}, timeout_s=KAFKA_TIMEOUT_S
        )
        return verify_topic(contents, sink, settings)


def _not_looked_at(sink: str, flag: str) -> Check:
    return Check(f"receipts of sink {sink}", notes=[f"not looked at: {flag} says where."])


def _scheme(location: str) -> str:
    return location.partition("://")[0] if "://" in location else ""
