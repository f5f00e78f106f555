"""``verify`` finds no fault in what the real code wrote, at any step and beside a running driver; and those of outputs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from beam_exactly_once.checkpoint import Checkpoint, Marker
from beam_exactly_once.checkpoint import location as checkpoint_location
from beam_exactly_once.checkpoint.findings import listed
from beam_exactly_once.checkpoint.layout import commits_key
from beam_exactly_once.checkpoint.retention import Retention
from beam_exactly_once.checkpoint.verification import one_sided, verify_checkpoint
from beam_exactly_once.checkpoint.writer import marker_of_resolution
from beam_exactly_once.errors import ConfigurationError, OutputNotWritable
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.sinks.files.manifest import manifest_key
from beam_exactly_once.sinks.files.verification import verify_output
from support.findings import checks_of, faults_of, notes_of
from support.hand_made_stream import P0, P1, HandMadeStream


@pytest.fixture
def stream(tmp_path: Path) -> HandMadeStream:
    return HandMadeStream(tmp_path)


def test_a_stream_at_work_is_clean_at_every_step(stream: HandMadeStream) -> None:
    assert faults_of(stream) == []
    for batch_id in range(3):
        plan = stream.plan(batch_id)
        assert faults_of(stream) == []
        marker = stream.commit(plan)
        assert faults_of(stream) == []
        stream.publish(marker)
        assert (faults_of(stream), notes_of(stream)) == ([], [])


def test_what_is_unfinished_is_noted_not_faulted(stream: HandMadeStream) -> None:
    stream.commit(stream.plan(0))
    assert notes_of(stream) == ["batch 0 is decided and not published yet: its driver, or the next start, does it."]
    stream.publish(stream.run(1))
    stream.plan(2)
    assert "batch 2 is planned and not decided: the next start runs it again." in notes_of(stream)


def test_batches_that_lost_offsets_or_were_passed_are_clean(stream: HandMadeStream) -> None:
    stream.run(0)
    stream.publish(stream.commit(stream.plan(1, lost=(OffsetRange("orders", 0, 10, 25),))))
    before = dict(stream.next_offsets)
    for batch_id, outcome in ((2, "skipped"), (3, "abandoned")):
        before = dict(stream.next_offsets)
        plan = stream.plan(batch_id)
        attempt = replace(stream.marker(plan).attempt, nonce="5" * 16)
        stream.publish(stream.writer.commit(marker_of_resolution(plan, attempt, outcome, 1)))  # type: ignore[arg-type]
    stream.next_offsets = before
    stream.run(4)
    assert faults_of(stream) == []


def test_a_log_that_became_shorter_is_clean(stream: HandMadeStream) -> None:
    stream.run(0, 1)
    shorter = {"lost": (OffsetRange("orders", 0, 4, 20),), "ranges": (OffsetRange("orders", 0, 0, 4),)}
    stream.publish(stream.commit(stream.plan(2, **shorter, next_offsets={P0: 4, P1: 10})))
    assert faults_of(stream) == []


def test_new_partitions_begin_anywhere(stream: HandMadeStream) -> None:
    stream.next_offsets = {P0: 0}
    stream.run(0)
    stream.next_offsets = {**stream.next_offsets, P1: 700}
    assert "offsets without gap or overlap" in [check for check, _ in faults_of(stream)]  # the definition knew P1
    shutil.rmtree(stream.location / "sources")
    stream.checkpoint.create_definition("sources/", "kafka", {"kind": "kafka", "first_offsets": {"orders": {"0": 0}}})
    stream.run(1)
    assert faults_of(stream) == []


def test_retention_leaves_a_clean_checkpoint(stream: HandMadeStream) -> None:
    stream.run(*range(6))
    Retention(stream.checkpoint, 2).sweep_all(5)
    assert (faults_of(stream), notes_of(stream)) == ([], [])


def test_an_interrupted_sweep_and_a_frozen_writers_late_marker_are_strays(stream: HandMadeStream) -> None:
    """The stray names output that was never published: that is no fault either."""
    stream.run(*range(6))
    late = stream.path(commits_key(1)).read_bytes()
    Retention(stream.checkpoint, 2).sweep_all(5)
    stream.path(commits_key(1)).write_bytes(late)
    for file in stream.output.glob("part-00000000000000000001-*"):
        file.unlink()
    assert faults_of(stream) == []
    assert notes_of(stream) == [
        "stray plan or marker of batch 1, below all that is retained: of an interrupted sweep or a frozen writer. "
        "Harmless; the next sweep removes it."
    ]


def test_strangers_in_the_location_are_noted(stream: HandMadeStream) -> None:
    stream.run(0)
    stream.path("README.txt").write_text("hello")
    assert faults_of(stream) == []
    assert notes_of(stream) == ["not of this library: README.txt. Ignored."]


def test_an_empty_location_is_a_wrong_location(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no checkpoint"):
        verify_checkpoint(open_object_store(str(tmp_path / "nothing")))
    assert list(tmp_path.iterdir()) == []


def test_a_spilled_list_is_read(stream: HandMadeStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_location, "MAX_MARKER_BYTES", 10)
    stream.run(0)
    (spilled,) = stream.path("staging/committables").iterdir()
    assert faults_of(stream) == []
    key = f"staging/committables/{spilled.name}"
    spilled.rename(spilled.with_name(f"{0:020d}-0123.json"))
    assert faults_of(stream) == [
        ("markers", commits_key(0)),
        ("spilled lists", f"staging/committables/{0:020d}-0123.json"),
    ]
    spilled.with_name(f"{0:020d}-0123.json").rename(spilled)
    spilled.write_bytes(spilled.read_bytes()[:-3])
    assert faults_of(stream) == [("markers", commits_key(0)), ("spilled lists", key)]


def part(stream: HandMadeStream, batch_id: int) -> Path:
    (path,) = stream.output.glob(f"part-{batch_id:020d}-*")
    return path


def test_missing_file(stream: HandMadeStream) -> None:
    stream.run(0, 1)
    gone = part(stream, 0)
    gone.unlink()
    assert faults_of(stream) == [("files of sink files", gone.name)]


def test_file_of_another_size(stream: HandMadeStream) -> None:
    stream.run(0, 1)
    part(stream, 1).write_bytes(b"{}\n")
    (fault,) = [fault for check in checks_of(stream) for fault in check.faults]
    assert "has 3 bytes, not the 45 that were committed" in fault.message


def test_decided_output_that_is_neither_published_nor_staged(stream: HandMadeStream) -> None:
    stream.run(0)
    marker = stream.commit(stream.plan(1))
    shutil.rmtree(stream.output.parent / ".output.staging")
    (committable,) = marker.committables["files"]
    assert faults_of(stream) == [("files of sink files", committable["final_key"])]


def test_missing_manifest(stream: HandMadeStream) -> None:
    stream.run(0, 1)
    (stream.output / manifest_key(0)).unlink()
    assert faults_of(stream) == [("manifests of sink files", manifest_key(0))]


def test_a_sink_that_was_added_later_needs_no_older_manifests(stream: HandMadeStream) -> None:
    stream.run(0, 1)
    second = {"kind": "files", "location": str(stream.output.parent / "second")}
    stream.checkpoint.create_definition("sinks/", "second", second)
    assert faults_of(stream) == []


@pytest.mark.parametrize("harm", [b"", b"{}", b'{"format_version": 99}'])
def test_harmed_manifest(stream: HandMadeStream, harm: bytes) -> None:
    stream.run(0, 1)
    (stream.output / manifest_key(0)).write_bytes(harm)
    assert faults_of(stream) == [("manifests of sink files", manifest_key(0))]


@pytest.mark.parametrize(
    "change",
    [
        {"files": [], "rows_written": 0},
        {"stream_id": "another"},
        {"attempt": {"writer_epoch": 1, "batch_id": 0, "nonce": "9"}},
    ],
)
def test_manifest_that_does_not_agree_with_its_marker(stream: HandMadeStream, change: dict[str, object]) -> None:
    stream.run(0, 1)
    path = stream.output / manifest_key(0)
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), **change}))
    assert faults_of(stream) == [("manifests of sink files", manifest_key(0))]


def test_output_ahead_of_a_restored_checkpoint(stream: HandMadeStream) -> None:
    stream.run(0, 1, 2)
    stream.path(commits_key(2)).unlink()
    assert faults_of(stream) == [("manifests of sink files", manifest_key(2))]


def test_output_that_cannot_be_looked_at(stream: HandMadeStream) -> None:
    stream.run(0)
    contents = verify_checkpoint(stream.checkpoint.store).contents
    assert contents is not None

    def refused() -> None:
        raise OutputNotWritable("s3://lake: access denied. Give this user the right.")

    files, manifests = verify_output(contents, "files", refused)
    assert [fault.message for fault in files.faults] == [
        "the output cannot be looked at: s3://lake: access denied. Give this user the right."
    ]
    assert manifests.faults == []


def test_a_driver_that_commits_and_sweeps_meanwhile_makes_no_fault(
    stream: HandMadeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver goes on after verify has listed everything, and again after it has read the checkpoint."""
    stream.run(*range(5))
    listed_once = Checkpoint.open_existing
    moved = iter([5, 6, 7, 8])

    def go_on() -> None:
        batch_id = next(moved)
        stream.run(batch_id)
        Retention(stream.checkpoint, 2).sweep_all(batch_id)

    def open_and_go_on(store: object) -> Checkpoint | None:
        go_on()
        return listed_once(store)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoint, "open_existing", open_and_go_on)
    verification = verify_checkpoint(stream.checkpoint.store)
    assert verification.contents is not None
    go_on()
    checks = [
        *verification.checks,
        *verify_output(verification.contents, "files", lambda: stream.files),
    ]
    assert [fault for check in checks for fault in check.faults] == []


def test_batches_without_rows_for_one_sink_of_several_are_noted(stream: HandMadeStream) -> None:
    marker = stream.marker(stream.plan(0))

    def staged(batch_id: int, outcome: str = "committed", **rows: int) -> Marker:
        committables = {sink: ({"rows": count, "size_bytes": 1},) for sink, count in rows.items()}
        return replace(marker, batch_id=batch_id, outcome=outcome, committables=committables)  # type: ignore[arg-type]

    batches = [
        staged(0, orders=5, totals=1),
        staged(1, orders=5),
        staged(2, orders=1),  # a filter may well leave none of one row
        staged(3, orders=5),
        staged(4),
        staged(5, "skipped"),
        staged(6, totals=2),
    ]
    assert one_sided(batches, ["orders", "totals"]) == {"totals": [1, 3], "orders": [6]}


def test_numbers_are_listed_in_spans() -> None:
    assert listed([7, 1, 2, 3, 9]) == "1 to 3, 7, 9"
    assert listed([1, 3, 5, 7], max_names=2) == "1, 3 and 2 more"
