"""The stories of sinks on a real Kafka and on real databases."""

from __future__ import annotations

import secrets
import threading
from contextlib import closing
from typing import Any

import apache_beam as beam
import pytest
import sqlalchemy as sa

from beam_exactly_once import WriteToKafka, WriteToSql, secret_from_env
from beam_exactly_once.testing import STORIES, SinkUnderTest, Story, conformance
from beam_exactly_once.testing.conformance import Row
from beam_exactly_once.testing.sink_world import World, kill, three_batches
from services.streams.mixed_stream import after_publishes
from services.streams.topics import Topic

LATE_BATCHES = 20
"""A batch takes a tenth of a second and more. After 20 all of an old one is swept, as after 500: plan, marker, staged rows. What
is left are the receipts, which know nothing but the newest batch. test_zombies.py has a driver that wakes as late."""
OF_TOPICS = [
    story
    for story in STORIES
    if story.check
    not in (
        conformance.killed_after_every_call_to_the_checkpoint,
        conformance.two_of_it_in_one_stream_each_have_every_row,
    )
]
"""All but the kills between which nothing becomes of a topic: what does is around the calls to the publisher. Files, tables
and sinks with receipts are told them, and test_write_kafka.py kills processes. And but two topics that are killed around every
call, in which the second is nothing to Kafka but other names: one kill between them has a test below."""
OF_SERVERS = [
    story
    for story in STORIES
    if story.check
    in (
        conformance.a_second_driver_at_every_call,
        conformance.a_late_publish_wakes_after_many_batches,
        conformance.published_by_two_at_once,
        conformance.a_replay_that_gives_other_rows_in_another_order,
        conformance.a_checkpoint_of_five_batches_ago_is_refused,
        conformance.a_wiped_checkpoint_skips_nothing,
    )
]
"""Those in which locks and receipts of the database matter; SQLite is told all."""
OF_DIRECT_SERVERS = [
    story
    for story in STORIES
    if story.check
    in (
        conformance.a_late_publish_wakes_after_many_batches,
        conformance.published_by_two_at_once,
        conformance.a_replay_that_gives_other_rows_in_another_order,
    )
]
"""Those in which it matters when a transaction is made; SQLite is told all, and the staged table, too."""
OF_DIRECT_TOPICS = [
    story
    for story in STORIES
    if story.check
    in (
        conformance.killed_around_every_call_to_the_publisher,
        conformance.a_late_publish_wakes_after_many_batches,
        conformance.published_by_two_at_once,
        conformance.a_replay_that_gives_other_rows_in_another_order,
    )
]
"""Those in which it matters when a transaction is made; SQLite is told all, and the staged topic, too."""


class KafkaTopics(SinkUnderTest):
    """A topic each name."""

    late_batches = LATE_BATCHES

    def __init__(self, bootstrap_servers: str) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._topics: dict[str, Topic] = {}
        self._creating = threading.Lock()  # drivers of a story run side by side

    def write(self, name: str, shards: int) -> beam.PTransform[Any, Any]:
        topic = self._topic(name).name
        to_record = beam.Map(lambda row: {"key": str(row["id"]), "value": f"{row['id']}|{row['text']}"})
        sink = WriteToKafka(self._bootstrap_servers, topic, name=name, shards=shards, direct=self.is_direct)
        return _Then(to_record, sink)

    def read(self, name: str) -> list[Row]:
        values = [value.decode().partition("|") for value in self._topic(name).visible().elements()]
        return [{"id": int(one), "text": text} for one, _, text in values]

    def _topic(self, name: str) -> Topic:
        with self._creating:
            if name not in self._topics:
                self._topics[name] = Topic(self._bootstrap_servers, f"{name}-{secrets.token_hex(4)}", 3)
            return self._topics[name]

    def close(self) -> None:
        for topic in self._topics.values():
            topic.close()


class DirectKafkaTopics(KafkaTopics):
    """Written before the marker."""

    is_direct = True


class _Then(beam.PTransform):  # type: ignore[misc]
    """Two steps as one."""

    def __init__(self, first: beam.PTransform[Any, Any], second: beam.PTransform[Any, Any]) -> None:
        super().__init__()
        self._first, self._second = first, second

    def expand(self, rows: beam.PCollection[Any]) -> Any:
        return rows | "First" >> self._first | "Second" >> self._second


class Tables(SinkUnderTest):
    """A table each name."""

    late_batches = LATE_BATCHES

    def __init__(self, variable: str) -> None:
        self._variable = variable
        self._engine = sa.create_engine(secret_from_env(variable).resolve(), poolclass=sa.NullPool)
        self._prefix = f"t{secrets.token_hex(4)}_"
        self._creating = threading.Lock()  # drivers of a story run side by side

    def write(self, name: str, shards: int) -> beam.PTransform[Any, Any]:
        table = self._prefix + name.lower()
        with self._creating, self._engine.begin() as connection:
            connection.execute(
                sa.text(f"CREATE TABLE IF NOT EXISTS {table} (id BIGINT NOT NULL, text VARCHAR(100) NOT NULL)")
            )
        return WriteToSql(secret_from_env(self._variable), table, name=name, shards=shards, direct=self.is_direct)

    def read(self, name: str) -> list[Row]:
        with self._engine.connect() as connection:
            found = connection.execute(sa.text(f"SELECT id, text FROM {self._prefix}{name.lower()}"))
            return [{"id": one, "text": text} for one, text in found]


class DirectTables(Tables):
    """Written before the marker."""

    is_direct = True


@pytest.mark.parametrize("story", OF_TOPICS, ids=str)
def test_a_topic(story: Story, bootstrap_servers: str) -> None:
    with closing(KafkaTopics(bootstrap_servers)) as sink:
        story.check(sink)


@pytest.mark.parametrize("story", OF_DIRECT_TOPICS, ids=str)
def test_a_topic_that_is_written_directly(story: Story, bootstrap_servers: str) -> None:
    with closing(DirectKafkaTopics(bootstrap_servers)) as sink:
        story.check(sink)


def test_two_topics_of_one_stream_and_a_kill_between_them(bootstrap_servers: str) -> None:
    """The next driver finds the first batch in one of them."""
    with closing(KafkaTopics(bootstrap_servers)) as sink:
        world = World(sink, ["one", "other"])
        three_batches(world)
        world.dies(shards=1, hook=after_publishes(1, batch_id=0, act=kill))
        shown = [list(sink.read(name)) for name in world.names]
        assert sorted(map(len, shown)) == [0, 3]
        world.live(shards=1)
        world.assert_exactly_once()


@pytest.mark.parametrize("story", OF_SERVERS, ids=str)
def test_a_table(story: Story, sql_variable: str) -> None:
    story.check(Tables(sql_variable))


@pytest.mark.parametrize("story", OF_DIRECT_SERVERS, ids=str)
def test_a_table_that_is_written_directly(story: Story, sql_variable: str) -> None:
    story.check(DirectTables(sql_variable))
