"""Kafka, two databases, files and a Delta table in one stream: a batch is in all of them, or will be, or in none."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import orjson
import pytest
from confluent_kafka.admin import AdminClient

from beam_exactly_once import (
    DecodeRecords,
    ExactlyOnceStream,
    ReadFromKafka,
    Record,
    Rejected,
    WriteToKafka,
    WriteToSql,
    secret_from_env,
)
from beam_exactly_once.errors import StepFailed
from beam_exactly_once.testing.crashing import ANY, KillPoint, StoreCalls, watching
from beam_exactly_once.testing.hooked_publisher import hooked
from services.conftest import address
from services.streams.copies import alter_config, records_of
from services.streams.mixed_stream import (
    DATABASES,
    OFFSETS_PER_BATCH,
    SINKS,
    MixedStream,
    StagingEnds,
    after_publishes,
    everywhere,
    killed_between,
)
from services.streams.topics import Topic
from support.ending import Killed, ends_with, kill
from support.lives import in_a_process

pytestmark = pytest.mark.runs_on("DirectRunner")
NewTopicMade = Callable[..., Topic]


@pytest.fixture
def source(new_topic: NewTopicMade) -> Topic:
    return new_topic(1)


@pytest.fixture
def mixed(source: Topic, output: Topic, tmp_path: Path) -> Iterator[MixedStream]:
    for service, variable in DATABASES.items():
        address(service, variable)
    stream = MixedStream(source.bootstrap_servers, source.name, output.name, str(tmp_path))
    stream.create_tables()
    yield stream
    for name in DATABASES:
        stream.execute(name, f"DROP TABLE {stream.table}")


def send_batches(source: Topic, count: int, *, aborted: int) -> list[list[int]]:
    """Transactions of three, each a batch with its marker, one aborted. Returns the numbers that each batch shows."""
    batches = [list(range(3 * batch, 3 * batch + 3)) for batch in range(count)]
    for batch, numbers in enumerate(batches):
        (source.send_aborted if batch == aborted else source.send_committed)(b"%d" % number for number in numbers)
    return [[] if batch == aborted else numbers for batch, numbers in enumerate(batches)]


def joined(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


# -- all or nothing --------------------------------------------------------------------------------------------------


def test_nothing_of_a_batch_is_final_before_all_of_it_is_staged(mixed: MixedStream, source: Topic) -> None:
    """Whichever sink it is whose staging fails."""
    batches = send_batches(source, 7, aborted=6)
    for batch_id, sink in enumerate(SINKS, start=1):
        with watching(StagingEnds(sink, batch_id, kill)), ends_with("killed here"):
            mixed.run()
        assert mixed.ids() == everywhere(joined(batches[:batch_id])), sink
    mixed.run()
    assert mixed.ids() == everywhere(joined(batches))


def test_a_process_iskilled_between_two_publishes(mixed: MixedStream, source: Topic) -> None:
    """The batch is in some sinks; the next start writes it to the others."""
    batches = send_batches(source, 7, aborted=3)
    for batch_id, publishes in [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (6, 5)]:
        with in_a_process(killed_between, mixed, publishes, batch_id) as life:
            assert life.wait() == -signal.SIGKILL
        before, now = joined(batches[:batch_id]), joined(batches[: batch_id + 1])
        shown = mixed.ids()
        assert shown.pop("files") == before, "files show a batch when all of it is published"
        print(f"batch {batch_id} is in {[sink for sink, ids in shown.items() if ids == now]}")
        assert all(ids in (before, now) for ids in shown.values()), shown
        if batches[batch_id]:
            assert publishes - 1 <= list(shown.values()).count(now) <= publishes
    mixed.run()
    assert mixed.ids() == everywhere(joined(batches))


def test_what_cannot_be_decoded_is_in_a_second_sink_of_the_same_batch(
    mixed: MixedStream, source: Topic, output: Topic
) -> None:
    """Also when it was killed between the two."""
    source.send([b'{"id": 0}', b"broken", b'{"id": 1}', b"[", b'{"id": 2}', b"null!", b'{"id": 3}', b"more"])

    def run(act: Callable[[], None]) -> None:
        stream = ExactlyOnceStream(f"{mixed.root}/checkpoint")
        records = stream | ReadFromKafka(mixed.bootstrap_servers, [source.name], max_batch_offsets=4)
        rows, rejected = records | DecodeRecords(order_of, on_error="reject")
        _ = rows | "Rows" >> WriteToSql(secret_from_env("POSTGRES_URL"), mixed.table, name="rows")
        dead = rejected | "Records" >> beam.Map(record_of)
        _ = dead | "Dead" >> WriteToKafka(mixed.bootstrap_servers, output.name, name="dead", order_by=["key"])
        with hooked(stream, after_publishes(1, batch_id=1, act=act)):
            stream.run()

    with ends_with("killed here"):
        run(kill)
    run(lambda: None)
    dead = [(one.key(), one.value()) for one in records_of(mixed.bootstrap_servers, output.name)]
    assert sorted(dead) == [(b"1", b"broken"), (b"3", b"["), (b"5", b"null!"), (b"7", b"more")]
    assert mixed.execute("postgres", f"SELECT id FROM {mixed.table} ORDER BY id") == [(0,), (1,), (2,), (3,)]


def order_of(record: Record) -> dict[str, Any]:
    return {"id": orjson.loads(record.value or b"")["id"], "text": "an order"}


def record_of(rejected: Rejected) -> dict[str, Any]:
    return {"key": str(rejected.offset), "value": rejected.value}


# -- other rows at each attempt --------------------------------------------------------------------------------------


def chaotic(life: str) -> Any:
    """Rows with chance and the clock in them, in another order, in groups that the next attempt does not have."""

    def expand(rows: beam.PCollection[Any]) -> Any:
        return (
            rows
            | "Chance" >> beam.Map(lambda row: (random.randrange(3), {**row, "text": f"{life} {time.time_ns()}"}))
            | "Groups" >> beam.GroupByKey()
            | "Shuffled" >> beam.FlatMap(lambda group: random.sample(list(group[1]), len(list(group[1]))))
            | "Noise" >> beam.Map(lambda row: {**row, "text": f"{row['text']} {random.random()}"})
        )

    return beam.ptransform_fn(expand)()


def test_a_pipeline_of_chance_and_clock_with_other_code_and_shards_at_each_start(
    mixed: MixedStream, source: Topic
) -> None:
    """All sinks show one attempt's batch, the same one, whole; and never another one later."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    source.send(b"%d" % number for number in range(5 * OFFSETS_PER_BATCH))
    shown: dict[int, str] = {}
    for number in range(5):
        point = KillPoint(ANY, "", chance.randint(30, 110))
        try:
            with watching(StoreCalls(point, kill)):
                mixed.run(through=chaotic(f"life {number}"), shards=chance.randint(1, 4))
        except (Killed, StepFailed) as error:
            if Killed.__name__ not in f"{error!r} {error.__cause__!r}":
                raise
        shown = still_there(mixed, shown)
    mixed.run(through=chaotic("the last life"), shards=2)
    still_there(mixed, shown)
    assert mixed.ids() == everywhere(list(range(5 * OFFSETS_PER_BATCH)))
    tables = mixed.shown()
    for batch in mixed.batches_of_files():
        ids = {row["id"] for row in batch}
        of_batch = {name: [row for row in rows if row["id"] in ids] for name, rows in tables.items()}
        lives = {row["text"].rpartition(" ")[0].rpartition(" ")[0] for rows in of_batch.values() for row in rows}
        assert len(lives) == 1, of_batch


def still_there(mixed: MixedStream, before: dict[int, str]) -> dict[int, str]:
    """What the topic shows now, with all that it has shown ``before``."""
    now = {row["id"]: row["text"] for row in mixed.shown()["topic"]}
    assert {one: now.get(one) for one in before} == before
    return now


# -- compaction ------------------------------------------------------------------------------------------------------

VALUE_BYTES = 200 * 1024  # 5 fill a segment, and the one that is written to is not compacted


@pytest.mark.parametrize("is_committed", [False, True])
def test_the_source_is_compacted_between_two_attempts_of_a_batch(
    mixed: MixedStream, new_topic: NewTopicMade, admin: AdminClient, is_committed: bool
) -> None:
    """The sinks show what the attempt read that won, and nothing of another."""
    source = new_topic(1, segment_bytes=1024 * 1024, min_cleanable_dirty_ratio="0.01")
    mixed = MixedStream(mixed.bootstrap_servers, source.name, mixed.topic, mixed.root, mixed.table)
    for number in range(30):
        key = b"once" if number in (1, 5) else b"%d" % (number % 3)
        source.send([b"%d|" % number + bytes(VALUE_BYTES)], key=key)
    committed = StoreCalls(KillPoint("put_if_absent", "commits/", 2), kill)
    with watching(committed if is_committed else StagingEnds("mariadb", 1, kill)), ends_with("killed here"):
        mixed.run()
    assert mixed.ids() == everywhere([0, 1, 2, 3])
    alter_config(admin, source.name, "cleanup.policy", "compact")
    assert source.wait_compacted(max_records=9) == [5, *range(22, 30)]
    mixed.run()
    won = range(4, 8) if is_committed else [5]
    assert mixed.ids() == everywhere([0, 1, 2, 3, *won, *range(22, 30)])
