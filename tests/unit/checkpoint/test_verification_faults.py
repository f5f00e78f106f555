"""``verify`` finds every fault of a checkpoint that is arranged by hand, and names the object."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from beam_exactly_once.checkpoint import Marker, SourceCommit
from beam_exactly_once.checkpoint.continuity import hole_faults, leftovers
from beam_exactly_once.checkpoint.envelope import Envelope, seal
from beam_exactly_once.checkpoint.layout import commits_key, offsets_key, writer_key
from beam_exactly_once.checkpoint.verification import verify_checkpoint
from beam_exactly_once.offsets import OffsetRange
from support.findings import checks_of, faults_of
from support.hand_made_stream import P0, P1, HandMadeStream


@pytest.fixture
def stream(tmp_path: Path) -> HandMadeStream:
    return HandMadeStream(tmp_path)


MIDDLE_PLAN, MIDDLE_MARKER = offsets_key(2), commits_key(2)


@pytest.mark.parametrize(
    ("key", "check"),
    [
        (writer_key(1), "writer claims"),
        (MIDDLE_PLAN, "plans"),
        (MIDDLE_MARKER, "markers"),
        ("sources/kafka/definition.json", "definitions"),
        ("sinks/files/definition.json", "definitions"),
    ],
)
@pytest.mark.parametrize("harm", ["truncated", "one bit", "empty", "other stream", "newer format", "other kind"])
def test_harmed_object(stream: HandMadeStream, key: str, check: str, harm: str) -> None:
    stream.run(0, 1, 2, 3, 4)
    path = stream.path(key)
    whole = path.read_bytes()
    stored = orjson.loads(whole)
    envelope = Envelope(stored["kind"], stored["stream_id"], stored["nonce"], stored["body"])
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "one bit": whole.replace(b'"body":', b'"bodx":'),
            "empty": b"",
            "other stream": seal(replace(envelope, stream_id="another")),
            "newer format": orjson.dumps({**stored, "min_reader_version": 99}),
            "other kind": seal(replace(envelope, kind="metadata")),
        }[harm]
    )
    assert faults_of(stream) == [(check, key)]


@pytest.mark.parametrize("harm", [b"", b"{}", b"not json"])
def test_harmed_metadata_does_not_hide_the_rest(stream: HandMadeStream, harm: bytes) -> None:
    stream.run(0, 1)
    stream.path("metadata.json").write_bytes(harm)
    stream.path(commits_key(0)).write_bytes(b"")
    assert faults_of(stream) == [("metadata", "metadata.json"), ("markers", commits_key(0))]


def test_missing_metadata(stream: HandMadeStream) -> None:
    stream.run(0)
    stream.path("metadata.json").unlink()
    assert faults_of(stream) == [("metadata", "metadata.json")]


def test_without_metadata_and_claims_nothing_can_be_told(stream: HandMadeStream) -> None:
    stream.path("metadata.json").unlink()
    shutil.rmtree(stream.path("writers"))
    verification = verify_checkpoint(stream.checkpoint.store)
    assert verification.contents is None
    assert [fault.where for check in verification.checks for fault in check.faults] == ["metadata.json"]


@pytest.mark.parametrize(
    ("key", "check"), [(MIDDLE_PLAN, "plans"), (MIDDLE_MARKER, "markers"), (writer_key(1), "writer claims")]
)
def test_intact_object_without_what_it_must_say(stream: HandMadeStream, key: str, check: str) -> None:
    stream.run(0, 1, 2, 3, 4)
    kind = orjson.loads(stream.path(key).read_bytes())["kind"]
    stream.forge(key, kind, {"batch_id": 2})
    assert faults_of(stream) == [(check, key)]


@pytest.mark.parametrize("key_of", [offsets_key, commits_key])
def test_object_copied_to_a_wrong_name(stream: HandMadeStream, key_of: Callable[[int], str]) -> None:
    stream.run(0, 1, 2, 3)
    shutil.copy(stream.path(key_of(1)), stream.path(key_of(2)))
    assert [where for _, where in faults_of(stream)] == [key_of(2)]


def test_claim_copied_to_a_wrong_name(stream: HandMadeStream) -> None:
    shutil.copy(stream.path(writer_key(1)), stream.path(writer_key(2)))
    assert faults_of(stream) == [("writer claims", writer_key(2))]


@pytest.mark.parametrize("name", ["offsets/backup.json", "commits/42.json", "writers/x"])
def test_foreign_name_among_numbered_objects(stream: HandMadeStream, name: str) -> None:
    stream.run(0)
    stream.path(name).write_text("{}")
    assert [where for _, where in faults_of(stream)] == [name]


def test_copy_in_a_folder_below(stream: HandMadeStream) -> None:
    """A start would take it for the plan itself."""
    stream.run(0)
    stream.path("offsets/old").mkdir()
    nested = f"offsets/old/{0:020d}.json"
    shutil.copy(stream.path(offsets_key(0)), stream.path(nested))
    assert faults_of(stream) == [("plans", nested)]


@pytest.mark.parametrize("key_of", [offsets_key, commits_key])
def test_hole_among_retained_batches(stream: HandMadeStream, key_of: Callable[[int], str]) -> None:
    stream.run(0, 1, 2, 3, 4)
    stream.path(key_of(2)).unlink()
    assert faults_of(stream) == [("no batch missing", key_of(2))]


def test_hole_among_planned_batches_stops_every_start(stream: HandMadeStream) -> None:
    stream.run(0, 1)
    for batch_id in (2, 3):
        stream.plan(batch_id)
    stream.path(offsets_key(2)).unlink()
    assert faults_of(stream) == [("no batch missing", offsets_key(2))]
    (fault,) = [fault for check in checks_of(stream) for fault in check.faults]
    assert f"continue_from=CheckpointAt('{stream.location}', 1)" in fault.message


def test_a_long_hole_is_one_fault() -> None:
    plans = [0, 1, 2, *range(1000, 1003)]
    (marker_hole, plan_hole) = hole_faults("/c", plans, plans)
    assert marker_hole.message.startswith("/c has no marker of batch 3 to 999, though batch 1002 is decided.")
    assert plan_hole.where == offsets_key(3)
    assert leftovers(plans, plans) is None


def test_missing_claim(stream: HandMadeStream) -> None:
    stream.claim()
    stream.claim()
    stream.path(writer_key(2)).unlink()
    assert faults_of(stream) == [("writer claims", writer_key(2))]


def test_all_claims_lost(stream: HandMadeStream) -> None:
    stream.run(0)
    stream.path(writer_key(1)).unlink()
    assert faults_of(stream) == [("writer claims", writer_key(1))]


@pytest.mark.parametrize("key", ["sources/kafka/definition.json", "sinks/files/definition.json"])
def test_missing_definition(stream: HandMadeStream, key: str) -> None:
    stream.run(0)
    stream.path(key).unlink()
    assert faults_of(stream)[0] == ("definitions", key)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({P0: 10, P1: 9}, "goes on in partition orders-1 at 9, not at 5 where it stood: 4 offsets are left out"),
        ({P0: 7, P1: 5}, "goes on in partition orders-0 at 7, not at 10 where it stood: 3 offsets are read twice"),
        ({P0: 10}, "does not know partition orders-1 any more, which stood at 5"),
    ],
)
def test_plan_that_does_not_begin_where_the_batch_before_it_ended(
    stream: HandMadeStream, change: dict[object, int], says: str
) -> None:
    stream.run(0)
    stream.next_offsets = change  # type: ignore[assignment]
    stream.run(1)
    (fault,) = [fault for check in checks_of(stream) for fault in check.faults]
    assert fault.where == offsets_key(1)
    assert says in fault.message


def test_first_plan_that_does_not_begin_at_the_first_offsets(stream: HandMadeStream) -> None:
    stream.next_offsets = {P0: 3, P1: 0}
    stream.plan(0)
    assert faults_of(stream) == [("offsets without gap or overlap", offsets_key(0))]


def test_plan_that_forgets_a_source(stream: HandMadeStream) -> None:
    stream.run(0)
    stream.plan(1)
    stream.change(offsets_key(1), sources={})
    (fault,) = [fault for check in checks_of(stream) for fault in check.faults]
    assert "source 'kafka' is not planned any more" in fault.message


def test_plan_whose_next_offsets_are_not_the_end_of_its_ranges(stream: HandMadeStream) -> None:
    stream.plan(0, next_offsets={P0: 12, P1: 5})
    (fault,) = [fault for check in checks_of(stream) for fault in check.faults]
    assert "reads orders-0[0, 10), but the next batch goes on at 12" in fault.message


def change_marker(stream: HandMadeStream, batch_id: int, change: Callable[[Marker], Marker]) -> None:
    marker = stream.checkpoint.read_marker(batch_id)
    assert marker is not None
    stream.forge(commits_key(batch_id), "commit", change(marker).to_json())


def test_marker_that_does_not_agree_with_its_plan(stream: HandMadeStream) -> None:
    stream.run(0)
    wrong = SourceCommit({P0: 11, P1: 5}, (), 15, 1500)
    change_marker(stream, 0, lambda marker: replace(marker, sources={"kafka": wrong}))
    (fault,) = [fault for check in checks_of(stream) for fault in check.faults]
    assert fault.where == commits_key(0)
    assert "says that source 'kafka' stands at 11 in partition orders-0, its plan says 10" in fault.message


def test_abandoned_marker_must_stand_where_the_batch_began(stream: HandMadeStream) -> None:
    stream.run(0)
    change_marker(stream, 0, lambda marker: replace(marker, outcome="abandoned"))
    assert faults_of(stream) == [("offsets without gap or overlap", commits_key(0))] * 2


def test_marker_that_hides_a_loss(stream: HandMadeStream) -> None:
    stream.run(0)
    stream.publish(stream.commit(stream.plan(1, lost=(OffsetRange("orders", 1, 5, 8),))))
    change_marker(
        stream, 1, lambda marker: replace(marker, sources={"kafka": replace(marker.sources["kafka"], lost=())})
    )
    (fault,) = [fault for check in checks_of(stream) for fault in check.faults]
    assert "does not record orders-1[5, 8) of source 'kafka' as lost" in fault.message


def test_plan_that_goes_on_in_another_topic(stream: HandMadeStream) -> None:
    """Only a plan that says that the topic was replaced may do so."""
    stream.publish(stream.commit(stream.plan(0, topic_ids={"orders": "old"})))
    stream.publish(stream.commit(stream.plan(1, topic_ids={"orders": "new"})))
    (fault,) = [fault for check in checks_of(stream) for fault in check.faults]
    assert fault.where == offsets_key(1)
    assert "source 'kafka' goes on in topic orders with id new, not with id old" in fault.message


def test_marker_that_stands_in_another_topic(stream: HandMadeStream) -> None:
    stream.publish(stream.commit(stream.plan(0, topic_ids={"orders": "old"})))
    change_marker(
        stream,
        0,
        lambda marker: replace(
            marker, sources={"kafka": replace(marker.sources["kafka"], topic_ids={"orders": "new"})}
        ),
    )
    (fault,) = [fault for check in checks_of(stream) for fault in check.faults]
    assert "says that source 'kafka' stands in topic orders with id new, its plan says old" in fault.message
