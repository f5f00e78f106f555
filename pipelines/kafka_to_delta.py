"""Ready-made pipeline: Kafka topics to a Delta Lake table, exactly once, one commit a batch.

    beam-exactly-once run kafka-to-delta \\
        --bootstrap-servers localhost:9092 --topics orders \\
        --output-location s3://lake/orders --checkpoint-location s3://checkpoints/orders

``python -m beam_exactly_once.pipelines.kafka_to_delta`` is the same. Every option of Beam is taken too. Exit codes: 0 done,
2 configuration, 3 fenced, 4 data loss, 5 checkpoint, 75 start the same command again, 1 anything else.
"""

from __future__ import annotations

import sys

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once.kafka import EVENT_DATE, RECORD_SCHEMA, with_event_date
from beam_exactly_once.pipelines.kafka_to_files import known_columns
from beam_exactly_once.pipelines.ready_made import Given, ReadyMade
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.transforms.write_delta import WriteToDelta


def _wire(stream: ExactlyOnceStream, given: Given) -> None:
    sink = given.output
    records = stream | given.read(as_arrow=True)
    schema = RECORD_SCHEMA
    if EVENT_DATE in known_columns(sink.get("partition_by", ())):
        records |= "EventDate" >> beam.Map(with_event_date).with_output_types(pa.RecordBatch)
        schema = schema.append(pa.field(EVENT_DATE, pa.date32()))
    given.write_rejected(records | WriteToDelta(**sink, schema=schema, on_error=given.on_error))


PIPELINE = ReadyMade("kafka-to-delta", "Kafka topics to a Delta Lake table, exactly once.", WriteToDelta, _wire)
main = PIPELINE.main

if __name__ == "__main__":
    sys.exit(main())
