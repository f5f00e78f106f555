"""Rows to Kafka records: shards, order, and what a topic would refuse."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest

from beam_exactly_once.errors import ConfigurationError, UnfitRow
from beam_exactly_once.kafka import RECORD_SCHEMA, Record
from beam_exactly_once.kafka.topic_admin import TopicFacts
from beam_exactly_once.rows.columns import batch_of_records
from beam_exactly_once.rows.rejected import rejected_of
from beam_exactly_once.sinks.kafka.rows import (
    as_staged,
    batch_of,
    batch_of_batch,
    by_shard_of,
    given_schema,
    in_order,
    outgoing,
    record_of,
    refuse_what_a_topic_refuses,
    staged_schema,
)

PLAIN = staged_schema(False, ())
NOW_MS = 1_700_000_000_000


def topic(partitions: int = 3, **config: object) -> TopicFacts:
    settings = {name.replace("_", "."): str(value) for name, value in config.items()}
    return TopicFacts("orders", partitions, 1, frozenset(), settings)


def records(*rows: Any, schema: pa.Schema = PLAIN) -> pa.RecordBatch:
    return batch_of(rows, schema)


def test_kafka_records_arrow_batches_and_rows_become_the_same_columns() -> None:
    rows = [
        Record("x", 1, 7, 5000, 1, b"k", b"v", (("h", b"1"), ("h", None))),
        Record("x", 2, 8, 6000, 1, None, None),
    ]
    schema = staged_schema(True, ["offset"])
    assert schema.names == ["partition", "offset", "timestamp_ms", "key", "value", "headers"]
    by_fields = batch_of_records([field for row in rows for field in row], schema)
    arrow = pa.RecordBatch.from_pylist(
        [{**row._asdict(), "headers": [{"key": k, "value": v} for k, v in row.headers]} for row in rows], RECORD_SCHEMA
    )
    assert by_fields == batch_of_batch(arrow, schema) == records(*rows, schema=schema)
    sent = outgoing(by_fields, by_partition=True)
    assert sent == ([b"v", None], [b"k", None], [5000, 6000], [1, 2], [[("h", b"1"), ("h", None)], []])


def test_what_is_missing_is_left_to_kafka() -> None:
    assert outgoing(records({"value": b"v"}), by_partition=False) == ([b"v"], None, None, None, None)
    of_values = pa.record_batch({"value": pa.array([b"a", b"b"], pa.binary()), "id": [1, 2]})
    assert outgoing(batch_of_batch(of_values, PLAIN), by_partition=False).values == [b"a", b"b"]


def test_no_timestamp_is_the_time_of_publishing() -> None:
    rows = [
        {"value": b"v", "timestamp_ms": -1, "timestamp_type": 0},
        {"value": b"v", "timestamp_ms": None, "timestamp_type": 1},
        {"value": b"v"},
        Record(value=b"v"),
        Record(value=b"v", timestamp_ms=-1),
        Record(value=b"v", timestamp_ms=5),
    ]
    staged = as_staged(records(*rows, schema=given_schema(PLAIN)), PLAIN)
    refuse_what_a_topic_refuses(staged, topic(), now_ms=NOW_MS)
    assert outgoing(staged, by_partition=False).timestamps_ms == [0, 0, 0, 0, 0, 5]


@pytest.mark.parametrize(
    "row",
    [
        {"timestamp_ms": 0},
        {"timestamp_ms": -1},
        {"timestamp_ms": -2},
        {"timestamp_ms": -2, "timestamp_type": 0},
        {"timestamp_ms": 0, "timestamp_type": 1},
        {"timestamp_ms": -1, "timestamp_type": 1},
        {"timestamp_ms": -1, "timestamp_type": 2},
    ],
    ids=str,
)
def test_a_time_that_the_client_would_change_is_refused(row: dict[str, Any]) -> None:
    staged = as_staged(records({"value": b"v", **row}, schema=given_schema(PLAIN)), PLAIN)
    with pytest.raises(UnfitRow, match=f"timestamp_ms={row['timestamp_ms']}, which the Kafka client cannot write"):
        refuse_what_a_topic_refuses(staged, topic(), now_ms=NOW_MS)
    refuse_what_a_topic_refuses(staged, topic(message_timestamp_type="LogAppendTime"), now_ms=NOW_MS)


def test_a_rejected_record_keeps_what_it_had_and_says_why_in_headers() -> None:
    record = Record("orders", 3, 17, 0, 1, b"key", b"{broken", (("trace", b"\xff"),))
    rejected = rejected_of(record, ValueError("no JSON: \u00e9"), step="decode_records")
    assert record_of(rejected) == {
        "topic": "orders",
        "partition": 3,
        "offset": 17,
        "key": b"key",
        "value": b"{broken",
        "headers": [
            ("trace", b"\xff"),
            ("rejected.step", b"decode_records"),
            ("rejected.error", b"ValueError"),
            ("rejected.reason", "no JSON: \u00e9".encode()),
            ("rejected.topic", b"orders"),
            ("rejected.partition", b"3"),
            ("rejected.offset", b"17"),
            ("rejected.timestamp_ms", b"0"),
        ],
    }


def test_a_rejected_row_that_was_no_record_is_its_text() -> None:
    written = record_of(rejected_of({"n": "x"}, ValueError("no number"), step="files"))
    assert (written["key"], written["value"], dict(written["headers"])) == (
        None,
        b"{'n': 'x'}",
        {"rejected.step": b"files", "rejected.error": b"ValueError", "rejected.reason": b"no number"},
    )


@pytest.mark.parametrize("row", [{"id": 1, "text": "x"}, {}, 7, b"bytes"])
def test_a_row_without_a_value_is_refused(row: object) -> None:
    with pytest.raises(UnfitRow, match="without a value"):
        records({"value": b"v"}, row)


def test_an_arrow_batch_without_values_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'value'"):
        batch_of_batch(pa.record_batch({"id": [1]}), PLAIN)


@pytest.mark.parametrize("value", [7, {"id": 1}])
def test_a_value_that_is_neither_bytes_nor_text_is_refused(value: object) -> None:
    with pytest.raises(UnfitRow, match="column 'value'"):
        records({"value": value})


def test_a_key_has_one_shard_and_records_without_one_are_spread() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    keys = random.Random(seed).choices([None, b"a", b"b", b"c", b"\xff"], k=200)
    batch = records(*({"value": b"%d" % number, "key": key} for number, key in enumerate(keys)))
    shards: dict[bytes | None, set[int]] = {}
    found = []
    for shard, part in by_shard_of(batch, 4, by_partition=False):
        assert part.column("value").to_pylist() == sorted(part.column("value").to_pylist(), key=int)
        for row in part.to_pylist():
            shards.setdefault(row["key"], set()).add(shard)
            found.append(int(row["value"]))
    assert sorted(found) == list(range(200))
    assert shards.pop(None) == {0, 1, 2, 3}
    assert all(len(of_key) == 1 for of_key in shards.values())


def test_a_partition_has_one_shard() -> None:
    batch = records(*({"value": b"v", "partition": n % 5} for n in range(20)), schema=staged_schema(True, ()))
    found = {
        shard: set(part.column("partition").to_pylist()) for shard, part in by_shard_of(batch, 2, by_partition=True)
    }
    assert found == {0: {0, 2, 4}, 1: {1, 3}}


def test_a_batch_is_sorted_over_all_that_was_staged() -> None:
    schema = staged_schema(False, ["partition", "offset"])
    places = [(partition, offset) for partition in range(2) for offset in range(50)]
    random.Random(1).shuffle(places)
    batches = [
        records(
            *(
                {"value": b"%d-%d" % place, "partition": place[0], "offset": place[1]}
                for place in places[start : start + 9]
            ),
            schema=schema,
        )
        for start in range(0, 100, 9)
    ]
    values = [
        value for batch in in_order(iter(batches), ["partition", "offset"]) for value in batch["value"].to_pylist()
    ]
    assert values == [b"%d-%d" % place for place in sorted(places)]
    assert list(in_order(iter(batches), [])) == batches
    assert list(in_order(iter([]), ["offset"])) == []


@pytest.mark.parametrize(
    ("row", "facts", "refusal"),
    [
        ({"value": bytes(900)}, topic(max_message_bytes=1000), "takes 1000"),
        ({"value": b"", "key": bytes(900)}, topic(max_message_bytes=1000), "takes 1000"),
        ({"value": b"", "headers": [("h", bytes(450))] * 2}, topic(max_message_bytes=1000), "takes 1000"),
        ({"value": b""}, topic(cleanup_policy="compact,delete"), "is compacted"),
        ({"value": b"", "headers": [("h", b""), (None, b"")]}, topic(), "header without a name"),
        ({"value": b"", "partition": 3}, topic(), "partition 3 of topic orders, which has partitions 0 to 2"),
        ({"value": b"", "partition": -1}, topic(), "partition -1"),
        ({"value": b""}, topic(), "partition None"),
        ({"value": b"", "timestamp_ms": NOW_MS + 5001}, topic(message_timestamp_after_max_ms=5000), "after"),
        ({"value": b"", "timestamp_ms": NOW_MS - 5001}, topic(message_timestamp_before_max_ms=5000), "before"),
    ],
)
def test_what_a_topic_refuses_is_refused_before_the_commit(
    row: Mapping[str, Any], facts: TopicFacts, refusal: str
) -> None:
    schema = staged_schema("partition" in refusal, ())
    fine = {"value": b"v", "key": b"k", "partition": 1, "timestamp_ms": NOW_MS}
    refuse_what_a_topic_refuses(records(fine, schema=schema), facts, now_ms=NOW_MS)
    with pytest.raises(UnfitRow, match=refusal):
        refuse_what_a_topic_refuses(records(fine, row, schema=schema), facts, now_ms=NOW_MS)


def test_a_record_is_as_large_as_its_own_parts() -> None:
    """A large value and large headers of another are no large record; the rows of a slice are counted from its first."""
    batch = records(
        {"value": b"", "headers": [("h", bytes(400))] * 2},
        {"value": bytes(800)},
        {"value": b"", "headers": []},
        {"value": b"", "key": bytes(400), "headers": [("h", bytes(300))]},
        {"value": bytes(100), "headers": [("h", bytes(400))] * 2},
    )
    facts = topic(max_message_bytes=1000)
    refuse_what_a_topic_refuses(batch.slice(0, 4), facts, now_ms=NOW_MS)
    refuse_what_a_topic_refuses(batch.slice(2, 2), facts, now_ms=NOW_MS)
    with pytest.raises(UnfitRow, match="of up to 1050 bytes"):
        refuse_what_a_topic_refuses(batch.slice(3), facts, now_ms=NOW_MS)


def test_a_topic_that_sets_timestamps_itself_takes_any() -> None:
    facts = topic(message_timestamp_after_max_ms=5000, message_timestamp_type="LogAppendTime")
    row = {"value": b"", "timestamp_ms": NOW_MS * 1000}
    refuse_what_a_topic_refuses(records(row), facts, now_ms=NOW_MS)


def test_a_topic_of_which_nothing_is_known_takes_anything() -> None:
    refuse_what_a_topic_refuses(records({"value": bytes(10_000_000)}), topic(), now_ms=NOW_MS)
