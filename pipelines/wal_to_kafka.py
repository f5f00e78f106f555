"""Ready-made pipeline: a write-ahead log to a Kafka topic, exactly once.

    beam-exactly-once run wal-to-kafka \\
        --location s3://logs/hooks --checkpoint-location s3://checkpoints/hooks \\
        --output-bootstrap-servers localhost:9092 --output-topic hooks

Keys, values, headers and times of arrival are copied. What a partition of the log holds keeps its order, as in kafka-to-kafka.

``python -m beam_exactly_once.pipelines.wal_to_kafka`` is the same. Every option of Beam is taken too. Exit codes: 0 done,
2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start the same command again, 1 anything else.
"""

from __future__ import annotations

import sys

from beam_exactly_once.pipelines.kafka_to_kafka import copy
from beam_exactly_once.pipelines.ready_made import ReadyMade
from beam_exactly_once.transforms.read_wal import ReadFromWal
from beam_exactly_once.transforms.write_kafka import WriteToKafka

PIPELINE = ReadyMade(
    "wal-to-kafka", "A write-ahead log to a Kafka topic, exactly once.", WriteToKafka, copy, source=ReadFromWal
)
main = PIPELINE.main

if __name__ == "__main__":
    sys.exit(main())
