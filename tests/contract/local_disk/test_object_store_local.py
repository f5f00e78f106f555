"""What is the local disk's own: files that appear whole, folders in the way, processes that race and die."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once.errors import ConfigurationError, OutputNotWritable, StagedOutputMissing, StoreUnavailable
from beam_exactly_once.object_store import Created, StagedObject, Taken, open_object_store
from beam_exactly_once.object_store.local import LocalStore
from beam_exactly_once.testing.object_store_contract import staged
from support.faulty_store import ManualClock

RACERS = 16


# -- what others see ----------------------------------------------------------------------------------------------


def test_no_glob_of_the_root_sees_what_is_not_published(store: LocalStore, root: Path) -> None:
    store.put_if_absent("a", b"1")
    one = staged(store, "deep/part.parquet")
    with store.stage("deep/other.parquet") as writer:
        writer.write(b"x" * (2 << 20))
        assert [path.name for path in root.rglob("*")] == ["a"]

    assert [path.name for path in root.rglob("*")] == ["a"]
    store.publish(one)
    assert (root / "deep" / "part.parquet").read_bytes() == b"content"
    assert len(list(root.rglob("*"))) == 3


def test_the_first_key_of_a_listing_opens_only_the_folders_on_its_way(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a", "b/c", "b/d", "e"):
        store.put_if_absent(f"{folder}/key", b"1")
    opened: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(
        os, "scandir", lambda path: [opened.append(Path(path).relative_to(root).as_posix()), scandir(path)][1]
    )

    assert [entry.key for entry in store.list("", "a/key", limit=1)] == ["b/c/key"]
    assert opened == [".", "a", "b", "b/c"]
    opened.clear()
    assert next(store.list("b/d")).key == "b/d/key"
    assert opened == ["b", "b/d"]


def test_a_root_does_not_list_what_is_staged_for_a_root_inside_it(store: LocalStore, root: Path) -> None:
    inner = LocalStore(root / "inner")
    inner.put_if_absent("a", b"1")
    staged(inner, "b")

    assert [entry.key for entry in store.list()] == ["inner/a"]


def test_published_files_are_ordinary_files(store: LocalStore, root: Path) -> None:
    store.publish(staged(store, "part"))

    assert (root / "part").stat().st_nlink == 1
    assert list((root.parent / ".out.staging").iterdir()) == []


# -- races --------------------------------------------------------------------------------------------------------


def _race(root: Path, start: Any, rounds: int, number: int, results: Any) -> None:
    store = LocalStore(root)
    start.wait()
    created = [
        round_ for round_ in range(rounds) if store.put_if_absent(f"raced/{round_}", b"%d" % number * 999) == Created()
    ]
    results.put((number, created))


def test_sixteen_racing_processes_have_one_winner(root: Path) -> None:
    context, rounds = multiprocessing.get_context("fork"), 20
    start, results = context.Barrier(RACERS), context.SimpleQueue()
    racers = [context.Process(target=_race, args=(root, start, rounds, number, results)) for number in range(RACERS)]
    for racer in racers:
        racer.start()
    won = dict(results.get() for _ in racers)
    for racer in racers:
        racer.join()

    winners = {round_: number for number, created in won.items() for round_ in created}
    assert sum(len(created) for created in won.values()) == len(winners) == rounds
    store = LocalStore(root)
    for round_, number in winners.items():
        assert store.get(f"raced/{round_}") == b"%d" % number * 999


def test_readers_never_see_a_torn_file(store: LocalStore) -> None:
    body, seen, done = os.urandom(256) * 1024, set(), threading.Event()

    def read() -> None:
        last = False
        while not last:
            last = done.is_set()
            for number in range(40):
                found = store.get(f"torn/{number}")
                seen.add(None if found is None else found == body)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        store.put_if_absent(f"torn/{number}", body)
    done.set()
    reader.join()

    assert False not in seen
    assert True in seen


# -- what a process that died leaves ------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [LocalStore.verify, LocalStore.check_writable])
def test_what_killed_creates_left_is_removed_when_it_is_old(
    store: LocalStore, root: Path, look: Callable[[LocalStore], None]
) -> None:
    staged(store, "kept")
    staging = root.parent / ".out.staging"
    now_s = ManualClock().utc_now().timestamp()
    for name, age_s in (("put-old", 90_000), ("put-young", 80_000), ("mine", 90_000)):
        (staging / name).touch()
        os.utime(staging / name, (now_s - age_s,) * 2)
    for path in staging.glob("staged-*"):
        os.utime(path, (now_s - 90_000,) * 2)

    assert [one.final_key for one in store.list_staged()] == ["kept"]
    look(store)

    assert sorted(path.name.partition("-")[0] for path in staging.iterdir()) == ["mine", "put", "staged"]
    assert (staging / "put-young").exists()


def test_a_create_whose_temporary_file_was_removed_begins_again(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, linked = os.link, []

    def link_after_a_sweep(source: Path, final: Path) -> None:
        linked.append(source)
        if len(linked) == 1:
            Path(source).unlink()
        link(source, final)

    monkeypatch.setattr(os, "link", link_after_a_sweep)

    assert store.put_if_absent("a", b"1") == Created()
    assert len(set(linked)) == 2
    assert (root / "a").read_bytes() == b"1"


def test_a_publisher_that_died_before_it_removed_its_source_is_finished_by_the_next(
    store: LocalStore, root: Path
) -> None:
    one = staged(store, "part")
    root.mkdir(parents=True)
    os.link(root.parent / ".out.staging" / one.token["name"], root / "part")

    assert store.publish(one) is False
    assert list(store.list_staged()) == []


def test_missing_output_names_both_places(store: LocalStore, root: Path) -> None:
    one = staged(store, "part")
    path = root.parent / ".out.staging" / one.token["name"]
    path.unlink()

    with pytest.raises(StagedOutputMissing, match=rf"{root}/part is neither .*{path}"):
        store.publish(one)


def test_tokens_do_not_lead_out_of_the_staging_folder(store: LocalStore, root: Path) -> None:
    root.mkdir(parents=True)
    (root / "precious").write_bytes(b"1")

    store.discard(StagedObject("a", 1, {"name": "../out/precious"}))

    assert (root / "precious").exists()
    with pytest.raises(ValueError, match="is not a key"):
        store.discard(StagedObject("a", 1, {"name": ".."}))


def test_names_and_their_folders_are_synced_before_anything_rests_on_them(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    store.put_if_absent("commits/1", b"1")
    first = [path for path in synced if "put-" not in path]
    synced.clear()
    store.put_if_absent("commits/1", b"2")

    assert {str(root), str(root / "commits"), str(root.parent), str(root.parent.parent)} == set(first)
    assert first[-1] == str(root / "commits")
    assert synced[-1] == str(root / "commits")  # the winner may have died before it synced


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_the_way", ["data", "data/out", "data/.out.staging"])
def test_a_file_in_the_way_is_named(store: LocalStore, tmp_path: Path, in_the_way: str) -> None:
    path = tmp_path / in_the_way
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()

    with pytest.raises(OutputNotWritable, match=rf"{path}.*a file is in the way of a folder: move it"):
        store.put_if_absent("a", b"1")
    with pytest.raises(OutputNotWritable, match="a file is in the way"):
        store.publish(staged(store, "a"))
    with pytest.raises(OutputNotWritable, match="a file is in the way"):
        store.verify()


def test_a_key_below_an_object_is_refused(store: LocalStore) -> None:
    store.put_if_absent("a", b"1")

    with pytest.raises(OutputNotWritable, match="a file is in the way"):
        store.put_if_absent("a/b", b"2")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_place_where_no_folder_can_be_made_is_refused_at_once() -> None:
    store = LocalStore("/proc/orders/out", clock=ManualClock())
    with pytest.raises(OutputNotWritable, match=r"/proc/orders: no folder can be made there"):
        store.put_if_absent("a", b"1")


def test_a_link_that_leads_nowhere_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")

    with pytest.raises(OutputNotWritable, match=r"link: File exists"):
        LocalStore(tmp_path / "link").put_if_absent("a", b"1")


def refuse(number: int) -> Callable[..., Any]:
    def call(*arguments: Any, **_: Any) -> Any:
        raise OSError(number, os.strerror(number), str(arguments[0]))

    return call


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "no permission. Give this user the right"),
        (errno.EPERM, "no permission. Give this user the right"),
        (errno.EROFS, "Read-only file system. Way out: use another place"),
        (errno.ENOSPC, "No space left on device. Way out: make room"),
        (errno.ENOTSUP, "no hard links"),
        (errno.EXDEV, "one file system with the hidden folder beside it"),
    ],
)
@pytest.mark.parametrize("call", ["link", "fsync"])
def test_refusals_of_the_file_system_are_named(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, message: str
) -> None:
    one = staged(store, "b")
    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse(number))
        with pytest.raises(OutputNotWritable, match=message):
            store.put_if_absent("a", b"1")
        with pytest.raises(OutputNotWritable, match=message):
            store.publish(one)
        with pytest.raises(OutputNotWritable, match=message):
            store.verify()

    assert [path for path in root.rglob("*") if path.is_file() and path.name != "b"] == []
    assert list((root.parent / ".out.staging").glob("put-*")) == []
    store.publish(one)
    assert store.get("b") == b"content"


def test_a_disk_that_is_full_while_staging_leaves_nothing(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = store.stage("a")
    writer.write(b"1")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse(errno.ENOSPC))
        with pytest.raises(OutputNotWritable, match="make room"):
            writer.close()

    assert list(store.list_staged()) == []
    with pytest.raises(ValueError, match="not closed cleanly"):
        _ = writer.staged


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_an_unreadable_folder_is_not_an_empty_one(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store.put_if_absent("commits/1", b"1")
    monkeypatch.setattr(os, "scandir", refuse(number))

    with pytest.raises((OutputNotWritable, OSError)):
        list(store.list("commits/"))


def test_a_network_disk_that_stumbles_is_asked_again(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_if_absent("a", b"1")
    read_bytes, failures = Path.read_bytes, iter([errno.ESTALE, errno.ETIMEDOUT, 0])

    def stumble(path: Path) -> bytes:
        number = next(failures)
        return refuse(number)(path) if number else read_bytes(path)  # type: ignore[no-any-return]

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", stumble)
        assert store.get("a") == b"1"
    monkeypatch.setattr(Path, "read_bytes", refuse(errno.ESTALE))
    with pytest.raises(StoreUnavailable, match="Stale file handle"):
        store.get("a")


def test_staging_on_a_network_disk_that_stumbles_is_definite(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged(store, "a")
    iterdir, failures = Path.iterdir, iter([errno.ESTALE, errno.ENOENT, 0])

    def stumble(path: Path) -> Any:
        number = next(failures)
        return refuse(number)(path) if number else iterdir(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", stumble)
        assert [one.final_key for one in store.list_staged()] == ["a"]
    with monkeypatch.context() as patched:
        patched.setattr(Path, "iterdir", refuse(errno.ESTALE))
        with pytest.raises(StoreUnavailable, match="list staged"):
            list(store.list_staged())

    # What a file holds after a sync that failed is not known: it is dropped, never synced again.
    writer = store.stage("b")
    writer.write(b"1")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse(errno.ESTALE))
        with pytest.raises(StoreUnavailable, match=r"Stale file handle.*start again"):
            writer.close()
    assert [one.final_key for one in store.list_staged()] == ["a"]


def test_a_folder_is_no_object(store: LocalStore) -> None:
    store.put_if_absent("a/b", b"1")

    assert store.get("a") is None
    assert store.size_bytes("a") is None


@pytest.mark.parametrize("root", ["", "/", "//", "/a/..", "/a\0b", "/a\ud800"])
def test_roots_that_cannot_be(root: str) -> None:
    with pytest.raises(ConfigurationError):
        LocalStore(root)


def test_a_relative_root_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_object_store("some/where/")
    store.put_if_absent("a", b"1")
    monkeypatch.chdir("/")

    assert store.uri == str(tmp_path / "some" / "where")
    assert store.put_if_absent("a", b"2") == Taken(b"1")
