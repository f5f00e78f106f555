"""No guarantee, no framework: a loop of confluent-kafka, Arrow's parser of JSON, and one Parquet file.

    python raw.py BOOTSTRAP_SERVERS TOPIC RECORDS GROUP

The fastest of the ways that were tried: values of many records parsed as one text, straight into columns.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet as pq
from confluent_kafka import Consumer

AT_ONCE = 10_000
SCHEMA = pa.schema([("id", pa.int64()), ("customer", pa.int32()), ("paid", pa.bool_()), ("note", pa.string())])
AS_COLUMNS = pyarrow.json.ParseOptions(explicit_schema=SCHEMA)

bootstrap_servers, topic, records, group = sys.argv[1:5]
Path("output").mkdir()
consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": group, "auto.offset.reset": "earliest"})
consumer.subscribe([topic])
left = int(records)
with pq.ParquetWriter("output/rows.parquet", SCHEMA, compression="zstd") as writer:
    while left:
        values = [message.value() for message in consumer.consume(AT_ONCE, 0.1)]
        if values:
            writer.write_table(pyarrow.json.read_json(io.BytesIO(b"\n".join(values)), parse_options=AS_COLUMNS))
            left -= len(values)
consumer.close()
