"""Stores that are configured wrongly: one clear error before the stream is claimed, and never a secret in it."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable

import pytest

from beam_exactly_once.errors import EXIT_CONFIGURATION, EXIT_DONE, EXIT_RETRYABLE
from beam_exactly_once.object_store import definite, open_object_store
from beam_exactly_once.pipelines.kafka_to_files import main
from services.launch.minio import SECRET_ACCESS_KEY
from services.launch.restricted import filled, policy_of, restricted_to
from services.launch.server import free_ports
from services.streams.to_files import flags, values_in
from services.streams.topics import Topic

# Any one start ends, well or not: a busy machine takes its time.
pytestmark = [pytest.mark.timeout(300), pytest.mark.runs_on("DirectRunner", storage="S3 and GCS")]

CANARY = "canary-51b2"
Refused = Callable[[list[str], int, str], None]


@pytest.fixture
def topic(new_topic: Callable[..., Topic]) -> Topic:
    topic = new_topic()
    topic.send([b"%d" % number for number in range(20)])
    return topic


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Refused:
    """Starts a stream that must end by one error, and tell no secret at any level of logging."""

    def start(command: list[str], code: int, message: str) -> None:
        with caplog.at_level(logging.INFO):
            assert main(command) == code
        said = capsys.readouterr()
        assert re.search(message, said.err), said.err
        for secret in (SECRET_ACCESS_KEY, CANARY):
            assert secret not in said.err + said.out + caplog.text

    return start


def claims(place: str) -> int:
    return len(list(open_object_store(f"{place}/checkpoint").list("writers/")))


def output_at(command: list[str], uri: str) -> list[str]:
    return [f"--output-location={uri}" if flag.startswith("--output-location=") else flag for flag in command]


@pytest.mark.parametrize("fixture", ["bucket", "gcs_bucket"])
def test_a_bucket_that_does_not_exist(
    request: pytest.FixtureRequest, topic: Topic, fixture: str, refused: Refused
) -> None:
    there = request.getfixturevalue(fixture)
    absent = f"{there.partition('://')[0]}://absent-{secrets.token_hex(4)}"
    message = rf"ConfigurationError: {absent}/\w+: the bucket {absent.partition('://')[2]} does not exist. Create it"

    refused(flags(topic, absent), EXIT_CONFIGURATION, message)
    refused(output_at(flags(topic, there), f"{absent}/output"), EXIT_CONFIGURATION, message)

    assert claims(there) == 0
    assert main(flags(topic, there)) == EXIT_DONE
    assert values_in(f"{there}/output") == topic.committed


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": CANARY}, r"S3 refuses the credentials \(InvalidAccessKeyId\). Renew them"),
        ({"AWS_SECRET_ACCESS_KEY": CANARY}, r"S3 refuses the credentials \(SignatureDoesNotMatch\). Renew them"),
        ({"AWS_SESSION_TOKEN": CANARY}, r"S3 refuses the credentials \(InvalidTokenId\). Renew them"),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "no usable AWS credentials on this machine .* Set a profile, the variables",
        ),
        ({"AWS_SECRET_ACCESS_KEY": None}, "no usable AWS credentials on this machine .* Set a profile, the variables"),
    ],
)
def test_wrong_credentials(
    bucket: str,
    topic: Topic,
    variables: dict[str, str | None],
    message: str,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(flags(topic, bucket)) == EXIT_DONE
    with monkeypatch.context() as broken:
        for name, value in variables.items():
            if value is None:
                broken.delenv(name)
            else:
                broken.setenv(name, value)
        refused(flags(topic, bucket), EXIT_CONFIGURATION, rf"ConfigurationError: {bucket}/checkpoint: {message}")

    assert claims(bucket) == 1


def test_no_google_credentials(
    topic: Topic,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    for variable in ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path_factory.mktemp("gcloud")))

    refused(
        flags(topic, "gs://lake/some"),
        EXIT_CONFIGURATION,
        "ConfigurationError: gs://lake/some/checkpoint: no usable Google credentials .*gcloud auth",
    )


@pytest.mark.parametrize(
    ("fixture", "variable"), [("bucket", "AWS_ENDPOINT_URL_S3"), ("gcs_bucket", "STORAGE_EMULATOR_HOST")]
)
def test_nobody_at_the_address(
    request: pytest.FixtureRequest,
    topic: Topic,
    fixture: str,
    variable: str,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = request.getfixturevalue(fixture)
    assert main(flags(topic, place)) == EXIT_DONE
    with monkeypatch.context() as broken:
        broken.setattr(definite, "REACH_TIMEOUT_S", 1.0)
        broken.setenv(variable, f"http://127.0.0.1:{free_ports(1)[0]}")
        refused(
            flags(topic, place),
            EXIT_RETRYABLE,
            rf"StoreUnavailable: {place}/checkpoint did not answer for 1 s .*[Cc]onnect.*Check its address",
        )

    assert claims(place) == 1


@pytest.mark.parametrize("denied", ["checkpoint", "output"])
def test_no_permission_for_one_prefix(
    bucket: str,
    topic: Topic,
    denied: str,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(flags(topic, bucket)) == EXIT_DONE
    policy = filled(policy_of("driver"), bucket.removeprefix("s3://"), **{f"{denied}_prefix": "elsewhere"})
    credentials = restricted_to(policy)
    with monkeypatch.context() as broken:
        for name, value in credentials.items():
            broken.setenv(name.upper(), value)
        refused(
            flags(topic, bucket),
            EXIT_CONFIGURATION,
            rf"OutputNotWritable: {bucket}/{denied}: no permission on bucket .*It takes s3:GetObject",
        )

    assert claims(bucket) == 1
