"""What ``beam-exactly-once verify`` checks of a Kafka output: its receipts against the markers."""

from __future__ import annotations

from beam_exactly_once.checkpoint.findings import Check
from beam_exactly_once.checkpoint.verification import Contents
from beam_exactly_once.errors import BeamExactlyOnceError, SinkUnavailable
from beam_exactly_once.kafka import KafkaSettings
from beam_exactly_once.kafka.receipts_topic import ReceiptsTopic
from beam_exactly_once.sinks.kafka.shards import read_receipt, receipts_topic_name
from beam_exactly_once.sinks.receipts import Receipt, text_receipt
from beam_exactly_once.sinks.verification import ReceiptCheck


def verify_topic(contents: Contents, sink: str, connection: KafkaSettings) -> Check:
    """Check that the receipts of a Kafka output are those of the newest marker. Reads only.

    Args:
        contents: of the checkpoint.
        sink: name of a sink of Kafka.
        connection: of the cluster that it writes to.

    What cannot be looked at is a fault of the check, not an error of the call.
    """
    check = Check(f"receipts of sink {sink}")
    definition = contents.sinks[sink]
    where = f"sink {sink!r}, topic {definition['topic']}"
    newest = contents.markers.get(contents.newest_id)
    shards = 0 if newest is None else newest.shards.get(sink, 0)
    topic = ReceiptsTopic(
        connection, receipts_topic_name(str(definition["receipts_prefix"]), contents.checkpoint.stream_id, sink)
    )
    try:
        found = {}
        for shard in range(shards):
            receipt = _receipt(topic, shard)
            if receipt is not None:
                found[shard] = receipt
        ReceiptCheck(contents, sink, where).compare(check, found)
    except SinkUnavailable as error:  # a driver may be writing
        check.notes.append(f"not looked at: {error}")
    except BeamExactlyOnceError as error:
        check.fault(where, f"the receipts cannot be looked at: {error}")
    finally:
        topic.close()
    return check


def _receipt(topic: ReceiptsTopic, shard: int) -> Receipt | None:
    value = topic.newest(shard)
    return None if value is None else text_receipt(read_receipt(value, topic.name, shard), topic.name)
