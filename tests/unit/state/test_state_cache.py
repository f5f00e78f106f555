"""The cache of sections: near, closed to others, and never wrong."""

from __future__ import annotations

import datetime
import logging
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from beam_exactly_once.errors import ConfigurationError, CorruptObject
from beam_exactly_once.state.near import cache_folder
from beam_exactly_once.state.near.cache import SectionCache, StateCache, section_cache
from beam_exactly_once.state.near.cache_file import file_name
from beam_exactly_once.state.run import Run
from beam_exactly_once.state.section import pack
from beam_exactly_once.state.state_list import Section
from support.state_rows import Row, rows_of, run_of

BOOT = "01234567-89ab-cdef-0123-456789abcdef"


class Remote:
    """Sections in an object, and what was asked of it."""

    def __init__(self, *runs: Run) -> None:
        self.body, self.refs = pack("state/counts/7.arrow", runs)
        self.fetched: list[int] = []

    def fetch(self, object_key: str, offset: int, size_bytes: int) -> bytes:
        self.fetched.append(offset)
        return self.body[offset : offset + size_bytes]


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its boot and its mounts, as files."""
    boot_id = tmp_path / "boot_id"
    boot_id.write_text(BOOT + "\n")
    monkeypatch.setattr(cache_folder, "BOOT_ID", boot_id)
    monkeypatch.setattr(cache_folder, "MOUNTS", tmp_path / "mountinfo")
    (tmp_path / "mountinfo").write_text("22 1 254:1 / / rw,relatime - ext4 /dev/root rw\n")
    return tmp_path


@pytest.fixture
def settings(tmp_path: Path) -> StateCache:
    return StateCache(str(tmp_path / "cache"))


def small(name: bytes = b"a") -> Run:
    return run_of([Row(name, b"", b"1", 5), Row(b"z", b"", None)])


def large_run() -> Run:
    """More than a megabyte, so that its file is mapped."""
    return run_of([Row(b"%d" % number, b"", b"v" * 100, number) for number in range(12_000)])


def folder_of(settings: StateCache) -> Path:
    assert settings.location is not None
    return Path(settings.location) / f"beam-exactly-once-state-{os.getuid()}"


def file_of(settings: StateCache, ref: Section) -> Path:
    return folder_of(settings) / BOOT / file_name(ref)


@pytest.fixture(params=[small, large_run])
def run(request: pytest.FixtureRequest) -> Run:
    made: Callable[[], Run] = request.param
    return made()


def test_a_section_is_fetched_once_a_machine(settings: StateCache, run: Run) -> None:
    remote = Remote(small(b"other"), run)
    ref = remote.refs[1]

    found = [SectionCache(settings).get(ref, remote.fetch) for _ in range(3)]  # three processes

    assert [rows_of(one) for one in found] == [rows_of(run)] * 3
    assert [one.due(-1, 9).tolist() for one in found] == [run.due(-1, 9).tolist()] * 3
    assert remote.fetched == [ref.offset]


def test_what_was_written_is_not_fetched(settings: StateCache, run: Run) -> None:
    remote = Remote(run)
    SectionCache(settings).put(remote.refs[0], run)

    assert rows_of(SectionCache(settings).get(remote.refs[0], remote.fetch)) == rows_of(run)
    assert remote.fetched == []


def test_one_process_opens_a_section_once(settings: StateCache, run: Run) -> None:
    remote = Remote(run)
    cache = SectionCache(settings)

    assert cache.get(remote.refs[0], remote.fetch) is cache.get(remote.refs[0], remote.fetch)


def test_files_and_folders_are_closed_to_others(settings: StateCache, run: Run) -> None:
    remote = Remote(run)
    before = os.umask(0)
    try:
        SectionCache(settings).get(remote.refs[0], remote.fetch)
    finally:
        os.umask(before)

    paths = [folder_of(settings), folder_of(settings) / BOOT, file_of(settings, remote.refs[0])]
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o700, 0o700, 0o600]
    assert [path.name for path in paths[1].iterdir()] == [paths[2].name]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "its end zeroed": lambda path: path.write_bytes(path.read_bytes()[:-40] + bytes(40)),
    "its beginning cut": lambda path: path.write_bytes(path.read_bytes()[100:]),
    "open to others": lambda path: path.chmod(0o644),
    "a link": lambda path: path.rename(path.with_suffix(".x")) and path.symlink_to(path.with_suffix(".x")),
    "a folder": lambda path: path.unlink() or path.mkdir(),  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_fetched_again(settings: StateCache, run: Run, damage: Callable[[Path], object]) -> None:
    remote = Remote(run)
    (ref,) = remote.refs
    SectionCache(settings).get(ref, remote.fetch)
    damage(file_of(settings, ref))

    assert rows_of(SectionCache(settings).get(ref, remote.fetch)) == rows_of(run)
    assert remote.fetched == [0, 0]
    assert rows_of(SectionCache(settings).get(ref, remote.fetch)) == rows_of(run)
    assert remote.fetched == [0, 0]


@pytest.mark.parametrize("place", [0.1, 0.5, 0.8])
def test_a_page_of_zeros_in_a_small_file_is_noticed(settings: StateCache, place: float) -> None:
    remote = Remote(small())
    (ref,) = remote.refs
    SectionCache(settings).get(ref, remote.fetch)
    path = file_of(settings, ref)
    content = bytearray(path.read_bytes())
    at = next(index for index in range(int(place * len(content)), len(content)) if content[index])
    content[at] = 0
    path.write_bytes(content)

    assert rows_of(SectionCache(settings).get(ref, remote.fetch)) == rows_of(small())
    assert remote.fetched == [0, 0]


def test_a_file_of_another_section_is_not_taken(settings: StateCache) -> None:
    remote = Remote(small(b"a"), small(b"b"))
    for ref in remote.refs:
        SectionCache(settings).get(ref, remote.fetch)
    file_of(settings, remote.refs[0]).write_bytes(file_of(settings, remote.refs[1]).read_bytes())

    assert rows_of(SectionCache(settings).get(remote.refs[0], remote.fetch)) == rows_of(small(b"a"))


def test_what_is_fetched_damaged_is_an_error_and_is_not_kept(settings: StateCache) -> None:
    remote = Remote(small())
    whole = remote.body
    remote.body = whole[:-1]
    cache = SectionCache(settings)

    with pytest.raises(CorruptObject, match=r"state/counts/7.arrow: the section at byte 0 ends after"):
        cache.get(remote.refs[0], remote.fetch)
    remote.body = whole
    assert rows_of(cache.get(remote.refs[0], remote.fetch)) == rows_of(small())


def test_files_of_another_boot_are_removed_unread(settings: StateCache, machine: Path, run: Run) -> None:
    """After a power cut a file may have its size, and pages of zeros."""
    remote = Remote(run)
    SectionCache(settings).get(remote.refs[0], remote.fetch)
    (machine / "boot_id").write_text(BOOT.replace("0", "f"))

    SectionCache(settings).get(remote.refs[0], remote.fetch)

    assert remote.fetched == [0, 0]
    assert [path.name for path in folder_of(settings).iterdir()] == [BOOT.replace("0", "f")]


def test_a_machine_that_names_no_boot_keeps_files_that_are_on_disk(
    settings: StateCache, machine: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "boot_id").unlink()
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    remote = Remote(run)

    for _ in range(2):
        assert rows_of(SectionCache(settings).get(remote.refs[0], remote.fetch)) == rows_of(run)

    assert remote.fetched == [0]
    assert len(synced) == 1


def test_the_files_used_longest_ago_go_first(settings: StateCache) -> None:
    remote = Remote(*(small(b"%d" % number) for number in range(10)))
    SectionCache(settings).get(remote.refs[0], remote.fetch)
    size_bytes = file_of(settings, remote.refs[0]).stat().st_size
    bounded = StateCache(settings.location, max_bytes=int(4.5 * size_bytes))
    for number, ref in enumerate(remote.refs[:4]):
        SectionCache(bounded).get(ref, remote.fetch)
        os.utime(file_of(settings, ref), (number, number))
    SectionCache(bounded).get(remote.refs[0], remote.fetch)  # used again

    SectionCache(bounded).get(remote.refs[4], remote.fetch)

    assert [number for number in range(10) if file_of(settings, remote.refs[number]).exists()] == [0, 2, 3, 4]


def test_a_section_that_goes_while_it_is_used_stays_usable(settings: StateCache) -> None:
    remote = Remote(large_run())
    found = SectionCache(settings).get(remote.refs[0], remote.fetch)

    file_of(settings, remote.refs[0]).unlink()

    assert rows_of(found) == rows_of(large_run())


def test_what_dead_processes_left_is_removed(settings: StateCache) -> None:
    remote = Remote(small())
    SectionCache(settings).get(remote.refs[0], remote.fetch)
    old, young = (folder_of(settings) / BOOT / name for name in ("old.tmp", "young.tmp"))
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    hour_ago = datetime.datetime.now(datetime.timezone.utc).timestamp() - 3601
    os.utime(old, (hour_ago, hour_ago))

    SectionCache(settings)

    assert (old.exists(), young.exists()) == (False, True)


def test_two_processes_may_fill_one_file(settings: StateCache, run: Run) -> None:
    remote = Remote(run)
    start = threading.Barrier(8)
    found: list[Run] = []

    def fill() -> None:
        cache = SectionCache(settings)
        start.wait()
        found.append(cache.get(remote.refs[0], remote.fetch))

    threads = [threading.Thread(target=fill) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [rows_of(one) for one in found] == [rows_of(run)] * 8
    assert len(list((folder_of(settings) / BOOT).iterdir())) == 1


def in_memory(settings: StateCache, caplog: pytest.LogCaptureFixture) -> str:
    """Shows that state is kept in memory, and what was said about it."""
    remote = Remote(large_run(), small())
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        cache = SectionCache(settings)
        for _ in range(2):
            for ref, run in zip(remote.refs, (large_run(), small()), strict=True):
                assert rows_of(cache.get(ref, remote.fetch)) == rows_of(run)
    assert cache.folder is None
    assert remote.fetched == [ref.offset for ref in remote.refs]
    (said,) = caplog.messages
    assert said.startswith("state is kept in memory, ")
    return said


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs", "nfs4", "cifs", "fuse.sshfs", "9p"])
def test_no_file_lies_in_memory_or_on_a_network(
    settings: StateCache, machine: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    point = str(machine / "cache").replace(" ", "\\040")
    with (machine / "mountinfo").open("a") as mounts:
        mounts.write(f"23 22 0:5 / {point} rw shared:1 - {kind} what rw\n")

    assert f"({kind})" in in_memory(settings, caplog)


def test_the_mount_that_was_made_last_is_the_one_that_counts(machine: Path) -> None:
    folder = machine / "with space"
    folder.mkdir()
    point = str(folder).replace(" ", "\\040")
    (machine / "mountinfo").write_text(
        f"1 1 0:1 / / rw - ext4 a rw\n2 1 0:2 / {point} rw - tmpfs b rw\n3 1 0:3 / {point} rw - xfs c rw\n"
    )

    assert cache_folder.file_system_of(folder) == "xfs"
    assert cache_folder.file_system_of(machine) == "ext4"
    (machine / "mountinfo").unlink()
    assert cache_folder.file_system_of(folder) == ""


def test_a_folder_that_others_may_write_is_not_used(settings: StateCache, caplog: pytest.LogCaptureFixture) -> None:
    folder_of(settings).mkdir(parents=True)
    folder_of(settings).chmod(0o770)

    assert "is not a folder of this user alone" in in_memory(settings, caplog)


def test_a_folder_of_another_user_is_not_used(
    settings: StateCache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(settings).mkdir(parents=True, mode=0o700)
    folder_of(settings).rename(folder_of(settings).with_name(f"beam-exactly-once-state-{os.getuid() + 1}"))
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)

    assert "is not a folder of this user alone" in in_memory(settings, caplog)


def test_a_link_is_not_used_as_a_folder(settings: StateCache, machine: Path, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = machine / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder_of(settings).parent.mkdir(parents=True)
    folder_of(settings).symlink_to(elsewhere)

    assert "is not a folder of this user alone" in in_memory(settings, caplog)
    assert list(elsewhere.iterdir()) == []


def test_a_place_that_cannot_be_written_is_not_used(machine: Path, caplog: pytest.LogCaptureFixture) -> None:
    (machine / "file").write_text("in the way")

    assert "cannot be used" in in_memory(StateCache(str(machine / "file" / "cache")), caplog)


def test_without_a_location_the_users_cache_folder_comes_first(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "of the user"))

    folder = SectionCache(StateCache()).folder

    assert folder is not None
    assert folder.path == machine / "of the user" / f"beam-exactly-once-state-{os.getuid()}" / BOOT


def test_a_full_disk_is_said_once_and_stops_nothing(
    settings: StateCache, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote(large_run(), small())
    cache = SectionCache(settings)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    for ref, run in zip(remote.refs, (large_run(), small()), strict=True):
        assert rows_of(cache.get(ref, remote.fetch)) == rows_of(run)

    (said,) = caplog.messages
    assert "No space left on device" in said
    assert list((folder_of(settings) / BOOT).iterdir()) == []


def test_memory_is_bounded(settings: StateCache) -> None:
    remote = Remote(*(small(b"%d" % number) for number in range(10)))
    size_bytes = small(b"0").size_bytes
    cache = SectionCache(StateCache(max_bytes=0, max_memory_bytes=3 * size_bytes))

    for number in (0, 1, 2, 0, 3, 0, 2, 1):
        cache.get(remote.refs[number], remote.fetch)

    places = [remote.refs[number].offset for number in (0, 1, 2, 3, 1)]
    assert remote.fetched == places


def test_a_process_has_one_cache_a_setting(settings: StateCache) -> None:
    assert section_cache(settings) is section_cache(StateCache(settings.location))
    assert section_cache(settings) is not section_cache(StateCache(settings.location, max_bytes=1 << 20))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: StateCache("s3://bucket/x"), "must be a folder of this machine's disk"),
        (lambda: StateCache(""), "must be a folder of this machine's disk"),
        (lambda: StateCache(max_bytes=-1), "max_bytes=-1 must be a whole number"),
        (lambda: StateCache(max_memory_bytes=1.5), "max_memory_bytes=1.5 must be a whole number"),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings_are_refused(wrong: Callable[[], StateCache], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        wrong()
