"""Quix Streams as a stream that goes on: Kafka to a topic, exactly once, records as they are, a transaction a second.

python quix_stream.py BOOTSTRAP_SERVERS TOPIC GROUP kafka
"""

from __future__ import annotations

import sys

from quixstreams import Application

bootstrap_servers, topic, group, _ = sys.argv[1:5]
app = Application(
    broker_address=bootstrap_servers,
    consumer_group=group,
    auto_offset_reset="earliest",
    processing_guarantee="exactly-once",
    commit_interval=1.0,
)
records = app.dataframe(app.topic(topic, value_deserializer="bytes"))
records.to_topic(app.topic(f"{topic}-out", value_serializer="bytes"))
app.run()
