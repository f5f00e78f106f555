"""The generator itself: that it draws everything, finds what is wrong, and makes it small."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphs.checking import outcome_of
from graphs.drawing import story
from graphs.evaluation import KINDS, evaluated
from graphs.model import Node, Ref, Start, Story, View
from graphs.runners import RUNNERS
from graphs.shrinking import smallest

SEEDS = range(200)

TOTALS = Story(
    graph=(
        Node("read"),
        Node("total", (Ref(0),)),
        Node("look_up", (Ref(0),), (View("singleton", Ref(1)),)),
        Node("json", (Ref(2),)),
        Node("each", (Ref(2),)),
    ),
    partitions=(1,),
    starts=(Start({(0, 0): (1, 2, 3, 4)}), Start({(0, 0): (5,)})),
    limit=3,
)


def test_a_seed_is_a_story() -> None:
    assert [str(story(seed)) for seed in SEEDS] == [str(story(seed)) for seed in SEEDS]
    assert len({str(story(seed)) for seed in SEEDS}) == len(SEEDS)


def test_every_kind_of_node_is_drawn() -> None:
    assert {node.kind for seed in SEEDS for node in story(seed).graph} == KINDS.keys()
    assert not {"timers", "deferred"} & {
        node.kind for seed in SEEDS for node in story(seed, ["timers", "deferred"]).graph
    }


def test_a_graph_in_plain_python() -> None:
    """Each number times 31, and the total."""
    assert evaluated(TOTALS.graph, {0: [1, 2]}) == {3: [34, 65], 4: [34, 65]}
    assert evaluated(TOTALS.graph, {}) == {3: [], 4: []}


def test_a_right_stream_is_right() -> None:
    outcome = outcome_of(TOTALS, RUNNERS["in_process"])

    assert (outcome.kind, outcome.batches) == ("right", 3)


@pytest.mark.parametrize("sink", ["json", "parquet", "rejecting", "sql", "each"])
@pytest.mark.parametrize("lost", [True, False])
def test_a_row_too_few_or_too_many_in_one_batch_is_found(
    monkeypatch: pytest.MonkeyPatch, sink: str, lost: bool
) -> None:
    """The plain graph stands for a stream that is wrong in the batch with the number five."""
    right = KINDS["map"].plain

    def other(node: object) -> list[list[int]]:
        (values,) = right(node)  # type: ignore[arg-type]
        return [(values[1:] if lost else values * 2) if len(values) == 1 else values]

    monkeypatch.setitem(KINDS, "map", replace(KINDS["map"], plain=other))
    graph = (Node("read"), Node("map", (Ref(0),), number=1), Node(sink, (Ref(1),)))

    outcome = outcome_of(replace(TOTALS, graph=graph), RUNNERS["in_process"])

    assert outcome.kind == "wrong"
    assert ("missing []" if lost else "surplus []") in outcome.text


def test_a_step_that_fails_is_found() -> None:
    graph = (Node("read"), Node("greatest", (Ref(0),)), Node("look_up", (Ref(1),), (View("singleton", Ref(0)),)))

    outcome = outcome_of(replace(TOTALS, graph=(*graph, Node("json", (Ref(2),)))), RUNNERS["in_process"])

    assert outcome.is_wrong
    assert "step 'n2.look_up/Map(looked_up)' of batch 0 ended with ValueError" in outcome.text


def test_a_story_is_made_as_small_as_it_can_be() -> None:
    (seed, large) = next((seed, one) for seed in SEEDS if len((one := story(seed)).graph) > 12 and _has_timers(one))

    small = smallest(large, _has_timers, lambda one: None)

    assert [node.kind for node in small.graph if node.kind != "timers"] in (
        [source, "json"] for source in ("read", "read_arrow", "read_rejecting", "create")
    ), f"seed {seed}:\n{small}"
    assert [sum(map(len, start.records.values())) for start in small.starts] in ([0], [1])


def _has_timers(one: Story) -> bool:
    return any(node.kind == "timers" for node in one.graph)
