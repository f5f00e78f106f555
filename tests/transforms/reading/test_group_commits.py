"""What a consumer group is told of a read that goes on: only what is final, now and then, and no failure stops the read."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from apache_beam.transforms.core import _BundleFinalizerParam

from beam_exactly_once import ReadFromKafka, ReadFromWal
from beam_exactly_once.errors import ConfigurationError, KafkaRefused
from beam_exactly_once.kafka import KafkaSettings
from beam_exactly_once.offsets import TopicPartition
from beam_exactly_once.per_process import PerProcess
from beam_exactly_once.planning.start import FromGroup
from beam_exactly_once.testing import MemoryKafka, memory_kafka
from beam_exactly_once.transforms.reading import follow_ranges
from beam_exactly_once.transforms.reading.follow_ranges import FollowAndCommit, ReadTimes
from beam_exactly_once.transforms.reading.group_commits import AFTER_FAILURE_S, EVERY_S, GroupCommits
from support.unbounded.follower import WHOLE, Follower, records

PLACE = WHOLE.topic_partition
SETTINGS = KafkaSettings("memory:9092")


class Committer(Follower):
    """A runner that says when bundles are final."""

    def __init__(self, cluster: MemoryKafka, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(cluster)
        of_process = PerProcess(lambda group: GroupCommits(group, self.clock))
        monkeypatch.setattr(follow_ranges, "COMMITS", of_process)
        self.doing = FollowAndCommit(SETTINGS, "fail", ReadTimes(), "billing", self.clock)
        self.finalizer = _BundleFinalizerParam()
        self.more = [self.finalizer]

    def final_turn(self) -> dict[TopicPartition, int]:
        """A turn, and what the group was told then."""
        self.turn()
        with self.cluster.serving():
            self.finalizer.finalize_bundle()
        self.finalizer.reset()
        return self.cluster.committed("billing")


@pytest.fixture
def cluster() -> MemoryKafka:
    return MemoryKafka({"orders": 1})


def test_a_group_is_told_what_is_final_and_not_too_often(cluster: MemoryKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Committer(cluster, monkeypatch)
    cluster.append(records(3))
    reader.turn()
    assert cluster.committed("billing") == {}
    assert reader.final_turn() == {PLACE: 3}
    cluster.append(records(2))
    assert reader.final_turn() == {PLACE: 3}
    reader.clock.seconds += EVERY_S
    assert reader.final_turn() == {PLACE: 5}  # though nothing new was read


def test_a_part_that_was_split_off_tells_nothing(cluster: MemoryKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Committer(cluster, monkeypatch)
    cluster.append(records(10))
    ((whole, state),) = reader.waiting
    reader.waiting = [(follow_ranges.OffsetRange("orders", 0, 0, 4), state), (whole, state)]
    assert reader.final_turn() == {}
    assert reader.final_turn() == {PLACE: 10}


def test_a_cluster_that_refuses_is_a_warning_and_asked_again_later(
    cluster: MemoryKafka, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: object, group_id: str, offsets: Mapping[TopicPartition, int]) -> None:
        raise KafkaRefused("the group has members.")

    reader = Committer(cluster, monkeypatch)
    cluster.append(records(3))
    with monkeypatch.context() as refusing:
        refusing.setattr(memory_kafka._MemoryLog, "commit_offsets", refuse)
        assert reader.final_turn() == {}
    assert (
        "nothing was committed for the consumer group billing; the read goes on: the group has members." in caplog.text
    )
    reader.clock.seconds += EVERY_S
    assert reader.final_turn() == {}
    reader.clock.seconds += AFTER_FAILURE_S
    assert reader.final_turn() == {PLACE: 3}
    assert reader.offsets() == [0, 1, 2]


def test_a_log_without_groups_refuses_them() -> None:
    with pytest.raises(ConfigurationError, match="of ReadFromWal needs consumer groups, which only Kafka has"):
        ReadFromWal("/logs/hooks", start=FromGroup("billing"))
    with pytest.raises(ConfigurationError, match="commit_to_group='' must name a consumer group"):
        ReadFromKafka("memory:9092", ["orders"], commit_to_group="")
