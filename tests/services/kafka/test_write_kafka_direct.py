"""``WriteToKafka(direct=True)`` on an Apache Kafka broker: written before the marker, judged by a committed reader."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from beam_exactly_once import Record
from beam_exactly_once.errors import Fenced, ReplayDiffers, SinkAhead
from beam_exactly_once.object_store import open_object_store
from services.streams.copies import Asleep, Copy, assert_exactly_once, at, fail, live, numbers_of, records_of
from support.ending import ends_with

pytestmark = pytest.mark.runs_on("DirectRunner")
KILLED = -9


@pytest.fixture
def direct(copy: Copy) -> Copy:
    return replace(copy, options={"direct": True})


def without_key(record: Record) -> list[Record]:
    return [record._replace(key=None)]


def changed(record: Record) -> list[Record]:
    return [record._replace(value=b"%d" % (int(record.value or b"") + 100))]


def visible(copy: Copy) -> list[int]:
    return numbers_of(records_of(copy.bootstrap_servers, copy.topic))


def test_every_record_once_and_nothing_is_stored(direct: Copy) -> None:
    direct.run(10)
    direct.run(15)
    assert_exactly_once(direct, 15)
    assert list(open_object_store(direct.checkpoint).list("staging/")) == []


@pytest.mark.parametrize(
    ("step", "occurrence", "how"),
    [
        ("init_transactions", 2, {}),
        ("the receipt was read", 2, {}),
        ("produce", 1, {"flush": True}),
        ("produce", 4, {"flush": True}),
        ("commit", 2, {"before": True}),
        ("commit", 1, {}),
        ("commit", 2, {}),
        ("commit", 5, {}),
    ],
)
def test_killed_at_every_step(direct: Copy, step: str, occurrence: int, how: dict[str, Any]) -> None:
    assert live(direct, 12, step, occurrence, **how) == KILLED
    direct.run(12)
    assert_exactly_once(direct, 12)


@pytest.mark.parametrize("occurrence", [1, 2])
def test_records_without_a_key_go_where_they_went(direct: Copy, occurrence: int) -> None:
    with at("commit", occurrence, fail), ends_with("killed here"):
        direct.run(12, through=without_key)
    assert 0 < len(visible(direct)) < 12
    direct.run(12, through=without_key)
    assert visible(direct) == list(range(12))


def test_a_replay_with_other_records_is_refused(direct: Copy) -> None:
    assert live(direct, 4, "commit", 2) == KILLED
    with pytest.raises(ReplayDiffers, match="of batch 0 from an earlier run"):
        direct.run(8, through=changed)
    assert visible(direct) == [0, 1, 2, 3]


def test_a_source_that_was_compacted_in_between_is_noticed_or_harmless(direct: Copy) -> None:
    """Once all shards hold the batch, what is gone since must be missed; while none does, the batch is what is left."""
    assert live(direct, 4, "commit", 2) == KILLED
    with pytest.raises(ReplayDiffers):
        direct.run(4, compacted_to=[1, 3])
    assert visible(direct) == [0, 1, 2, 3]
    other = direct.elsewhere()
    assert live(other, 4, "commit", 1, before=True, flush=True) == KILLED
    other.run(4, compacted_to=[1, 3])
    assert visible(other) == [0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize(("step", "before"), [("the receipt was read", False), ("commit", True)])
def test_a_driver_that_was_replaced_wakes_and_is_fenced(direct: Copy, step: str, before: bool) -> None:
    sleeper = Asleep(lambda: direct.run(8))
    with at(step, 1, sleeper.fall_asleep, before=before):
        sleeper.start()
        direct.run(12)
        error = sleeper.wake()
    assert isinstance(error, Fenced), error
    direct.run(16)
    assert_exactly_once(direct, 16)


def test_a_checkpoint_of_five_batches_ago_does_not_write_again(direct: Copy) -> None:
    direct.run(28)
    checkpoint = direct.opened()
    last = max(checkpoint.marker_ids())
    lost = [f"{kind}/{batch_id:020d}.json" for kind in ("offsets", "commits") for batch_id in range(last - 4, last + 1)]
    checkpoint.store.delete(lost)
    with pytest.raises(SinkAhead, match=f"holds batch {last} of plan"):
        direct.run(28)
    assert_exactly_once(direct, 28)


def test_a_wiped_checkpoint_skips_nothing(direct: Copy) -> None:
    direct.run(8)
    store = open_object_store(direct.checkpoint)
    store.delete([entry.key for entry in store.list()])
    direct.run(8)
    assert visible(direct) == sorted([*range(8)] * 2)
