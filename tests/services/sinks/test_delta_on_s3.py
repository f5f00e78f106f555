"""``WriteToDelta`` on MinIO, a real S3 server: its log is written by conditional puts of another client than the library's."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa
import pytest

from beam_exactly_once import secret_from_env
from beam_exactly_once.errors import ConfigurationError, Fenced, OutputNotWritable
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.sinks.delta.table import TableVersion
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.launch.restricted import restricted_to
from support.delta_streams import NUMBERS, DeltaStream
from support.ending import ends_with, kill

pytestmark = pytest.mark.runs_on("DirectRunner", storage="S3, by MinIO")


@pytest.fixture
def stream(bucket: str) -> DeltaStream:
    reading = {"AWS_ALLOW_HTTP": "true", "AWS_ENDPOINT_URL": os.environ["S3_ENDPOINT_URL"]}
    return DeltaStream(bucket, reading)


def test_each_batch_is_one_commit(stream: DeltaStream) -> None:
    stream.produce(0, 1, 2, 3, 4)
    stream.run()
    stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3, 4]
    assert [commit["operation"] for commit in stream.table.history()] == ["WRITE"] * 3 + ["CREATE TABLE"]


def test_killed_between_marker_and_commit_with_a_vacuum_between(stream: DeltaStream) -> None:
    """An open upload is no object: VACUUM does not see it."""
    stream.produce(0, 1, 2, 3)
    with watching(StoreCalls(KillPoint("put_if_absent", "commits/", 2), kill)), ends_with("killed here"):
        stream.run()
    stream.table.vacuum(0, full=True, dry_run=False, enforce_retention_duration=False)
    stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3]


def test_folders_with_names_that_are_encoded(stream: DeltaStream) -> None:
    texts = ["two words", "a/b", "50%", "ü=ö", None]
    schema = pa.schema([("number", pa.int64()), ("text", pa.string())])
    stream.produce(*range(len(texts)))
    stream.run(lambda number: {"number": number, "text": texts[number]}, schema=schema, partition_by=["text"])
    assert stream.rows() == [{"number": number, "text": text} for number, text in enumerate(texts)]


@pytest.mark.parametrize("name", ["two words", "a+b&c=d;e", "[é]{ß}:@'~"])
def test_log_and_files_are_in_one_place_whatever_its_name(stream: DeltaStream, name: str) -> None:
    stream.output += f"/{name}"
    stream.produce(0, 1, 2)
    stream.run()
    assert stream.read_numbers() == [0, 1, 2]
    found = {entry.key.partition("/")[0] for entry in open_object_store(stream.output).list()}
    assert "_delta_log" in found
    assert len(found) == 3, "the log, and the files of two batches"


@pytest.mark.parametrize("name", ["que?stion", "ha#sh", "per%20cent"])
def test_names_that_are_read_as_others(stream: DeltaStream, name: str) -> None:
    checkpoint = stream.location
    stream.output += f"/{name}"
    with pytest.raises(ConfigurationError, match="Use a name without"):
        stream.run(location=checkpoint)


def test_a_driver_wakes_up_after_a_newer_one_went_on(stream: DeltaStream, monkeypatch: pytest.MonkeyPatch) -> None:
    append = TableVersion.append
    slept: list[int] = []

    def sleep_first(self: TableVersion, *arguments: Any) -> None:
        if not slept:
            slept.append(1)
            stream.run()
        append(self, *arguments)

    monkeypatch.setattr(TableVersion, "append", sleep_first)
    stream.produce(0, 1, 2, 3, 4)
    with pytest.raises(Fenced):
        stream.run()
    assert stream.read_numbers() == [0, 1, 2, 3, 4]


def test_options_of_the_store_reach_the_log_too(stream: DeltaStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Endpoint and credentials are known to no variable, only to ``storage_options``."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"LAKE_{name}", os.environ[name])
        stream.storage_options = {**(stream.storage_options or {}), name: os.environ[name]}
    options = {
        "endpoint_url": os.environ["S3_ENDPOINT_URL"],
        "region_name": "us-east-1",
        "aws_access_key_id": secret_from_env("LAKE_AWS_ACCESS_KEY_ID"),
        "aws_secret_access_key": secret_from_env("LAKE_AWS_SECRET_ACCESS_KEY"),
    }
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    stream.produce(0, 1, 2)
    stream.run(location=f"memory://{stream.output.split('/')[-2]}", storage_options=options)
    assert stream.read_numbers() == [0, 1, 2]


def test_wrong_credentials_are_said_to_be_so(stream: DeltaStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-51b2")
    stream.produce(0)
    with pytest.raises((ConfigurationError, OutputNotWritable)) as raised:
        stream.run(location=f"memory://{stream.output.split('/')[-2]}", schema=NUMBERS)
    assert "canary-51b2" not in str(raised.value)


def test_a_right_that_is_taken_after_the_commit(stream: DeltaStream, bucket: str) -> None:
    """The batch waits until the right is given again."""
    place = f"arn:aws:s3:::{bucket.removeprefix('s3://')}"
    everything = {"Effect": "Allow", "Action": "s3:*", "Resource": [place, f"{place}/*"]}
    no_log = {"Effect": "Deny", "Action": "s3:PutObject", "Resource": f"{place}/table/*"}
    all_rights = restricted_to({"Version": "2012-10-17", "Statement": [everything]})
    read_only = restricted_to({"Version": "2012-10-17", "Statement": [everything, no_log]})

    def run(rights: dict[str, str]) -> None:
        options: dict[str, Any] = {name: (lambda value=value: value) for name, value in rights.items()}
        place = {"endpoint_url": os.environ["S3_ENDPOINT_URL"], "region_name": "us-east-1"}
        stream.run(storage_options={**options, **place})

    stream.produce(0, 1, 2, 3, 4)
    with watching(StoreCalls(KillPoint("put_if_absent", "commits/", 2), kill)), ends_with("killed here"):
        run(all_rights)
    with pytest.raises(OutputNotWritable, match=stream.output):
        run(read_only)
    assert stream.read_numbers() == [0, 1]
    run(all_rights)
    assert stream.read_numbers() == [0, 1, 2, 3, 4]
