"""Exactly-once streams from Kafka for Apache Beam, without a JVM, a receiver or a consumer group."""

from beam_exactly_once.kafka import KafkaRecord
from beam_exactly_once.offsets import OffsetRange, TopicPartition
from beam_exactly_once.planning import Start
from beam_exactly_once.secret_values import secret_from_env, secret_from_file

__all__ = ["KafkaRecord", "OffsetRange", "Start", "TopicPartition", "secret_from_env", "secret_from_file"]
