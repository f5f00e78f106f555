"""What ``WriteToKafka`` takes, and what it puts into the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToKafka, secret_from_env
from beam_exactly_once.errors import ConfigurationError, UnsupportedPipeline


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topic": ""}, "cannot name a Kafka topic"),
        ({"topic": "orders/1"}, "cannot name a Kafka topic"),
        ({"bootstrap_servers": ""}, "bootstrap_servers"),
        ({"partitioner": "value"}, "'key' or 'partition'"),
        ({"order_by": "offset"}, r"order_by='offset' must be a list of fields: order_by=\['offset'\]"),
        ({"order_by": ["price"]}, "'price' is not a field"),
        ({"order_by": ["headers"]}, "'headers' is not a field"),
        ({"shards": 0}, "shards=0"),
        ({"compression": "rar"}, "compression='rar'"),
        ({"transaction_timeout_s": 0.5}, "transaction_timeout_s"),
        ({"receipts_prefix": "my receipts"}, "receipts_prefix"),
        ({"client_config": {"sasl.password": "plain"}}, "must not be plain text"),
        ({"client_config": {"transactional.id": "mine"}}, "transactional.id cannot be set"),
        ({"timeout_s": 0}, "timeout_s"),
    ],
)
def test_impossible_arguments_are_refused_at_once(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        WriteToKafka(**{"bootstrap_servers": "broker:9092", "topic": "orders", **change})


def test_an_ordinary_pipeline_is_refused() -> None:
    with pytest.raises(UnsupportedPipeline, match="ExactlyOnceStream"):
        _ = beam.Pipeline() | beam.Create([]) | WriteToKafka("broker:9092", "orders")


def test_neither_pipeline_nor_checkpoint_have_a_secret_or_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD", "s3cret-of-kafka")
    stream = ExactlyOnceStream(str(tmp_path))
    sink = WriteToKafka("broker:9092", "copies", client_config={"sasl.password": secret_from_env("PASSWORD")})
    _ = stream | ReadFromKafka("broker:9092", ["orders"]) | sink
    assert b"s3cret-of-kafka" not in stream.to_runner_api().SerializeToString()
    (spec,) = stream.stream_graph.sinks.values()
    assert spec.definition == {"kind": "kafka", "topic": "copies", "receipts_prefix": "beam-exactly-once"}
