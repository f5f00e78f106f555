"""Quotas of an Apache Kafka broker: a reader is slow, and loses nothing; one that can get nothing is told why."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable
from contextlib import closing

import pytest

from beam_exactly_once.errors import ReadStalled
from beam_exactly_once.kafka import KafkaSettings, open_kafka_log
from beam_exactly_once.logs import Log
from services.launch.kafka_broker import kafka_jars
from services.streams.topics import Topic

NewTopic = Callable[..., Topic]
BYTES_PER_S = 10_000


def limited_client(bootstrap_servers: str) -> dict[str, str]:
    """Properties of a client that may read :data:`BYTES_PER_S`."""
    client_id = f"limited-{secrets.token_hex(4)}"
    limit = ["--alter", "--add-config", f"consumer_byte_rate={BYTES_PER_S}"]
    tool = ["java", "-cp", f"{kafka_jars()}/*", "kafka.admin.ConfigCommand", "--bootstrap-server", bootstrap_servers]
    whom = ["--entity-type", "clients", "--entity-name", client_id]
    subprocess.run([*tool, *limit, *whom], check=True, capture_output=True)
    return {"client.id": client_id}


def open_limited(bootstrap_servers: str, no_progress_timeout_s: float) -> Log:
    config = limited_client(bootstrap_servers)
    return open_kafka_log(KafkaSettings(bootstrap_servers, config, no_progress_timeout_s=no_progress_timeout_s))


def test_a_reader_with_a_quota_gets_every_record(bootstrap_servers: str, new_topic: NewTopic) -> None:
    topic = new_topic()
    sent = [b"%04d" % number * 20 for number in range(2000)]
    for first in range(0, len(sent), 100):
        topic.send(sent[first : first + 100])

    found: list[bytes | None] = []
    with closing(open_limited(bootstrap_servers, 60.0)) as log:
        position = 0
        while position < len(sent):
            chunk = log.next_chunk(topic[0], position, len(sent))
            found += chunk.columns.values
            position = chunk.stop

    assert found == sent


def test_a_quota_below_one_batch_of_records_is_named(bootstrap_servers: str, new_topic: NewTopic) -> None:
    topic = new_topic()
    topic.send([bytes(30 * BYTES_PER_S)])
    with (
        closing(open_limited(bootstrap_servers, 5.0)) as log,
        pytest.raises(ReadStalled, match=r"at offset 0.*: a quota of this client.*consumer_byte_rate"),
    ):
        log.next_chunk(topic[0], 0, 1)
