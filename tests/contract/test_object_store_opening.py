"""From URIs to stores, and stores of tests instead."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.object_store import ObjectStore, open_object_store, override_stores
from beam_exactly_once.object_store.gcs import GcsStore
from beam_exactly_once.object_store.local import LocalStore
from beam_exactly_once.object_store.memory import MemoryStore


@pytest.mark.parametrize(
    ("uri", "kind", "canonical"),
    [
        ("/tmp/a/", LocalStore, "/tmp/a"),
        ("/tmp/b/../a", LocalStore, "/tmp/a"),
        ("file:///tmp/a", LocalStore, "/tmp/a"),
        ("file://localhost/tmp/a/", LocalStore, "/tmp/a"),
        ("/tmp/que?stion/ha#sh/per%20cent", LocalStore, "/tmp/que?stion/ha#sh/per%20cent"),
        ("~/a", LocalStore, str(Path.home() / "a")),
        ("memory://a/", MemoryStore, "memory://a"),
        ("gs://bucket/a/b/", GcsStore, "gs://bucket/a/b"),
    ],
)
def test_uris_say_which_store(uri: str, kind: type, canonical: str) -> None:
    store = open_object_store(uri)

    assert type(store) is kind
    assert store.uri == canonical


@pytest.mark.parametrize(
    ("uri", "options", "message"),
    [
        ("hdfs://a/b", None, "scheme 'hdfs' is not known; use a local path, file, memory, s3, s3a or gs"),
        ("", None, "an empty path is not a store"),
        ("memory://", None, "write memory://name"),
        ("memory:///", None, "write memory://name"),
        ("s3://bucket/que?stion", None, r"s3://bucket/que… has a \? in its name"),
        ("s3a://bucket/ha#sh/a", None, "s3a://bucket/ha… has a # in its name"),
        ("gs://bucket/per%20cent", None, "gs://bucket/per… has a % in its name"),
        ("file:///tmp/a%20b", None, "has a % in its name.*or write the path without file://"),
        ("file://host/a", None, r"file://host/a names a host or a relative path; write file:///path"),
        ("file://a", None, "names a host"),
        ("/tmp/a", {"region_name": "x"}, "/tmp/a takes no storage_options, but got region_name"),
        ("memory://a", {"x": 1}, "takes no storage_options"),
        ("gs://bucket", None, "name a prefix below the bucket"),
        ("gs://-b/a", None, "write gs://bucket/prefix"),
        ("gs://key:hunter2@b/a", None, "write gs://bucket/prefix"),
        ("gs://", None, "write gs://bucket/prefix"),
        ("gs://bucket/a/../b", None, "cannot be a store"),
        ("gs://bucket/a", {"project": "x"}, "unknown storage_options project. Known: user_project"),
        ("gs://bucket/a", {"user_project": 7}, "user_project in storage_options must be a non-empty string"),
    ],
)
def test_what_cannot_be_opened_is_explained(uri: str, options: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        open_object_store(uri, options)


def test_what_follows_a_question_mark_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as raised:
        open_object_store("s3://bucket/a?secret=hunter2")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("uri", "extra", "module"), [("s3://a/b", "s3", "boto3"), ("gs://a/b", "gcs", "google.cloud.storage")]
)
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, uri: str, extra: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for backend in ("s3", "s3_client", "gcs", "gcs_client"):
        monkeypatch.delitem(sys.modules, f"beam_exactly_once.object_store.{backend}", raising=False)

    with pytest.raises(ConfigurationError, match=rf"pip install 'beam_exactly_once\[{extra}\]'"):
        open_object_store(uri)


def test_overrides_nest_and_end() -> None:
    opened: list[tuple[str, str, Mapping[str, Any] | None]] = []

    def noting(name: str) -> Any:
        def open_(uri: str, options: Mapping[str, Any] | None) -> ObjectStore:
            opened.append((name, uri, options))
            return open_object_store(uri, options)

        return open_

    with override_stores(noting("outer")):
        with override_stores(noting("inner")):
            open_object_store("memory://a", None)
        open_object_store("memory://b")
    open_object_store("memory://c")

    assert opened == [("inner", "memory://a", None), ("outer", "memory://a", None), ("outer", "memory://b", None)]


def test_overrides_hold_in_all_threads() -> None:
    found: list[ObjectStore] = []
    replacement = MemoryStore("memory://replacement")
    with override_stores(lambda uri, options: replacement):
        thread = threading.Thread(target=lambda: found.append(open_object_store("s3://not/asked")))
        thread.start()
        thread.join()

    assert found == [replacement]
