"""``WriteToKafka`` on an Apache Kafka broker, judged by a consumer of committed records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
import pytest
from click.testing import CliRunner

from beam_exactly_once import Record
from beam_exactly_once.cli import main as cli
from beam_exactly_once.errors import Fenced, SinkAhead
from beam_exactly_once.pipelines import kafka_to_kafka, word_count
from beam_exactly_once.sinks.contract import Part
from beam_exactly_once.sinks.sharded import StagedPublisher
from services.streams.copies import Asleep, Copy, assert_exactly_once, at, fail, live, numbers_of, records_of
from services.streams.topics import Topic
from support.ending import ends_with

pytestmark = pytest.mark.runs_on("DirectRunner")
NewTopicMade = Callable[..., Topic]
KILLED = -9


# -- what is written --------------------------------------------------------------------------------------------------


def test_every_record_once_with_all_that_it_has(copy: Copy) -> None:
    copy.run(10)
    assert_exactly_once(copy, 10)
    copy.run(10)
    copy.run(15)
    assert_exactly_once(copy, 15)
    assert {record.timestamp()[1] for record in records_of(copy.bootstrap_servers, copy.topic)} == set(
        range(1_000_000, 1_000_015)
    )


@pytest.mark.parametrize("partitioner", ["key", "partition"])
def test_rows_of_all_kinds(copy: Copy, partitioner: str) -> None:
    rows = {
        0: Record("x", 2, 7, 5000, 1, b"k", b"record", (("a", b"1"), ("a", None))),
        1: {"value": b"dict", "partition": 1},
        2: {"value": None, "key": "tombstone", "partition": 0, "timestamp_ms": 6000},
        3: {"value": "\u00e9", "key": b"", "partition": 2, "headers": [("h", b"")], "other": 1},
    }
    copy.run(4, through=lambda record: [rows[int(record.value)]], partitioner=partitioner, order_by=[])
    found = {
        record.value(): (record.key(), record.headers(), record.partition())
        for record in records_of(copy.bootstrap_servers, copy.topic)
    }
    assert {value: seen[:2] for value, seen in found.items()} == {
        b"record": (b"k", [("a", b"1"), ("a", None)]),
        b"dict": (None, None),
        None: (b"tombstone", None),
        "\u00e9".encode(): (b"", [("h", b"")]),
    }
    if partitioner == "partition":
        assert {value: seen[2] for value, seen in found.items()} == {b"record": 2, b"dict": 1, None: 0, b"\xc3\xa9": 2}


def test_batches_without_rows_and_other_shards(copy: Copy) -> None:
    copy.run(8, through=lambda record: [] if int(record.value) < 6 else [record])
    copy.run(16, shards=3)
    copy.run(24, shards=1, through=lambda record: [])
    copy.run(32, shards=5)
    copy.run(36, shards=2)
    found = numbers_of(records_of(copy.bootstrap_servers, copy.topic))
    assert found == [6, 7, *range(8, 16), *range(24, 36)]


def test_two_sinks_at_one_topic_and_another_stream(copy: Copy) -> None:
    copy.run(8, second=copy.topic)
    copy.elsewhere().run(8)
    assert numbers_of(records_of(copy.bootstrap_servers, copy.topic)) == sorted([*range(8)] * 3)


# -- killed -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "occurrence", "how"),
    [
        ("init_transactions", 2, {}),
        ("the receipt was read", 2, {}),
        ("begin_transaction", 3, {}),
        ("produce", 1, {"flush": True}),
        ("produce", 4, {"flush": True}),
        ("commit", 3, {"before": True}),
        ("commit", 1, {}),
        ("commit", 4, {}),
    ],
)
def test_killed_at_every_step(copy: Copy, step: str, occurrence: int, how: dict[str, Any]) -> None:
    """What was open then is ended by the next start, at once."""
    assert live(copy, 12, step, occurrence, **how) == KILLED
    copy.run(12)
    assert_exactly_once(copy, 12)


def test_what_a_killed_driver_left_is_never_seen(copy: Copy) -> None:
    copy = replace(copy, options={"shards": 1})
    assert live(copy, 4, "commit", 1, before=True, flush=True) == KILLED
    leftovers = numbers_of(records_of(copy.bootstrap_servers, copy.topic, "read_uncommitted"))
    assert leftovers == [0, 1, 2, 3]
    assert records_of(copy.bootstrap_servers, copy.topic) == []
    copy.run(4)
    assert_exactly_once(copy, 4)
    everything = numbers_of(records_of(copy.bootstrap_servers, copy.topic, "read_uncommitted"))
    assert everything == sorted([*range(4), *leftovers])


def test_a_batch_that_is_run_again_may_be_another(copy: Copy) -> None:
    """The attempt that published a shard has won; other code changes nothing of its batch."""
    assert live(copy, 4, "commit", 1) == KILLED
    copy.run(8, through=lambda record: [record._replace(value=b"%d" % (int(record.value) + 100))])
    found = numbers_of(records_of(copy.bootstrap_servers, copy.topic))
    assert found == [0, 1, 2, 3, 104, 105, 106, 107]


def test_a_commit_whose_answer_is_lost_is_not_written_again(copy: Copy) -> None:
    with at("commit", 2, fail), ends_with("killed here"):
        copy.run(12)
    copy.run(12)
    assert_exactly_once(copy, 12)


# -- drivers that come late -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "before"),
    [("init_transactions", True), ("the receipt was read", False), ("produce", False), ("commit", True)],
)
def test_a_driver_that_was_replaced_wakes_and_is_fenced(copy: Copy, step: str, before: bool) -> None:
    occurrence = 2 if step == "init_transactions" else 1  # the first is of the start
    sleeper = Asleep(lambda: copy.run(8))
    with at(step, occurrence, sleeper.fall_asleep, before=before):
        sleeper.start()
        copy.run(12)
        error = sleeper.wake()
    assert isinstance(error, Fenced), error
    assert_exactly_once(copy, 12)
    copy.run(16)
    assert_exactly_once(copy, 16)


def test_a_batch_that_is_published_late_is_not_written(copy: Copy) -> None:
    published: list[tuple[Any, Part]] = []
    publish = StagedPublisher.publish

    def remembered(publisher: Any, part: Part) -> None:
        published.append((publisher, part))
        publish(publisher, part)

    with mock.patch.object(StagedPublisher, "publish", remembered):
        copy.run(12)
    publisher, part = published[0]
    assert part.attempt.batch_id == 0
    with pytest.raises(SinkAhead, match="holds batch 2 "):
        publisher.publish(part)
    publisher, part = published[-1]
    publisher.publish(part)  # the newest is there
    assert_exactly_once(copy, 12)


# -- the ready-made pipeline ------------------------------------------------------------------------------------------


def test_kafka_to_kafka(new_topic: NewTopicMade, output: Topic, tmp_path: Path) -> None:
    """Transactions at both ends: what was aborted in the source is not copied."""
    source = new_topic(3)
    source.send([b"0", b"1"], partition=1, key=b"k", headers=[("h", b"x")], timestamp=1_000_000)
    source.send_aborted([b"9"], partition=2)
    source.send_committed([b"2", b"3"], partition=2)
    flags = {
        "bootstrap_servers": output.bootstrap_servers,
        "topics": source.name,
        "output_topic": output.name,
        "checkpoint_location": tmp_path / "checkpoint",
        "output_partitioner": "partition",
        "output_shards": 2,
        "max_batch_offsets": 2,
    }
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    assert kafka_to_kafka.main(arguments) == 0
    assert kafka_to_kafka.main(arguments) == 0
    records = records_of(output.bootstrap_servers, output.name)
    assert [(one.partition(), one.value(), one.key(), one.headers()) for one in records] == [
        (1, b"0", b"k", [("h", b"x")]),
        (1, b"1", b"k", [("h", b"x")]),
        (2, b"2", None, None),
        (2, b"3", None, None),
    ]
    assert [one.timestamp()[1] for one in records[:2]] == [1_000_000, 1_000_000]
    look = ["verify", str(tmp_path / "checkpoint"), "--json"]
    verified = CliRunner().invoke(cli, [*look, "--output-bootstrap-servers", output.bootstrap_servers])
    assert verified.exit_code == 0, verified.output
    (receipts,) = (
        check for check in orjson.loads(verified.output)["checks"] if check["name"] == "receipts of sink kafka"
    )
    assert (receipts["examined"], receipts["faults"], receipts["notes"]) == (2, [], [])
    assert kafka_to_kafka.main([*arguments, "--output-topic=missing"]) == 2


def test_words_of_a_topic_are_counted_in_another(new_topic: NewTopicMade, output: Topic, tmp_path: Path) -> None:
    """By starts one after the other: the newest count of each word stays when the topic is compacted."""
    source = new_topic(2)
    arguments = [
        f"--bootstrap-servers={output.bootstrap_servers}",
        f"--topics={source.name}",
        f"--output-topic={output.name}",
        f"--checkpoint-location={tmp_path / 'checkpoint'}",
        "--max-batch-offsets=2",
    ]
    lines = [b"to be or", b"not to be", b"that is"]
    for partition in range(2):
        source.send(lines, partition=partition)
        assert word_count.main(arguments) == 0
    newest = {one.key(): one.value() for one in records_of(output.bootstrap_servers, output.name)}
    words = b" ".join(lines).split()
    assert newest == {word: b"%d" % (2 * words.count(word)) for word in words}
