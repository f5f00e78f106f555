"""A stream keeps in a write-ahead log what it may read again, and lets go of the rest, however often the log is swept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from beam_exactly_once import BatchProgress, CheckpointAt, ProcessingTime
from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.object_store.local import LocalStore
from beam_exactly_once.wal.readers import WalReader, all_readers
from support.command_line import run
from support.lives import values_in
from support.wal.streams import append, location, numbers, run_to_files, sweep


def finished_elsewhere(work_dir: Path) -> None:
    """Another stream has read all that there will ever be: only the stream under test keeps anything."""
    WalReader(location(work_dir), "other", "wal").finished(0, dict.fromkeys(range(3), 10**6))


def kept_for(work_dir: Path, checkpoint: str = "checkpoint") -> tuple[int, dict[int, int]]:
    """Number and offsets of the newest record of a stream."""
    found = Checkpoint.open_existing(LocalStore(work_dir / checkpoint))
    assert found is not None
    (reader,) = [one for one in all_readers(location(work_dir)) if one.stream_id == found.stream_id]
    return reader.number, dict(reader.next_offsets)


def test_a_log_that_is_swept_after_every_batch_loses_nothing_and_does_not_grow(tmp_path: Path) -> None:
    """Two batches are retained: what the older of them has read is let go, every second batch."""
    append(tmp_path, numbers(range(4)))
    finished_elsewhere(tmp_path)
    begins: list[int] = []

    def go_on(progress: BatchProgress) -> None:
        begins.append(sweep(tmp_path)[0])
        append(tmp_path, numbers(range(4 * len(begins), 4 * len(begins) + 4)))

    run_to_files(
        tmp_path,
        stream_trigger=ProcessingTime(0),
        stream_max_batches=6,
        stream_listeners=go_on,
        stream_retain_batches=2,
    )
    assert values_in(tmp_path / "output") == sorted(numbers(range(24)))
    assert begins == [0, 0, 5, 5, 15, 15], "a batch reads a claim and a segment of four, and is swept one batch late"


def test_a_stream_that_begins_finds_what_nobody_may_delete_any_more(tmp_path: Path) -> None:
    """A sweep has said how far it goes, and has not come to it: the stream begins behind that, whenever it goes on."""
    append(tmp_path, numbers(range(12)))
    log = location(tmp_path)
    log.put_intent(0, 5)
    run_to_files(tmp_path, max_batch_offsets=4)
    log.put_floor(0, 5)
    assert values_in(tmp_path / "output") == sorted(numbers(range(4, 12)))


def test_a_stream_that_held_first_is_not_told_by_a_sweep_that_saw_it(tmp_path: Path) -> None:
    append(tmp_path, numbers(range(12)))
    run_to_files(tmp_path, max_batch_offsets=4, stream_max_batches=1)
    location(tmp_path).put_intent(0, 9)  # by a sweep whose second look finds the hold: it puts no floor
    run_to_files(tmp_path)
    assert values_in(tmp_path / "output") == sorted(numbers(range(12)))


@pytest.mark.parametrize("way", ["skip", "abandon"])
def test_a_batch_that_is_passed_over_is_kept_as_long_as_it_may_be_read_again(way: str, tmp_path: Path) -> None:
    """The second of three batches was planned when the driver died."""
    append(tmp_path, numbers(range(11)))
    finished_elsewhere(tmp_path)
    run_to_files(tmp_path, max_batch_offsets=4, stream_max_batches=2)
    (tmp_path / "checkpoint" / "commits" / f"{1:020d}.json").unlink()
    for file in (tmp_path / "output").rglob(f"*{1:020d}*"):
        file.unlink()

    assert run("resolve", tmp_path / "checkpoint", "--batch", "1", f"--{way}", "--yes").exit_code == 0
    sweep(tmp_path)
    for _ in range(2):  # the second start tells of the batches of the first
        run_to_files(tmp_path, max_batch_offsets=4)
        sweep(tmp_path)
    skipped = range(3, 7) if way == "skip" else range(0)
    assert values_in(tmp_path / "output") == sorted(numbers(*(range(n, n + 1) for n in range(11) if n not in skipped)))


def test_a_stream_that_goes_on_from_another_ones_checkpoint_finds_all_behind_its_oldest_batch(tmp_path: Path) -> None:
    """The new stream holds before the old one is let go."""
    append(tmp_path, numbers(range(20)))
    finished_elsewhere(tmp_path)
    for _ in range(2):
        run_to_files(tmp_path, max_batch_offsets=8)
    assert kept_for(tmp_path) == (1, {0: 8})
    assert sweep(tmp_path) == [5]

    oldest = CheckpointAt(f"{tmp_path}/checkpoint", 0)
    run_to_files(tmp_path, "newer", "of_newer", stream_continue_from=oldest)
    assert values_in(tmp_path / "of_newer") == sorted(numbers(range(7, 20)))

    (number, offsets), old_id = (
        kept_for(tmp_path, "newer"),
        Checkpoint.open_existing(LocalStore(tmp_path / "checkpoint")),
    )
    assert old_id is not None
    assert (number, offsets) == (0, {})
    assert run("wal", "release", tmp_path / "hooks", "--stream", old_id.stream_id, "--yes").exit_code == 0
    assert sweep(tmp_path) == [5], "held by the new one"
    run_to_files(tmp_path, "newer", "of_newer")
    sweep(tmp_path)
    with pytest.raises(ConfigurationError, match="was released for source 'wal' of stream"):
        run_to_files(tmp_path)
    append(tmp_path, numbers(range(20, 24)))
    run_to_files(tmp_path, "newer", "of_newer")
    assert values_in(tmp_path / "of_newer") == sorted(numbers(range(7, 24)))


def test_a_partition_that_is_newer_than_what_a_stream_said_is_kept(tmp_path: Path) -> None:
    append(tmp_path, numbers(range(4)))
    finished_elsewhere(tmp_path)
    for _ in range(2):
        run_to_files(tmp_path)
    append(tmp_path, numbers(range(4, 12)), partition=1)
    assert kept_for(tmp_path) == (1, {0: 5})
    assert sweep(tmp_path)[1] == 0
    run_to_files(tmp_path)
    assert values_in(tmp_path / "output") == sorted(numbers(range(12)))


def test_a_log_that_takes_the_place_of_another_is_held_before_it_is_read(tmp_path: Path) -> None:
    """The stream runs on over the change, and knows the new log by a batch only when it is there."""
    append(tmp_path, numbers(range(4)))

    def change(progress: BatchProgress) -> None:
        if progress.batch_id == 0:
            shutil.rmtree(tmp_path / "hooks")
            append(tmp_path, numbers(range(4, 12)))
            finished_elsewhere(tmp_path)
        else:
            assert sweep(tmp_path) == [0]

    run_to_files(
        tmp_path,
        on_data_loss="skip",
        max_batch_offsets=5,
        stream_trigger=ProcessingTime(0),
        stream_max_batches=3,
        stream_listeners=change,
    )
    assert values_in(tmp_path / "output") == sorted(numbers(range(12)))
