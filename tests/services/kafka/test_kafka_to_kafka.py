"""What ``kafka-to-kafka`` refuses at the start, after a look at the topics of an Apache Kafka broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from beam_exactly_once.pipelines import kafka_to_kafka
from services.streams.copies import numbers_of, records_of
from services.streams.topics import Topic

NewTopic = Callable[..., Topic]


def arguments(source: Topic, output: Topic, folder: Path, *more: str) -> list[str]:
    return [
        f"--bootstrap-servers={source.bootstrap_servers}",
        f"--topics={source.name}",
        f"--output-topic={output.name}",
        f"--checkpoint-location={folder}/checkpoint",
        *more,
    ]


def test_a_topic_is_not_copied_to_itself_by_another_address(
    new_topic: NewTopic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = new_topic()
    topic.send([b"0"])
    elsewhere = topic.bootstrap_servers.replace("127.0.0.1", "localhost")
    flags = arguments(topic, topic, tmp_path, f"--output-bootstrap-servers={elsewhere}")

    assert kafka_to_kafka.main(flags) == 2
    assert f"--output-topic={topic.name} is one of the topics that are read" in capsys.readouterr().err
    assert numbers_of(records_of(topic.bootstrap_servers, topic.name)) == [0]


def test_an_output_with_fewer_partitions_is_refused_where_partitions_are_kept(
    new_topic: NewTopic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = new_topic(3), new_topic(2)
    source.send([b"0"])

    assert kafka_to_kafka.main(arguments(source, output, tmp_path, "--output-partitioner=partition")) == 2
    error = capsys.readouterr().err
    assert (
        f"{output.name} has 2 partitions, but with --output-partitioner=partition it needs one for {source[2]}" in error
    )
    output.grow(3)
    assert kafka_to_kafka.main(arguments(source, output, tmp_path, "--output-partitioner=partition")) == 0
    assert numbers_of(records_of(output.bootstrap_servers, output.name)) == [0]
