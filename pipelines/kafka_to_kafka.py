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

from beam_exactly_once.pipelines.ready_made import Given, ReadyMade
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.transforms.read_kafka import ReadFromKafka
from beam_exactly_once.transforms.write_kafka import WriteToKafka

SOURCE_ORDER = ("topic", "partition", "offset")
OF_THE_CLUSTER = ("bootstrap_servers", "client_config", "timeout_s")
"""What the sink takes from the source where both are on one cluster."""


def _wire(stream: ExactlyOnceStream, given: Given) -> None:
    sink = {"order_by": SOURCE_ORDER, **given.output}
    if "bootstrap_servers" not in sink:
        sink = {**{name: given.source[name] for name in OF_THE_CLUSTER if name in given.source}, **sink}
    records = stream | ReadFromKafka(**given.source, as_arrow=True)
    given.write_rejected(records | WriteToKafka(**sink, on_error=given.on_error))


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
