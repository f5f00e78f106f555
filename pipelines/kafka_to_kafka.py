"""Ready-made pipeline: Kafka topics to a Kafka topic, exactly once.

    beam-exactly-once run kafka-to-kafka \\
        --bootstrap-servers localhost:9092 --topics orders \\
        --output-topic orders-copy --checkpoint-location s3://checkpoints/orders-copy

Keys, values, headers and timestamps are copied. What a partition holds keeps its order: by key, or by partition with
``--output-partitioner partition``. Consumers of the output need ``isolation.level=read_committed``. The output is on the
cluster of the source, reached in the same way, unless ``--output-bootstrap-servers`` is given.

``python -m beam_exactly_once.pipelines.kafka_to_kafka`` is the same. Every option of Beam is taken too. Exit
codes: 0 done, 2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start the same command again, 1 anything else.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from beam_exactly_once.errors import ConfigurationError, UnknownTopic
from beam_exactly_once.kafka import KafkaSettings, open_kafka_log, selection_of
from beam_exactly_once.kafka.topic_admin import TopicAdmin
from beam_exactly_once.pipelines.ready_made import Given, ReadyMade
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.transforms.write_kafka import WriteToKafka

SOURCE_ORDER = ("topic", "partition", "offset")
OF_THE_CLUSTER = ("bootstrap_servers", "client_config", "timeout_s")
"""What the sink takes from the source where both are on one cluster."""


def _wire(stream: ExactlyOnceStream, given: Given) -> None:
    sink = on_cluster_of(given.source, given.output)
    refuse_own_input(given.source, sink)
    if sink.get("partitioner") == "partition":
        _refuse_fewer_partitions(given.source, sink)
    copy(stream, replace(given, output=sink))


def copy(stream: ExactlyOnceStream, given: Given) -> None:
    """Put the graph into the stream: records as they are, in their order."""
    records = stream | given.read(as_arrow=True)
    given.write_rejected(records | WriteToKafka(**{"order_by": SOURCE_ORDER, **given.output}, on_error=given.on_error))


def on_cluster_of(source: dict[str, Any], sink: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a sink; one that names no cluster is on that of the source."""
    if "bootstrap_servers" in sink:
        return sink
    return {**{name: source[name] for name in OF_THE_CLUSTER if name in source}, **sink}


def refuse_own_input(source: dict[str, Any], sink: dict[str, Any]) -> None:
    """
    Raises:
        ConfigurationError: the output is read, too: each run would read all that the runs before it wrote.
    """
    topic = sink["topic"]
    selection = selection_of(source.get("topics", ()), source.get("topic_pattern"))
    if selection.reads(topic) and _is_one_cluster(_cluster_of(source), _cluster_of(sink)):
        raise ConfigurationError(
            f"--output-topic={topic} is one of the topics that are read ({selection}), so its records would be read again, and "
            "written again. Name another topic, or leave this one out of those that are read."
        )


def _refuse_fewer_partitions(source: dict[str, Any], sink: dict[str, Any]) -> None:
    """
    Raises:
        ConfigurationError: there are records for partitions that the output does not have.
    """
    topic = sink["topic"]
    selection = selection_of(source.get("topics", ()), source.get("topic_pattern"))
    log = open_kafka_log(_cluster_of(source))
    try:
        read = selection.partitions_in(selection.describe(log, patient=False))
    except UnknownTopic:
        return  # the stream says so, or waits for it
    finally:
        log.close()
    with TopicAdmin(_cluster_of(sink)) as admin:
        facts = admin.describe(topic)
    beyond = [one for one in read if facts is not None and one.partition >= facts.partitions]
    if facts is not None and beyond:
        raise ConfigurationError(
            f"--output-topic={topic} has {facts.partitions} partitions, but with --output-partitioner=partition it needs one for "
            f"{max(beyond, key=lambda one: one.partition)}. Add partitions to it, or use --output-partitioner=key."
        )


def _is_one_cluster(one: KafkaSettings, other: KafkaSettings) -> bool:
    if one.bootstrap_servers == other.bootstrap_servers:
        return True
    with TopicAdmin(one) as admin, TopicAdmin(other) as other_admin:
        return admin.cluster_id() == other_admin.cluster_id()


def _cluster_of(given: dict[str, Any]) -> KafkaSettings:
    timeout_s = {"timeout_s": given["timeout_s"]} if "timeout_s" in given else {}
    return KafkaSettings(given["bootstrap_servers"], given.get("client_config") or {}, **timeout_s)


PIPELINE = ReadyMade(
    "kafka-to-kafka",
    "Kafka topics to a Kafka topic, exactly once.",
    WriteToKafka,
    _wire,
    sink_optional=("bootstrap_servers",),
)
main = PIPELINE.main

if __name__ == "__main__":
    sys.exit(main())
