"""The stories that every exactly-once sink must survive; run them on a sink of your own.

    class MySink(SinkUnderTest):
        def write(self, name, shards):
            return WriteToMySystem(…, name=name, shards=shards)

        def read(self, name):
            return …  # what a reader of the system sees

    @pytest.mark.parametrize("story", STORIES, ids=str)
    def test_my_sink(story):
        story.check(MySink())

Each story runs streams in this process: Kafka and the checkpoint are in memory, the sink is the real one. It kills
drivers by exceptions at chosen calls, wakes others late, and compares what the sink holds with what went in, by value.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from beam_exactly_once.errors import ReplayDiffers, SinkAhead
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.randomness import new_token
from beam_exactly_once.testing.crashing import ANY, READS, KillPoint, StoreCalls, watching
from beam_exactly_once.testing.hooked_publisher import Call
from beam_exactly_once.testing.sink_world import (
    EMPTY,
    Row,
    SinkUnderTest,
    World,
    at,
    calls_of,
    ends_of_kinds,
    kill,
    three_batches,
)

__all__ = ["STORIES", "Row", "SinkUnderTest", "Story"]


@dataclass(frozen=True)
class Story:
    """One story; its name says what must hold."""

    check: Callable[[SinkUnderTest], None]

    def __str__(self) -> str:
        return self.check.__name__


def every_batch_is_there_once(sink: SinkUnderTest) -> None:
    """Batches with and without rows, restarts between some, nothing to do at the last."""
    world = World(sink)
    for number in range(4):
        world.produce(*range(10 * number, 10 * number + 5), EMPTY, EMPTY, EMPTY)
        world.live()
    world.live()
    world.assert_exactly_once()


def two_of_it_in_one_stream_each_have_every_row(sink: SinkUnderTest) -> None:
    """Each with a name of its own; and again after a kill between them. A direct sink is always alone."""
    if sink.is_direct:
        return
    for number, call in calls_of(sink, ("calmA", "calmB")):
        print(f"killed {call}")
        world = World(sink, [f"a{number}", f"b{number}"])
        three_batches(world)
        world.dies(hook=at(number, kill))
        world.live()
        world.assert_exactly_once()


def killed_around_every_call_to_the_publisher(sink: SinkUnderTest) -> None:
    """Before each call and after it; the next driver goes on."""
    for number, call in calls_of(sink):
        print(f"killed {call}")
        world = World(sink, [f"killed{number}"])
        three_batches(world)
        world.dies(hook=at(number, kill))
        world.produce(5)
        world.live()
        world.assert_exactly_once()


def killed_after_every_call_to_the_checkpoint(sink: SinkUnderTest) -> None:
    """Claims, plans, staged rows, markers, sweeps; not after calls that read, which leave all as it was."""
    counted = StoreCalls(None, kill)
    world = World(sink, ["counted"])
    three_batches(world)
    with watching(counted):
        world.live()
    for number, (method, key) in ends_of_kinds(counted.log, lambda call: (call[0], call[1].rpartition("/")[0])):
        if method in READS:
            continue
        print(f"killed after call {number}: {method} {key}")
        world = World(sink, [f"stored{number}"])
        three_batches(world)
        with watching(StoreCalls(KillPoint(ANY, "", number), kill)):
            world.dies(tag="" if sink.is_direct else " of the dead")
        shown = {int(row["id"]): str(row["text"]) for row in sink.read(world.names[0])}
        world.live()
        world.assert_exactly_once(("", " of the dead"), shown)


def a_second_driver_at_every_call(sink: SinkUnderTest) -> None:
    """The first one freezes in a call to the publisher, the second does all the work, the first goes on and is fenced."""
    for number, call in calls_of(sink):
        print(f"frozen {call}")
        world = World(sink, [f"frozen{number}"])
        three_batches(world)
        world.dies(hook=at(number, world.live))
        world.produce(5, 6)
        world.live()
        world.assert_exactly_once()


def a_late_publish_wakes_after_many_batches(sink: SinkUnderTest) -> None:
    """Its rows and its marker were swept long ago; it must write nothing."""
    world = World(sink)
    world.produce(0, 1, 2)

    def go_on() -> None:
        for number in range(sink.late_batches):
            world.produce(3 + number, EMPTY, EMPTY)
        world.live(max_batches=sink.late_batches, retain_batches=2)

    first_publish = next(number for number, call in calls_of(sink) if call.method == "publish")
    world.dies(hook=at(first_publish, go_on))
    world.live()
    world.assert_exactly_once()


def published_by_two_at_once(sink: SinkUnderTest) -> None:
    """Two drivers publish every part at the same time, as a runner that repeats a slow bundle does."""
    world = World(sink)
    for number in range(5):
        world.produce(*range(3 * number, 3 * number + 3))
        started = threading.Barrier(2)

        def live_too(started: threading.Barrier = started) -> None:
            started.wait(30)
            world.dies()

        with ThreadPoolExecutor(1) as second:
            ending = second.submit(live_too)
            live_too()
            ending.result()
    world.live()
    world.assert_exactly_once()


def a_replay_that_gives_other_rows_in_another_order(sink: SinkUnderTest) -> None:
    """The pipeline is not deterministic, and has another number of shards at its replay: one attempt's rows are there.

    A direct sink refuses the other rows, and goes on with the same.
    """
    if sink.is_direct:
        _other_rows_are_refused(sink)
        return
    for killed in ("put_if_absent:offsets/:2", "put_if_absent:commits/:1", "put_if_absent:commits/:2"):
        world = World(sink, ["replay" + "".join(filter(str.isalnum, killed))])
        three_batches(world)
        tags = [f" {new_token()}" for _ in range(2)]
        with watching(StoreCalls(KillPoint.parse(killed), kill)):
            world.dies(shards=3, tag=tags[0])
        world.live(shards=2, tag=tags[1])
        world.produce(5, 6, 7)
        world.live(shards=4, tag=tags[1])
        world.assert_exactly_once(tags)


def _other_rows_are_refused(sink: SinkUnderTest) -> None:
    world = World(sink, ["replay"])
    three_batches(world)
    tags = [f" {new_token()}" for _ in range(2)]
    shards = 2
    all_written = at(shards, kill)

    def hook(call: Call) -> None:
        if (call.moment, call.method, call.batch_id) == ("after", "write", 0):
            all_written(call)

    world.dies(tag=tags[0], shards=shards, hook=hook)
    try:
        world.live(tag=tags[1], shards=shards)
    except ReplayDiffers:
        pass
    else:
        raise AssertionError("a replay with other rows went on")
    world.live(tag=tags[0], shards=shards)
    world.assert_exactly_once([tags[0]])


def its_own_faults(sink: SinkUnderTest) -> None:
    """A fault of the sink's own system in the middle of a batch: the driver, or the next one, ends right."""
    for number, fault in enumerate(sink.faults()):
        world = World(sink, [f"fault{number}"])
        three_batches(world)
        with fault():
            world.dies()
        world.live()
        world.assert_exactly_once()


def a_checkpoint_of_five_batches_ago_is_refused(sink: SinkUnderTest) -> None:
    """It neither writes again what is there, nor skips what is not."""
    if not sink.is_exactly_once:
        return
    world = World(sink)
    world.produce(*range(21))
    world.live()
    store = open_object_store(world.location)
    newest = max(entry.key for entry in store.list("commits/"))
    last = int(newest.removeprefix("commits/").removesuffix(".json"))
    store.delete(
        [f"{kind}/{batch:020d}.json" for kind in ("offsets", "commits") for batch in range(last - 4, last + 1)]
    )
    try:
        world.live()
    except SinkAhead:
        pass
    else:
        raise AssertionError("a stream went on from a checkpoint that is older than its sink")
    world.assert_exactly_once()


def a_wiped_checkpoint_skips_nothing(sink: SinkUnderTest) -> None:
    """It is another stream: all is written again, or the sink refuses it. What is there says nothing of its batches."""
    world = World(sink)
    three_batches(world)
    world.live()
    store = open_object_store(world.location)
    store.delete([entry.key for entry in store.list()])
    try:
        world.live()
    except SinkAhead:
        world.assert_exactly_once()
        return
    found = Counter(int(row["id"]) for row in sink.read("one"))
    skipped = [one for one in world.produced if found[one] < 2]
    assert not skipped, f"a stream without a checkpoint skipped rows: {skipped}"
    if sink.is_exactly_once:
        assert found == Counter(dict.fromkeys(world.produced, 2)), f"rows of two streams: {found}"


def batches_come_in_order(sink: SinkUnderTest) -> None:
    """When a batch begins to be published, all rows of those before it are there."""
    world = World(sink)
    world.produce(*range(12))
    missing: list[str] = []

    def look(call: Call) -> None:
        if (call.moment, call.method) == ("before", "publish"):
            there = {int(row["id"]) for row in sink.read("one")}
            missing.extend(f"{one} {call}" for one in range(3 * call.batch_id) if one not in there)

    world.live(hook=look)
    assert not missing, f"a batch was published before those before it: {missing}"
    world.assert_exactly_once()


STORIES = [
    Story(check)
    for check in (
        every_batch_is_there_once,
        two_of_it_in_one_stream_each_have_every_row,
        killed_around_every_call_to_the_publisher,
        killed_after_every_call_to_the_checkpoint,
        a_second_driver_at_every_call,
        a_late_publish_wakes_after_many_batches,
        published_by_two_at_once,
        a_replay_that_gives_other_rows_in_another_order,
        its_own_faults,
        a_checkpoint_of_five_batches_ago_is_refused,
        a_wiped_checkpoint_skips_nothing,
        batches_come_in_order,
    )
]
"""All of them."""
