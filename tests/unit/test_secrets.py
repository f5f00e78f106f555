"""Secrets by reference: what is held, what is resolved where, and what an error may say."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.properties import PropertyLine, property_lines
from beam_exactly_once.secrets import is_secret_name, secret_from_env, secret_from_file


def test_a_variable_is_read_when_it_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = secret_from_env("TEST_PASSWORD")
    monkeypatch.setenv("TEST_PASSWORD", "hunter2")

    assert secret.resolve() == "hunter2"
    assert repr(secret) == "Secret(source='env', name='TEST_PASSWORD', key=None)"
    assert pickle.loads(pickle.dumps(secret)) == secret
    assert b"hunter2" not in pickle.dumps(secret)


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_PASSWORD", raising=False)

    with pytest.raises(ConfigurationError, match=r"environment variable TEST_PASSWORD.*every worker"):
        secret_from_env("TEST_PASSWORD").resolve()


@pytest.mark.parametrize(
    ("text", "secret"), [("hunter2\n", "hunter2"), ("hunter2\r\n", "hunter2"), (" a b \n\n", " a b \n"), ("", "")]
)
def test_a_file_loses_one_trailing_newline(tmp_path: Path, text: str, secret: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(text.encode())

    assert secret_from_file(path).resolve() == secret


def test_one_key_of_a_properties_file_is_a_secret(tmp_path: Path) -> None:
    path = tmp_path / "client.properties"
    path.write_text("sasl.username = me\nsasl.password = hunter2\n")

    assert secret_from_file(path, key="sasl.password").resolve() == "hunter2"
    with pytest.raises(ConfigurationError, match=r"client\.properties.* has no line for ssl\.key\.password") as caught:
        secret_from_file(path, key="ssl.key.password").resolve()
    assert "hunter2" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent, which.*No such file"):
        secret_from_file(tmp_path / "absent").resolve()


def test_bytes_that_are_no_text_are_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(b"hunter\xff\xfe")

    with pytest.raises(ConfigurationError, match="not UTF-8") as caught:
        secret_from_file(path).resolve()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("make", [lambda: secret_from_env(""), lambda: secret_from_file("")])
def test_an_empty_name_is_refused(make: object) -> None:
    with pytest.raises(ConfigurationError, match="got an empty string"):
        make()  # type: ignore[operator]


def test_properties_are_read_as_java_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "client.properties"
    path.write_text(
        "# a comment\n"
        "! another\n"
        "\n"
        "  plain = a value \n"
        "colon: b\n"
        "equals.in.value=x=y\n"
        "long = one, \\\n"
        "       two\n"
        "escaped\\=key = tab\\tback\\\\slash \\u00e9\n"
        "empty =\n"
    )

    assert property_lines(path) == [
        PropertyLine(4, "plain", "a value "),
        PropertyLine(5, "colon", "b"),
        PropertyLine(6, "equals.in.value", "x=y"),
        PropertyLine(7, "long", "one, two"),
        PropertyLine(9, "escaped=key", "tab\tback\\slash \u00e9"),
        PropertyLine(10, "empty", ""),
    ]


@pytest.mark.parametrize("line", ["hunter2", "=hunter2", "key=hunter2\\u12", "key=hunter2\\uzzzz"])
def test_a_line_that_is_no_property_is_named_by_number_and_not_quoted(tmp_path: Path, line: str) -> None:
    path = tmp_path / "client.properties"
    path.write_text(f"a=1\n{line}\n")

    with pytest.raises(ConfigurationError, match=r"client\.properties line 2") as caught:
        property_lines(path)
    assert "hunter2" not in str(caught.value)


SECRETS = [
    *("sasl.password", "PASSWD", "ssl_key_password", "aws_secret_access_key", "api-key", "db.pwd"),
    *("pass", "user-pass", "dbPass", "DB_PASS", "db_pw"),
    # librdkafka's and Java's
    *("ssl.key.password", "ssl.key.pem", "ssl.keystore.password", "ssl.keystore.key", "sasl.jaas.config"),
    *("sasl.oauthbearer.config", "sasl.oauthbearer.client.secret", "sasl.oauthbearer.client.assertion"),
    *("sasl.oauthbearer.client.credentials.client.secret", "sasl.oauthbearer.assertion.private.key"),
    *("sasl.oauthbearer.assertion.private.key.pem", "sasl.oauthbearer.assertion.private.key.passphrase"),
    # of stores
    *("google_service_account_key", "service_account_key", "serviceAccountKey", "account_key", "access_key"),
    *("azure_storage_account_key", "azure_storage_master_key", "sas_key", "sas_token", "azure_user_delegation_sas"),
    *("azure_storage_connection_string", "azure_client_secret", "bearer_token", "aws_session_token", "encryption_key"),
    *("aws_sse_customer_key_base64", "server_side_encryption_customer_key", "secret-key", "secret_key"),
    # of databases
    *("sslpassword", "passwd", "scram_client_key", "scram_server_key", "oauth_client_secret"),
]
NO_SECRETS = [
    *("", "key", "key_columns", "primary_key", "partition_key", "public_key", "server_public_key", "bypass", "compass"),
    *(
        "sasl.username",
        "ssl.ca.pem",
        "ssl.certificate.pem",
        "https.ca.pem",
        "ssl.key.location",
        "ssl.keystore.location",
    ),
    *("sasl.oauthbearer.token.endpoint.url", "sasl.oauthbearer.client.id", "sasl.oauthbearer.extensions"),
    *("sasl.oauthbearer.client.credentials.client.id", "sasl.oauthbearer.assertion.private.key.file"),
    *("sasl.oauthbearer.assertion.file", "sasl.oauthbearer.assertion.jwt.template.file"),
    *(
        "sasl.oauthbearer.assertion.algorithm",
        "sasl.oauthbearer.assertion.claim.aud",
        "enable.sasl.oauthbearer.unsecure.jwt",
    ),
    *("sasl.oauthbearer.method", "sasl.oauthbearer.metadata.authentication.type", "sasl.kerberos.keytab"),
    *("aws_access_key_id", "aws_sse_kms_key_id", "sse_kms_key_id", "kms_key_name", "aws_sse_bucket_key_enabled"),
    *("server_side_encryption", "server_side_encryption_customer_algorithm", "service_account_file"),
    *("google_service_account", "azure_storage_account_name", "aws_web_identity_token_file", "aws_skip_signature"),
    *("container_credentials_relative_uri", "user_project", "profile_name"),
    *("sslkey", "ssl_key", "ssl_cert", "sslcert", "passfile", "target_session_attrs", "read_default_file", "charset"),
]


@pytest.mark.parametrize("name", SECRETS)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", NO_SECRETS)
def test_names_of_what_is_no_secret(name: str) -> None:
    """A place is no secret, nor is the name of a key."""
    assert not is_secret_name(name)
