"""Records that a topic would refuse: in a sink of their own, with the reason, in the batch that they came with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, Record, WriteToKafka
from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.pipelines import kafka_to_kafka
from beam_exactly_once.testing import MemoryKafka
from services.streams.copies import Copy, alter_config, assert_exactly_once, at, fail, numbers_of, records_of
from services.streams.topics import Topic
from support.ending import ends_with
from support.rejected_rows import markers, rejected_in

pytestmark = pytest.mark.runs_on("DirectRunner")

UNFIT_ROW = "beam_exactly_once.errors.UnfitRow"
LARGE = bytes(6000)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Where rejected rows go."""
    return tmp_path / "bad"


@pytest.mark.parametrize(
    ("unfit", "reason"),
    [
        (7, "row of type int without a value"),
        ({"key": b"k"}, "row of type dict without a value"),
        ({"key": b"k", "value": 7}, "column 'value' is binary"),
        ({"key": b"k", "value": LARGE}, "takes 5000 (max.message.bytes"),
        ({"key": b"k", "value": b"", "headers": [("h", bytes(3000))] * 2}, "takes 5000 (max.message.bytes"),
        ({"key": b"k", "value": b"", "headers": [(None, b"")]}, "header without a name"),
        ({"value": b"no key", "partition": 0}, "without a key, but topic"),
        ({"key": b"k", "value": b"", "partition": 3}, "for partition 3 of topic"),
        ({"key": b"k", "value": b""}, "for partition None of topic"),
        ({"key": b"k", "value": b"", "timestamp_ms": 0}, "timestamp_ms=0, which the Kafka client cannot write"),
        ({"key": b"k", "value": b"", "partition": 0, "timestamp_ms": 10**13}, "(message.timestamp.after.max.ms)"),
    ],
)
def test_what_a_topic_would_refuse(
    new_topic: Callable[..., Topic], copy: Copy, bad: Path, unfit: Any, reason: str
) -> None:
    config = {"cleanup_policy": "compact", "max_message_bytes": 5000, "message_timestamp_after_max_ms": 3_600_000}
    copy = replace(copy, topic=new_topic(3, **config).name)
    options: dict[str, Any] = {"partitioner": "partition" if "partition" in reason else "key"}

    def through(record: Record) -> list[Any]:
        return [unfit] if int(record.value or b"") in (1, 5, 6) else [record]

    with pytest.raises(UnfitRow) as caught:
        copy.run(8, through=through, **options)
    assert reason in str(caught.value)
    copy.run(8, through=through, rejected=bad, **options)
    assert numbers_of(records_of(copy.bootstrap_servers, copy.topic)) == [0, 2, 3, 4, 7]
    found = rejected_in(bad, "step", "error", "reason")
    assert [[row[:2] for row in batch] for batch in found] == [[("kafka", UNFIT_ROW)], [("kafka", UNFIT_ROW)] * 2]
    assert all(reason in row[2] for batch in found for row in batch)
    decided = markers(copy.checkpoint)
    assert [
        (marker.records_rejected, marker.rows_written.get("kafka", 0), marker.rows_written.get("rejected", 0))
        for marker in decided
    ] == [
        ({"kafka": 1}, 3, 1),
        ({"kafka": 2}, 2, 2),
    ]


def too_large(record: Record) -> list[Record]:
    """Of each four the second."""
    return [record._replace(value=LARGE) if int(record.value or b"") % 4 == 1 else record]


@pytest.mark.parametrize(
    ("step", "occurrence", "before"),
    [
        ("begin_transaction", 1, True),
        ("produce", 1, False),
        ("commit", 1, True),
        ("commit", 1, False),
        ("commit", 3, False),
    ],
)
def test_killed_in_between_neither_records_nor_rejected_ones_are_lost_or_doubled(
    copy: Copy, admin: AdminClient, bad: Path, step: str, occurrence: int, before: bool
) -> None:
    alter_config(admin, copy.topic, "max.message.bytes", "5000")
    with at(step, occurrence, fail, before=before), ends_with("killed here"):
        copy.run(12, through=too_large, rejected=bad)
    copy.run(12, through=too_large, rejected=bad)
    fitting = [number for number in range(12) if number % 4 != 1]
    assert numbers_of(records_of(copy.bootstrap_servers, copy.topic)) == fitting
    assert rejected_in(bad, "topic", "offset", "value", "row") == [
        [("numbers", offset, LARGE, None)] for offset in (1, 5, 9)
    ]


def test_a_topic_that_takes_more_meanwhile_is_asked_again(copy: Copy, admin: AdminClient, bad: Path) -> None:
    """This process knows the lower limit."""
    alter_config(admin, copy.topic, "max.message.bytes", "5000")
    copy.run(4, through=too_large, rejected=bad)
    alter_config(admin, copy.topic, "max.message.bytes", "10000")
    copy.run(8, through=too_large, rejected=bad)
    assert rejected_in(bad, "offset") == [[(1,)], []]
    assert [len(record.value()) for record in records_of(copy.bootstrap_servers, copy.topic)].count(len(LARGE)) == 1


def test_none_is_rejected_where_all_fit(copy: Copy, bad: Path) -> None:
    copy.run(12, rejected=bad)
    assert_exactly_once(copy, 12)
    assert rejected_in(bad, "row") == [[], [], []]


def test_rejected_records_of_another_step_say_why_in_their_headers(new_topic: Callable[..., Topic], copy: Copy) -> None:
    letters = new_topic(1)
    cluster = MemoryKafka({"orders": 1})
    bad = Record("orders", 0, 0, 0, 1, b"key", b"{broken", (("trace", b"\xff"),))
    cluster.append([Record("orders", value=b"1"), bad])
    with cluster.serving(), ExactlyOnceStream(copy.checkpoint) as stream:
        source = ReadFromKafka("memory:9092", ["orders"], decoder=as_number, on_error="reject")
        rows, rejected = stream | source
        _ = rows | WriteToKafka(copy.bootstrap_servers, copy.topic)
        _ = rejected | "Letters" >> WriteToKafka(copy.bootstrap_servers, letters.name, name="letters")
    (found,) = records_of(letters.bootstrap_servers, letters.name)
    assert numbers_of(records_of(copy.bootstrap_servers, copy.topic)) == [1]
    assert (found.key(), found.value()) == (b"key", b"{broken")
    assert found.headers() == [
        ("trace", b"\xff"),
        ("rejected.step", b"decode_records"),
        ("rejected.error", b"ValueError"),
        ("rejected.reason", b"invalid literal for int() with base 10: b'{broken'"),
        ("rejected.topic", b"orders"),
        ("rejected.partition", b"0"),
        ("rejected.offset", b"1"),
        ("rejected.timestamp_ms", b"0"),
    ]


def as_number(record: Record) -> dict[str, bytes]:
    return {"value": b"%d" % int(record.value or b"")}


def test_kafka_to_kafka(new_topic: Callable[..., Topic], tmp_path: Path, bad: Path) -> None:
    source, output = new_topic(1), new_topic(1, max_message_bytes=5000)
    source.send([b"0", b"large" + LARGE, b"2"], key=b"k")
    arguments = [
        f"--bootstrap-servers={source.bootstrap_servers}",
        f"--topics={source.name}",
        f"--output-topic={output.name}",
        f"--checkpoint-location={tmp_path}/checkpoint",
    ]
    assert kafka_to_kafka.main(arguments) == 2
    assert kafka_to_kafka.main([*arguments, f"--rejected-location={bad}"]) == 0
    assert numbers_of(records_of(output.bootstrap_servers, output.name)) == [0, 2]
    assert rejected_in(bad, "topic", "offset", "key", "value") == [[(source.name, 1, b"k", b"large" + LARGE)]]
