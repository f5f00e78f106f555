"""Ready-made pipeline: Kafka topics to a Kafka topic, exactly once.

    python -m beam_exactly_once.pipelines.kafka_to_kafka \\
        --bootstrap_servers localhost:9092 --topics orders \\
        --output_topic orders-copy --checkpoint_location s3://checkpoints/orders-copy

Keys, values, headers and timestamps are copied. What a partition holds keeps its order: by key, or by partition with
``--partition_by partition``. Consumers of the output need ``isolation.level=read_committed``. Every option of Beam is taken too.
Exit codes: 0 done, 2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start the same command again, 1 anything else.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import get_args

from beam_exactly_once.kafka.transaction_producer import Compression
from beam_exactly_once.pipelines.ready_made import (
    add_rejected_output,
    kafka_config,
    on_error,
    run_ready_made,
    source,
    write_rejected,
)
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.transforms.write_kafka import Partitioner, WriteToKafka

SOURCE_ORDER = ("topic", "partition", "offset")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the pipeline; returns the exit code."""
    return run_ready_made(
        argv,
        module="kafka_to_kafka",
        description="Kafka topics to a Kafka topic, exactly once.",
        add_flags=_add_flags,
        wire=_wire,
    )


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_topic", required=True)
    parser.add_argument("--output_bootstrap_servers", default=None, help="of the output; default: --bootstrap_servers")
    parser.add_argument(
        "--output_kafka_config",
        default=None,
        metavar="FILE",
        help="of the producer; default: --kafka_config, on one cluster",
    )
    parser.add_argument(
        "--partition_by", choices=get_args(Partitioner), default="key", help="partition: as in the source"
    )
    parser.add_argument("--shards", type=int, default=1, help="transactions that publish a batch side by side")
    parser.add_argument("--direct", action="store_true", help="write before the marker: faster; it cannot change later")
    parser.add_argument("--compression", choices=get_args(Compression), default="lz4")
    parser.add_argument("--transaction_timeout_s", type=float, default=60.0)
    parser.add_argument(
        "--receipts_prefix", default="beam-exactly-once", help="of the receipts topic and transactional ids"
    )
    add_rejected_output(parser, "that the topic does not take")


def _wire(stream: ExactlyOnceStream, flags: argparse.Namespace) -> None:
    is_one_cluster = flags.output_bootstrap_servers is None
    config = flags.output_kafka_config or (flags.kafka_config if is_one_cluster else None)
    sink = WriteToKafka(
        flags.bootstrap_servers if is_one_cluster else flags.output_bootstrap_servers,
        flags.output_topic,
        partitioner=flags.partition_by,
        order_by=SOURCE_ORDER,
        shards=flags.shards,
        direct=flags.direct,
        compression=flags.compression,
        transaction_timeout_s=flags.transaction_timeout_s,
        receipts_prefix=flags.receipts_prefix,
        on_error=on_error(flags),
        client_config=kafka_config(config),
        timeout_s=flags.startup_timeout_s,
    )
    write_rejected(flags, stream | "ReadFromKafka" >> source(flags, as_arrow=True) | "WriteToKafka" >> sink)


if __name__ == "__main__":
    sys.exit(main())
