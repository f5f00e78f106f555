"""Quix Streams, by its documentation: a JSON topic, and its own sink of Parquet files.

    python quix_rows.py BOOTSTRAP_SERVERS TOPIC RECORDS GROUP

It ends by the count of records, as it offers for tests; else it would wait for more.
"""

from __future__ import annotations

import sys

from quixstreams import Application
from quixstreams.sinks.community.file.formats import ParquetFormat
from quixstreams.sinks.community.file.local import LocalFileSink

bootstrap_servers, topic, records, group = sys.argv[1:5]
app = Application(broker_address=bootstrap_servers, consumer_group=group, auto_offset_reset="earliest")
rows = app.dataframe(app.topic(topic, value_deserializer="json"))
rows.sink(LocalFileSink(directory="output", format=ParquetFormat()))
app.run(count=int(records), collect=False)
