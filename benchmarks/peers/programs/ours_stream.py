"""This library as a stream that goes on: Kafka to files or to a topic, exactly once, records as they are.

python ours_stream.py BOOTSTRAP_SERVERS TOPIC GROUP {files,kafka}
"""

from __future__ import annotations

import sys

from beam_exactly_once import ExactlyOnceStream, ProcessingTime, ReadFromKafka, WriteToFiles, WriteToKafka

bootstrap_servers, topic, _, sink = sys.argv[1:5]
write = WriteToFiles("output") if sink == "files" else WriteToKafka(bootstrap_servers, f"{topic}-out")
with ExactlyOnceStream("checkpoint", trigger=ProcessingTime(0)) as stream:
    _ = stream | ReadFromKafka(bootstrap_servers, [topic], as_arrow=True) | write
