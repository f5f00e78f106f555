"""Kafka as a log: bounds and exact ranges. The only room that imports the Kafka client."""

from __future__ import annotations

from beam_exactly_once.kafka.embedded import EmbeddedBroker
from beam_exactly_once.kafka.log import ConfluentLog, open_kafka_log
from beam_exactly_once.kafka.producing import produce
from beam_exactly_once.kafka.selection import TopicSelection, selection_of
from beam_exactly_once.kafka.settings import ConfigValue, KafkaSettings, read_properties
from beam_exactly_once.logs import EVENT_DATE, RECORD_SCHEMA, Chunk, Columns, Record, with_event_date
from beam_exactly_once.logs.opening import override_logs

__all__ = [
    "EVENT_DATE",
    "RECORD_SCHEMA",
    "Chunk",
    "Columns",
    "ConfigValue",
    "ConfluentLog",
    "EmbeddedBroker",
    "KafkaSettings",
    "Record",
    "TopicSelection",
    "open_kafka_log",
    "override_logs",
    "produce",
    "read_properties",
    "selection_of",
    "with_event_date",
]
