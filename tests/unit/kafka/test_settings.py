"""Kafka settings: what is refused, what reaches the client, and that no secret is ever shown."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.kafka import KafkaSettings, read_properties
from beam_exactly_once.secrets import secret_from_env, secret_from_file


def fetch_password(password: str = "from a vault") -> str:
    return password


def test_the_client_gets_what_exact_reading_needs() -> None:
    config = KafkaSettings("kafka:9092").client_config()

    assert config == {
        "bootstrap.servers": "kafka:9092",
        "isolation.level": "read_committed",
        "auto.offset.reset": "error",
        "enable.auto.commit": "false",
        "enable.auto.offset.store": "false",
        "enable.partition.eof": "true",
        "group.id": "beam-exactly-once-no-group",
        "fetch.queue.backoff.ms": "10",
        "fetch.wait.max.ms": "5",
        "queued.max.messages.kbytes": "16384",
        "log_level": "2",
    }


def test_the_users_values_win_over_defaults_and_become_text() -> None:
    settings = KafkaSettings(
        "kafka:9092",
        config={"group.id": "mine", "fetch.wait.max.ms": 500, "check.crcs": True, "sasl.mechanism": "PLAIN"},
        isolation_level="read_uncommitted",
    )
    config = settings.client_config()

    chosen = ["group.id", "fetch.wait.max.ms", "check.crcs", "sasl.mechanisms", "isolation.level"]
    assert [config[key] for key in chosen] == ["mine", "500", "true", "PLAIN", "read_uncommitted"]
    assert "sasl.mechanism" not in config


def test_secrets_are_resolved_only_for_the_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key's password\n")
    settings = KafkaSettings(
        "kafka:9092",
        config={
            "sasl.username": "me",
            "sasl.password": secret_from_env("TEST_PASSWORD"),
            "ssl.key.password": secret_from_file(tmp_path / "key"),
            "sasl.oauthbearer.client.secret": functools.partial(fetch_password, "hunter3"),
        },
    )
    monkeypatch.setenv("TEST_PASSWORD", "hunter2")
    config = settings.client_config()

    assert config["sasl.password"] == "hunter2"
    assert config["ssl.key.password"] == "key's password"
    assert config["sasl.oauthbearer.client.secret"] == "hunter3"
    assert settings.secret_texts(config) == ("key's password", "hunter2", "hunter3")
    for secret in settings.secret_texts(config):
        assert secret not in repr(settings)
    assert "Secret(source='env', name='TEST_PASSWORD', key=None)" in repr(settings)
    assert "'sasl.username': 'me'" in repr(settings)


def test_settings_survive_pickling_and_compare_by_value() -> None:
    settings = KafkaSettings("kafka:9092", config={"sasl.password": secret_from_env("TEST_PASSWORD")})

    assert pickle.loads(pickle.dumps(settings)) == settings
    assert hash(pickle.loads(pickle.dumps(settings))) == hash(settings)
    assert settings != KafkaSettings("kafka:9092")


def test_later_changes_to_the_given_config_do_not_matter() -> None:
    config: dict[str, Any] = {"client.id": "one"}
    settings = KafkaSettings("kafka:9092", config=config)
    config["enable.auto.commit"] = True

    assert settings.config == {"client.id": "one"}


@pytest.mark.parametrize(
    "key",
    [
        "sasl.password",
        "ssl.key.password",
        "ssl.keystore.password",
        "ssl.key.pem",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.oauthbearer.assertion.private.key.pem",
    ],
)
def test_plain_text_secrets_are_refused_without_showing_them(key: str) -> None:
    with pytest.raises(ConfigurationError, match="secret_from_env") as caught:
        KafkaSettings("kafka:9092", config={key: "hunter2"})
    assert key in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "way_out"),
    [
        ("bootstrap.servers", "bootstrap_servers="),
        ("isolation.level", "isolation_level="),
        ("auto.offset.reset", "stream's choice"),
        ("enable.auto.commit", "checkpoint"),
        ("enable.partition.eof", "end of a range"),
        ("sasl.jaas.config", "sasl.username"),
        ("ssl.truststore.location", "ssl.ca.location"),
    ],
)
def test_properties_that_the_library_must_set_and_java_names_are_refused(key: str, way_out: str) -> None:
    with pytest.raises(ConfigurationError, match=way_out) as caught:
        KafkaSettings("kafka:9092", config={key: "x"})
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bootstrap_servers": ""}, "bootstrap_servers=.* must name"),
        ({"bootstrap_servers": None}, "bootstrap_servers=.* must name"),
        ({"isolation_level": "serializable"}, "isolation_level='serializable' is not known"),
        ({"timeout_s": 0}, "timeout_s=0 must be a number of seconds above 0"),
        ({"no_progress_timeout_s": -1}, "no_progress_timeout_s=-1 must be a number of seconds above 0"),
        ({"config": {"client.id": ["a"]}}, "client.id must be text"),
        ({"config": {"": "a"}}, "name must be a text"),
    ],
)
def test_values_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        KafkaSettings(**{"bootstrap_servers": "kafka:9092", **arguments})


def test_a_callable_must_return_text() -> None:
    settings = KafkaSettings("kafka:9092", config={"sasl.password": lambda: 5})

    with pytest.raises(ConfigurationError, match=r"sasl\.password returned int"):
        settings.client_config()


def test_the_token_callback_is_handed_to_the_client_as_it_is() -> None:
    def token(config: str) -> tuple[str, float]:
        raise AssertionError("nobody connects here")

    settings = KafkaSettings("kafka:9092", config={"oauth_cb": token})
    config = settings.client_config()

    assert config["oauth_cb"] is token
    assert settings.secret_texts(config) == ()


def test_a_java_properties_file_becomes_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "client.properties"
    path.write_text(
        "bootstrap.servers=kafka:9092\n"
        "security.protocol=SASL_SSL\n"
        "sasl.mechanism=SCRAM-SHA-512\n"
        "sasl.username=${env:TEST_USER}\n"
        "sasl.password=hunter2\n"
        "ssl.key.password=${file:/run/secrets/key}\n"
    )
    config = read_properties(path)

    assert config == {
        "bootstrap.servers": "kafka:9092",
        "security.protocol": "SASL_SSL",
        "sasl.mechanisms": "SCRAM-SHA-512",
        "sasl.username": secret_from_env("TEST_USER"),
        "sasl.password": secret_from_file(path, key="sasl.password"),
        "ssl.key.password": secret_from_file("/run/secrets/key"),
    }
    assert secret_from_file(path, key="sasl.password").resolve() == "hunter2"


def test_a_property_of_the_java_client_only_is_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "client.properties"
    path.write_text("a=1\nsasl.jaas.config=login required password=hunter2;\n")

    with pytest.raises(ConfigurationError, match=r"line 2: sasl\.jaas\.config exists only in the Java") as caught:
        read_properties(path)
    assert "hunter2" not in str(caught.value)
