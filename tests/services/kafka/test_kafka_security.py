"""TLS, logins and access rules on a real broker: what is right works and leaks nothing; what is wrong is one clear error."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from confluent_kafka.admin import AclOperation

from beam_exactly_once import ExactlyOnceStream, ReadFromKafka, WriteToFiles, secret_from_env, secret_from_file
from beam_exactly_once.errors import EXIT_CONFIGURATION, EXIT_RETRYABLE, KafkaRefused
from beam_exactly_once.kafka import ConfigValue
from beam_exactly_once.pipelines.kafka_to_files import main
from beam_exactly_once.testing.crashing import KillPoint, StoreCalls, watching
from services.launch.kafka_security import SecureKafka
from services.streams.file_stream import FileStream
from services.streams.topics import Topic

pytestmark = pytest.mark.runs_on("DirectRunner")

PASSWORD_VARIABLE = "KAFKA_PASSWORD"
Login = Callable[..., dict[str, ConfigValue]]


def numbered(prefix: str, count: int) -> list[bytes]:
    return [f"{prefix}-{number}".encode() for number in range(count)]


def password_from_vault() -> str:
    """Stands for a user's own way to a secret."""
    return os.environ[PASSWORD_VARIABLE]


def unsecured_token(_: str) -> tuple[str, float]:
    """What a broker without a key server takes: a token that nobody signed."""
    now_s = time.time()
    claims = {"sub": "reader", "iat": now_s - 10, "exp": now_s + 600}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "none"}, claims)]
    return (b".".join(parts) + b".").decode(), now_s + 600


@pytest.fixture
def topic(secure_kafka: SecureKafka) -> Iterator[Topic]:
    """Read by ``reader``, seen by ``watcher``, hidden from ``stranger``."""
    topic = Topic(secure_kafka.bootstrap_servers, f"orders-{secrets.token_hex(4)}", 2)
    secure_kafka.allow("reader", AclOperation.READ, topic.name)
    secure_kafka.allow("watcher", AclOperation.DESCRIBE, topic.name)
    yield topic
    topic.close()


@pytest.fixture
def login(secure_kafka: SecureKafka, monkeypatch: pytest.MonkeyPatch) -> Login:
    """The configuration of a user who does everything right, unless told otherwise."""

    def configured(user: str = "reader", password: str | None = None, **more: ConfigValue) -> dict[str, ConfigValue]:
        monkeypatch.setenv(PASSWORD_VARIABLE, password or secure_kafka.passwords[user])
        return {
            "security.protocol": "SASL_SSL",
            "sasl.mechanisms": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": secret_from_env(PASSWORD_VARIABLE),
            "ssl.ca.location": str(secure_kafka.authority),
            **{key.replace("_", "."): value for key, value in more.items()},
        }

    return configured


@pytest.fixture
def stream(topic: Topic, tmp_path: Path) -> FileStream:
    return FileStream(topic, tmp_path / "stream")


# -- what works ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["env", "file", "callable"])
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"])
def test_a_login_works_and_its_secret_is_nowhere(
    secure_kafka: SecureKafka,
    stream: FileStream,
    login: Login,
    tmp_path: Path,
    mechanism: str,
    secret: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    password = secure_kafka.passwords["reader"]
    (tmp_path / "password").write_text(f"{password}\n")
    ways: dict[str, ConfigValue] = {
        "env": secret_from_env(PASSWORD_VARIABLE),
        "file": secret_from_file(tmp_path / "password"),
        "callable": password_from_vault,
    }
    config = login(sasl_mechanisms=mechanism, sasl_password=ways[secret])
    caplog.set_level(logging.DEBUG)
    stream.topic.send(numbered("first", 10))

    pipeline = stream.run(bootstrap_servers=secure_kafka.addresses("TRUSTED"), client_config=config)
    stream.topic.send(numbered("second", 10), partition=1)
    stream.run(bootstrap_servers=secure_kafka.addresses("TRUSTED"), client_config=config)

    assert stream.values() == stream.topic.committed
    stored = stream.stored()
    assert any("writers" in path for path in stored), "the search looked at the checkpoint"
    stored |= {
        "the pipeline": pipeline,
        "the log": caplog.text.encode(),
        "the output": "".join(capfd.readouterr()).encode(),
    }
    for text in (password, base64.b64encode(password.encode()).decode(), password.encode().hex()):
        assert [place for place, content in stored.items() if text.encode() in content] == []


def test_a_token_of_the_users_own_works(secure_kafka: SecureKafka, stream: FileStream, login: Login) -> None:
    config = {
        key: value
        for key, value in login(sasl_mechanisms="OAUTHBEARER").items()
        if "name" not in key and "pass" not in key
    }
    stream.topic.send(numbered("value", 10))

    stream.run(
        bootstrap_servers=secure_kafka.addresses("TRUSTED"), client_config={**config, "oauth_cb": unsecured_token}
    )

    assert stream.values() == stream.topic.committed


# -- what is refused at the start ---------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[str, dict[str, Any], str]] = {
    "wrong password": (
        "TRUSTED",
        {"password": "mistaken-0123456789"},
        r"does not let user reader \(SCRAM-SHA-512\) in: .*invalid credentials.*Correct the credentials",
    ),
    "wrong password by PLAIN": (
        "TRUSTED",
        {"password": "mistaken-0123456789", "sasl_mechanisms": "PLAIN"},
        r"does not let user reader \(PLAIN\) in: .*Invalid username or password.*Correct the credentials",
    ),
    "unknown user": (
        "TRUSTED",
        {"user": "nobody", "password": "mistaken-0123456789"},
        r"does not let user nobody \(SCRAM-SHA-512\) in: .*make them known to the brokers",
    ),
    "unknown mechanism": (
        "ELSEWHERE",
        {"sasl_mechanisms": "PLAIN", "ssl_endpoint_identification_algorithm": "none"},
        r"does not let user reader \(PLAIN\) in: .*supported mechanisms: SCRAM-SHA-512",
    ),
    "wrong authority": (
        "TRUSTED",
        {"ssl_ca_location": "the other"},
        r"does not trust Kafka at .*: self-signed certificate in certificate chain\. Name the authority.*ssl\.ca\.location",
    ),
    "expired certificate": ("EXPIRED", {}, r"does not trust Kafka at .*: certificate has expired\..*have them renewed"),
    "another host's certificate": (
        "ELSEWHERE",
        {},
        r"does not trust Kafka at .*: IP address mismatch, certificate is not valid for '127\.0\.0\.1'\..*by a name",
    ),
    "no TLS where there is": (
        "TRUSTED",
        {"security_protocol": "PLAINTEXT"},
        r"the port speaks SASL_SSL, mechanisms .*PLAIN.*, and security\.protocol says PLAINTEXT\. Set security\.protocol",
    ),
    "a login without TLS where there is": (
        "TRUSTED",
        {"security_protocol": "SASL_PLAINTEXT"},
        r"the port speaks SASL_SSL, .*, and security\.protocol says SASL_PLAINTEXT",
    ),
    "no login where there is": (
        "TRUSTED",
        {"security_protocol": "SSL"},
        r"the port speaks SASL_SSL, .*, and security\.protocol says SSL",
    ),
    "TLS where there is none": (
        "PLAINTEXT",
        {},
        r"the port speaks PLAINTEXT, and security\.protocol says SASL_SSL\. Set security\.protocol",
    ),
    "a hidden topic": (
        "TRUSTED",
        {"user": "stranger"},
        r"does not let user stranger \(SCRAM-SHA-512\) see topic {topic} .*Allow this user the operation Read",
    ),
    "a topic that may not be read": (
        "TRUSTED",
        {"user": "watcher"},
        r"does not let user watcher \(SCRAM-SHA-512\) read topic {topic}\. Allow this user the operation Read",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_one_error_and_fences_nobody(
    secure_kafka: SecureKafka,
    stream: FileStream,
    login: Login,
    tmp_path: Path,
    case: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    listener, changes, message = REFUSALS[case]
    stream.topic.send(numbered("value", 10))
    stream.run()
    before = stream.stored()
    if "ssl_ca_location" in changes:
        changes = {"ssl_ca_location": str(secure_kafka.other_authority)}
    config = login(**changes)
    capfd.readouterr()

    code, line = run_main(stream, secure_kafka.addresses(listener), config, capfd)

    assert code == EXIT_CONFIGURATION
    assert line.startswith("KafkaRefused: ")
    assert secure_kafka.addresses(listener) in line
    assert_matches(message.replace("{topic}", stream.topic.name), line)
    assert os.environ[PASSWORD_VARIABLE] not in line
    assert stream.stored() == before


def run_main(
    stream: FileStream,
    bootstrap_servers: str,
    config: dict[str, ConfigValue],
    capfd: pytest.CaptureFixture[str],
    topic: str | None = None,
) -> tuple[int, str]:
    """Exit code of the ready-made pipeline, and the one line it says: neither a traceback nor the client's own lines."""
    properties = stream.output.with_name("kafka.properties")
    plain = [f"{key}={value}\n" for key, value in config.items() if key != "sasl.password"]
    properties.write_text("".join(plain) + f"sasl.password=${{env:{PASSWORD_VARIABLE}}}\n")
    flags = {
        "bootstrap_servers": bootstrap_servers,
        "topics": topic or stream.topic.name,
        "output_location": stream.output,
        "checkpoint_location": stream.checkpoint,
        "client_config_file": properties,
        "timeout_s": 5,
    }
    try:
        code = main([f"--{name}={value}" for name, value in flags.items()])
    finally:
        properties.unlink()
    (line,) = capfd.readouterr().err.splitlines()
    return code, line


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text


def test_a_topic_that_does_not_exist_is_refused_like_a_hidden_one(
    secure_kafka: SecureKafka, stream: FileStream, login: Login, capfd: pytest.CaptureFixture[str]
) -> None:
    stream.run()
    before = stream.stored()
    capfd.readouterr()

    code, line = run_main(stream, secure_kafka.addresses("TRUSTED"), login(), capfd, topic="ordres")

    assert code == EXIT_CONFIGURATION
    assert_matches("^KafkaRefused: .*see topic ordres .*correct its name: Kafka does not say whether it exists", line)
    assert stream.stored() == before


def test_a_broker_that_is_not_there_may_be_there_later(
    stream: FileStream, login: Login, capfd: pytest.CaptureFixture[str]
) -> None:
    stream.run()
    before = stream.stored()
    capfd.readouterr()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        nowhere = f"127.0.0.1:{unused.getsockname()[1]}"

        code, line = run_main(stream, nowhere, login(), capfd)

    assert code == EXIT_RETRYABLE
    assert_matches(
        f"^KafkaUnavailable: Kafka at {nowhere} did not answer within 5 s.*Connection refused.*address", line
    )
    assert stream.stored() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"password": "mistaken-0123456789"}, r"does not let user reader .* in"),
        ({"user": "watcher"}, "does not let user watcher .* read topic"),
    ],
)
def test_an_ordinary_pipeline_says_the_same(
    secure_kafka: SecureKafka, topic: Topic, login: Login, changes: dict[str, str], message: str
) -> None:
    read = ReadFromKafka(secure_kafka.addresses("TRUSTED"), [topic.name], client_config=login(**changes), stop="latest")

    with pytest.raises(KafkaRefused, match=message) as caught, beam.Pipeline("FnApiRunner") as pipeline:
        _ = pipeline | read

    assert os.environ[PASSWORD_VARIABLE] not in str(caught.value)


def test_single_partitions_of_a_topic_that_may_not_be_read_fence_nobody(
    secure_kafka: SecureKafka, topic: Topic, login: Login, tmp_path: Path
) -> None:
    stream = ExactlyOnceStream(str(tmp_path / "checkpoint"))
    servers = secure_kafka.addresses("TRUSTED")
    read = ReadFromKafka(servers, {topic.name: [1]}, client_config=login("watcher"), as_arrow=True)
    _ = stream | read | WriteToFiles(str(tmp_path / "output"))

    with pytest.raises(KafkaRefused, match=r"does not let user watcher .* read topic"):
        stream.run()

    assert not (tmp_path / "checkpoint").exists()


# -- what is taken away while a stream runs -----------------------------------------------------------------------


def test_a_password_that_changes_between_plan_and_read(
    secure_kafka: SecureKafka, stream: FileStream, login: Login
) -> None:
    secure_kafka.allow("leaver", AclOperation.READ, stream.topic.name)
    old, new = secure_kafka.passwords["leaver"], secrets.token_hex(12)
    planned = StoreCalls(KillPoint("put_if_absent", "offsets/", 1), lambda: secure_kafka.set_password("leaver", new))
    stream.topic.send(numbered("value", 10))
    servers = secure_kafka.addresses("TRUSTED")

    with (
        watching(planned),
        pytest.raises(KafkaRefused, match=r"does not let user leaver .* in: .*invalid cred") as caught,
    ):
        stream.run(bootstrap_servers=servers, client_config=login("leaver", old))

    assert old not in str(caught.value)
    assert not list(stream.checkpoint.glob("commits/*"))
    stream.run(bootstrap_servers=servers, client_config=login("leaver", new))
    assert stream.values() == stream.topic.committed
    assert [batch.batch_id for batch in stream.progress] == [0], "the same plan"


def test_a_right_that_is_taken_away_between_plan_and_read(
    secure_kafka: SecureKafka, stream: FileStream, login: Login
) -> None:
    topic = stream.topic
    options = {"bootstrap_servers": secure_kafka.addresses("TRUSTED"), "client_config": login()}
    topic.send(numbered("first", 10))
    stream.run(**options)
    topic.send(numbered("second", 10), partition=1)
    planned = StoreCalls(
        KillPoint("put_if_absent", "offsets/", 1), lambda: secure_kafka.forbid("reader", AclOperation.READ, topic.name)
    )

    with watching(planned), pytest.raises(KafkaRefused, match=rf"does not let user reader .* see topic {topic.name}"):
        stream.run(**options)
    claims = sorted(stream.checkpoint.glob("writers/*"))
    with pytest.raises(KafkaRefused, match=rf"does not let user reader .* see topic {topic.name}"):
        stream.run(**options)

    assert sorted(stream.checkpoint.glob("writers/*")) == claims
    secure_kafka.allow("reader", AclOperation.READ, topic.name)
    stream.run(**options)
    assert stream.values() == topic.committed
    assert [batch.batch_id for batch in stream.progress] == [0, 1]
