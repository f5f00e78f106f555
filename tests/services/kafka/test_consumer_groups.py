"""A consumer group on a real broker is told how far a read came: its members go on there, and so does ``FromGroup``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from confluent_kafka import Consumer

from beam_exactly_once import TopicPartition
from beam_exactly_once.kafka import KafkaSettings, open_kafka_log
from beam_exactly_once.logs import GroupsLog, Log
from beam_exactly_once.planning.start import FromGroup, LogsNow
from beam_exactly_once.transforms.reading.group_commits import Group, GroupCommits
from services.streams.topics import TIMEOUT_S, Topic

NewTopic = Callable[..., Topic]


class Member(Consumer):
    """Somebody else's consumer of the group: the broker gives it all partitions."""

    def __init__(self, topic: Topic, group_id: str) -> None:
        super().__init__(
            {
                "bootstrap.servers": topic.bootstrap_servers,
                "group.id": group_id,
                "auto.offset.reset": "error",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        self.subscribe([topic.name])

    def values(self, count: int) -> list[bytes]:
        """The next ones, as they come."""
        found = []
        while len(found) < count:
            message = self.poll(TIMEOUT_S)
            assert message is not None
            assert message.error() is None
            found.append(message.value() or b"")
        return found


@pytest.fixture
def settings(bootstrap_servers: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers)


@pytest.fixture
def log(settings: KafkaSettings) -> Iterator[Log]:
    with closing(open_kafka_log(settings)) as log:
        yield log


def test_members_and_later_reads_go_on_where_a_group_was_told(
    new_topic: NewTopic, settings: KafkaSettings, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    topic, group_id = new_topic(2), f"billing-{secrets.token_hex(4)}"
    places = [topic[0], topic[1]]
    topic.spread({0: [b"a0", b"a1", b"a2"], 1: [b"b0", b"b1"]})
    assert isinstance(log, GroupsLog)

    def starts() -> dict[TopicPartition, int]:
        return dict(FromGroup(group_id, "latest").first_offsets(LogsNow.of(log, places)))

    assert log.committed_offsets(group_id, places) == {}
    assert starts() == {topic[0]: 3, topic[1]: 2}

    GroupCommits(Group(settings, group_id)).finished({topic[0]: 1, topic[1]: 2})
    assert log.committed_offsets(group_id, places) == {topic[0]: 1, topic[1]: 2}
    assert starts() == {topic[0]: 1, topic[1]: 2}

    with closing(Member(topic, group_id)) as member:
        assert member.values(2) == [b"a1", b"a2"]
        member.commit(asynchronous=False)
        GroupCommits(Group(settings, group_id)).finished({topic[0]: 0})  # members own the group's place
    assert f"nothing was committed for the consumer group {group_id}; the read goes on" in caplog.text
    assert starts() == {topic[0]: 3, topic[1]: 2}
