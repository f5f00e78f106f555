"""This library, rows by a function of the user's, exactly once: docs/pipelines.md.

python ours_rows.py BOOTSTRAP_SERVERS TOPIC RECORDS GROUP {json,orjson}
"""

from __future__ import annotations

import importlib
import sys

import apache_beam as beam
import pyarrow as pa

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToFiles

SCHEMA = pa.schema([("id", pa.int64()), ("customer", pa.int32()), ("paid", pa.bool_()), ("note", pa.string())])

bootstrap_servers, topic, _, _, parser = sys.argv[1:6]
loads = importlib.import_module(parser).loads
with ExactlyOnceStream("checkpoint") as stream:
    (
        stream
        | ReadFromKafka(bootstrap_servers, [topic])
        | beam.Map(lambda record: loads(record.value))
        | WriteToFiles("output", schema=SCHEMA)
    )
