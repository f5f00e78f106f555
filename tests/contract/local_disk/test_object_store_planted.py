"""A local store in a folder that many may write to: what others put in the place of its staging folder is not trusted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from beam_exactly_once.errors import OutputNotWritable
from beam_exactly_once.object_store import Created, StagedObject
from beam_exactly_once.object_store.local import LocalStore
from beam_exactly_once.testing.object_store_contract import staged


@pytest.mark.parametrize("planted", ["link", "another user's", "open to all"])
@pytest.mark.parametrize("act", ["create", "stage", "publish", "list"])
def test_a_staging_folder_that_others_have_a_hand_in_is_refused(
    store: LocalStore, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str, act: str
) -> None:
    """In a folder that many may write to, the name of the staging folder is known before it is there."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "staged-0-part").write_bytes(b"forged")
    staging = root.parent / ".out.staging"
    root.parent.mkdir()
    if planted == "link":
        staging.symlink_to(theirs)
    else:
        theirs.rename(staging)
    if planted == "another user's":
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        if os.getuid() == 0:  # whose folders are trusted
            os.chown(staging, 1234, -1)
    if planted == "open to all":
        staging.chmod(0o777)
    acts: dict[str, Callable[[], object]] = {
        "create": lambda: store.put_if_absent("a", b"1"),
        "stage": lambda: store.stage("part"),
        "publish": lambda: store.publish(StagedObject("part", 6, {"name": "staged-0-part"})),
        "list": lambda: list(store.list_staged()),
    }
    with pytest.raises(
        OutputNotWritable, match=r"\.out\.staging, where .* is a link, belongs to another user, or can be"
    ):
        acts[act]()
    assert not (root / "part").exists()


def test_a_staging_folder_may_be_that_of_who_owns_the_root(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may write to the output needs no other way to change it."""
    store.put_if_absent("a", b"1")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert isinstance(store.put_if_absent("b", b"1"), Created)
    root.chmod(0o777)
    (root.parent / ".out.staging").chmod(0o777)
    assert isinstance(store.put_if_absent("c", b"1"), Created)


def test_a_staging_folder_is_never_open_to_all_users(store: LocalStore, root: Path) -> None:
    before = os.umask(0)
    try:
        staged(store, "part")
    finally:
        os.umask(before)
    assert (root.parent / ".out.staging").stat().st_mode & 0o777 == 0o775
