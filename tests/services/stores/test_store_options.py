"""Options of stores reach every write of a stream: seen from behind, on MinIO, and in the requests to GCS."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from beam_exactly_once.errors import EXIT_CONFIGURATION, EXIT_DONE
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.pipelines.kafka_to_files import main
from services.launch.fault_proxy import FaultProxy
from services.launch.minio import ACCESS_KEY_ID, KMS_KEY_ID, REGION, SECRET_ACCESS_KEY
from services.streams.to_files import fill, flags, values_in
from services.streams.topics import Topic

pytestmark = pytest.mark.runs_on("DirectRunner", storage="S3 and GCS")


@pytest.fixture
def topic(new_topic: Callable[..., Topic]) -> Topic:
    topic = new_topic(2)
    fill(topic)
    return topic


def options(**given: str) -> list[str]:
    return [f"--storage-options={key}={value}" for key, value in given.items()]


def heads(bucket: str) -> Iterator[dict[str, Any]]:
    """What S3 says of every object in the bucket."""
    name = bucket.removeprefix("s3://")
    client = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT_URL"])
    found = client.list_objects_v2(Bucket=name)["Contents"]
    assert {entry["Key"].split("/")[0] for entry in found} == {"checkpoint", "output"}
    for entry in found:
        yield client.head_object(Bucket=name, Key=entry["Key"])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"ServerSideEncryption": None, "SSEKMSKeyId": None, "StorageClass": None}),
        ({"server_side_encryption": "AES256"}, {"ServerSideEncryption": "AES256", "SSEKMSKeyId": None}),
        (
            {"server_side_encryption": "aws:kms", "sse_kms_key_id": KMS_KEY_ID},
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": f"arn:aws:kms:{KMS_KEY_ID}"},
        ),
        ({"storage_class": "REDUCED_REDUNDANCY"}, {"StorageClass": "REDUCED_REDUNDANCY"}),
    ],
    ids=["none", "AES256", "KMS", "storage class"],
)
def test_every_object_on_s3(topic: Topic, bucket: str, given: dict[str, str], expected: dict[str, str | None]) -> None:
    assert main([*flags(topic, bucket), *options(**given)]) == EXIT_DONE

    assert values_in(f"{bucket}/output") == topic.committed
    for head in heads(bucket):
        assert {name: head.get(name) for name in expected} == expected


def test_a_key_that_does_not_exist(topic: Topic, bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = options(server_side_encryption="aws:kms", sse_kms_key_id="no-such-key")

    assert main([*flags(topic, bucket), *given]) == EXIT_CONFIGURATION

    assert f"{bucket}/checkpoint: " in capsys.readouterr().err
    assert list(open_object_store(bucket).list()) == []


def test_endpoint_and_region(topic: Topic, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint_url = os.environ["S3_ENDPOINT_URL"]
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        elsewhere.delenv("AWS_DEFAULT_REGION")
        assert main([*flags(topic, bucket), *options(endpoint_url=endpoint_url, region_name=REGION)]) == EXIT_DONE

    assert values_in(f"{bucket}/output") == topic.committed


def test_a_profile(
    topic: Topic, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = tmp_path_factory.mktemp("aws") / "config"
    config.write_text(
        f"[profile lake]\nregion = {REGION}\naws_access_key_id = {ACCESS_KEY_ID}\n"
        f"aws_secret_access_key = {SECRET_ACCESS_KEY}\n"
    )
    with monkeypatch.context() as elsewhere:
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            elsewhere.delenv(variable)
        elsewhere.setenv("AWS_CONFIG_FILE", str(config))
        assert main([*flags(topic, bucket), *options(profile_name="lake")]) == EXIT_DONE

    assert values_in(f"{bucket}/output") == topic.committed


def test_a_profile_that_assumes_a_role(
    topic: Topic, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = tmp_path_factory.mktemp("aws") / "config"
    config.write_text(
        f"[profile base]\naws_access_key_id = {ACCESS_KEY_ID}\naws_secret_access_key = {SECRET_ACCESS_KEY}\n"
        f"[profile lake]\nregion = {REGION}\nsource_profile = base\n"
        "role_arn = arn:aws:iam::000000000000:role/tests\n"
    )
    with FaultProxy(os.environ["S3_ENDPOINT_URL"]) as sts, monkeypatch.context() as elsewhere:
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            elsewhere.delenv(variable)
        elsewhere.setenv("AWS_CONFIG_FILE", str(config))
        elsewhere.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        assert main([*flags(topic, bucket), *options(profile_name="lake")]) == EXIT_DONE
        assert sts.requests

    assert values_in(f"{bucket}/output") == topic.committed


def test_every_request_to_gcs(topic: Topic, gcs_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """fake-gcs-server keeps no keys and bills nobody; so the requests are looked at."""
    key = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
    with FaultProxy(os.environ["STORAGE_EMULATOR_HOST"]) as proxy, monkeypatch.context() as through:
        through.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        given = options(kms_key_name=key, user_project="payer", storage_class="NEARLINE")
        assert main([*flags(topic, gcs_bucket), *given]) == EXIT_DONE
    assert values_in(f"{gcs_bucket}/output") == topic.committed

    asked = [request for request in proxy.requests if "/o" in request.target]
    assert all("userProject=payer" in request.target for request in asked)
    uploads = [request for request in asked if "uploadType=" in request.target]
    rewrites = [request for request in asked if "/rewriteTo/" in request.target]
    assert uploads
    assert rewrites
    assert all(f"kmsKeyName={key}" in request.target for request in uploads)
    assert all(f"destinationKmsKeyName={key}" in request.target for request in rewrites)
    client = storage.Client(project="tests", credentials=AnonymousCredentials())
    classes = {blob.storage_class for blob in client.list_blobs(gcs_bucket.removeprefix("gs://"), prefix="checkpoint/")}
    assert classes == {"NEARLINE"}
