"""This library, JSON to typed columns, exactly once: docs/decoding.md.

python ours_columns.py BOOTSTRAP_SERVERS TOPIC RECORDS GROUP
"""

from __future__ import annotations

import sys

import pyarrow as pa

from beam_exactly_once import ExactlyOnceStream, JsonDecoder, ReadFromKafka, WriteToFiles

SCHEMA = pa.schema([("id", pa.int64()), ("customer", pa.int32()), ("paid", pa.bool_()), ("note", pa.string())])

bootstrap_servers, topic = sys.argv[1:3]
with ExactlyOnceStream("checkpoint") as stream:
    (
        stream
        | ReadFromKafka(bootstrap_servers, [topic], decoder=JsonDecoder(SCHEMA), as_arrow=True)
        | WriteToFiles("output")
    )
