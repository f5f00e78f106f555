"""What :mod:`~beam_exactly_once.object_store.s3` needs of boto3: checked options, shared clients, sorted errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import boto3
import botocore.config
import botocore.exceptions as boto_errors
import botocore.parsers

from beam_exactly_once.errors import ConfigurationError, OutputNotWritable
from beam_exactly_once.object_store.contract import without_credentials
from beam_exactly_once.object_store.definite import Unclear
from beam_exactly_once.per_process import PerProcess
from beam_exactly_once.secrets import Secret

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 20  # of one wait on the socket: short enough for several tries within the contract's retry timeout
MAX_CONNECTIONS = 32
MAX_CLIENTS = 8  # clients kept in a process; more only while credentials rotate

_CLIENT_OPTIONS = ("endpoint_url", "region_name", "profile_name")
_WRITE_OPTIONS = {
    "server_side_encryption": "ServerSideEncryption",
    "sse_kms_key_id": "SSEKMSKeyId",
    "storage_class": "StorageClass",
}
_SECRET_OPTIONS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
KNOWN_OPTIONS = (*_CLIENT_OPTIONS, *_WRITE_OPTIONS, "request_payer", *_SECRET_OPTIONS)

# Answers with a status of 400 to 499 that may be otherwise next time.
_UNCLEAR_CODES = (
    *("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentChecksumMismatch"),
    *("SlowDown", "Throttling", "ThrottlingException", "RequestThrottled", "TooManyRequests"),
)
_CREDENTIAL_CODES = (
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "InvalidTokenId"),
    *("RequestTimeTooSkewed", "InvalidSecurity"),
)
_CREDENTIAL_ERRORS = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.ProfileNotFound,
    boto_errors.NoAuthTokenError,
    boto_errors.SSOError,
    boto_errors.TokenRetrievalError,
)
_PASSING_ERRORS = (
    boto_errors.ConnectionError,
    boto_errors.HTTPClientError,  # connections that broke later
    boto_errors.EndpointConnectionError,  # nobody listens, for now
    boto_errors.ConnectTimeoutError,
    boto_errors.IncompleteReadError,
    boto_errors.ChecksumError,
    boto_errors.FlexibleChecksumError,
    boto_errors.CredentialRetrievalError,  # the machine's metadata service did not answer
    boto_errors.MetadataRetrievalError,
)


@dataclass(frozen=True)
class S3Options:
    """Checked options. Only :attr:`secrets` refers to secrets, and it never shows."""

    client: tuple[tuple[str, str], ...]
    write: Mapping[str, str]
    request: Mapping[str, str]
    secrets: Mapping[str, Secret | Callable[[], str]] = field(repr=False)

    @classmethod
    def checked(cls, uri: str, options: Mapping[str, Any] | None) -> S3Options:
        """The options of a user.

        Raises:
            ConfigurationError: an unknown option, a plain-text credential, options that exclude one another.
        """
        given = dict(options or {})
        unknown = sorted(set(given) - set(KNOWN_OPTIONS))
        if unknown:
            raise ConfigurationError(
                f"{uri}: unknown storage_options {', '.join(unknown)}. Known: {', '.join(KNOWN_OPTIONS)}."
            )
        secrets = {name: given.pop(name) for name in _SECRET_OPTIONS if name in given}
        for name, secret in secrets.items():
            if not isinstance(secret, Secret) and not callable(secret):
                raise ConfigurationError(
                    f"{uri}: {name} in storage_options must not be plain text. Pass secret_from_env(...) or "
                    "secret_from_file(...), or a function that returns it, or name a profile by profile_name."
                )
        _check_together(uri, given, secrets)
        for name, value in given.items():
            if not isinstance(value, str) or not value:
                raise ConfigurationError(f"{uri}: {name} in storage_options must be a non-empty string.")
        if "@" in given.get("endpoint_url", ""):
            raise ConfigurationError(f"{uri}: endpoint_url in storage_options must not hold a user or a password.")
        return cls(
            client=tuple((name, given[name]) for name in _CLIENT_OPTIONS if name in given),
            write={_WRITE_OPTIONS[name]: given[name] for name in _WRITE_OPTIONS if name in given},
            request={"RequestPayer": given["request_payer"]} if "request_payer" in given else {},
            secrets=secrets,
        )


def _check_together(uri: str, given: Mapping[str, Any], secrets: Mapping[str, Any]) -> None:
    if secrets and not {"aws_access_key_id", "aws_secret_access_key"} <= set(secrets):
        raise ConfigurationError(f"{uri}: aws_access_key_id and aws_secret_access_key in storage_options go together.")
    if secrets and "profile_name" in given:
        raise ConfigurationError(f"{uri}: storage_options name a profile and keys; leave one of them out.")


@dataclass(frozen=True)
class ClientKey:
    """What one client serves: arguments of its session and the variables that boto3 reads. Holds secrets."""

    arguments: tuple[tuple[str, str], ...] = field(repr=False)
    environment: tuple[tuple[str, str], ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Shared:
    client: Any
    session: Any


def client_key(options: S3Options) -> ClientKey:
    """The key of the client for ``options``. Reads secrets and variables, now and here.

    Raises:
        ConfigurationError: a secret cannot be read.
    """
    secrets = []
    for name, secret in options.secrets.items():
        value = secret.resolve() if isinstance(secret, Secret) else secret()
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{name} in storage_options gave no text when it was asked for the credential.")
        secrets.append((name, value))
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    return ClientKey((*options.client, *secrets), environment)


def shared_client(key: ClientKey) -> Any:
    """The S3 client of this process for ``key``: making one costs 100 ms, and every batch opens its stores again.

    A client is safe in many threads, but not after a fork.
    """
    return _clients.get(key).client


def options_of_others(key: ClientKey) -> dict[str, str]:
    """Endpoint, region and present credentials for another client of S3, by the names of their variables. Holds secrets.

    The endpoint is left out where it is Amazon's own; the credentials, where there are none.
    """
    shared = _clients.get(key)
    meta, credentials = shared.client.meta, shared.session.get_credentials()
    options = {"AWS_REGION": meta.region_name or "us-east-1"}
    if not meta.endpoint_url.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        options["AWS_ENDPOINT_URL"] = meta.endpoint_url
    if credentials is not None:
        frozen = credentials.get_frozen_credentials()
        options |= {"AWS_ACCESS_KEY_ID": frozen.access_key, "AWS_SECRET_ACCESS_KEY": frozen.secret_key}
        options |= {"AWS_SESSION_TOKEN": frozen.token} if frozen.token else {}
    return options


def _new_client(key: ClientKey) -> _Shared:
    arguments = dict(key.arguments)
    endpoint_url = arguments.pop("endpoint_url", None)
    config = botocore.config.Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=MAX_CONNECTIONS,
        retries={"total_max_attempts": 1, "mode": "standard"},  # the contract's loop retries, and knows its own writes
        user_agent_extra="beam_exactly_once",
    )
    session: Any = boto3.session.Session(**arguments)  # type: ignore[arg-type]
    return _Shared(session.client("s3", endpoint_url=endpoint_url, config=config), session)


_clients = PerProcess(_new_client, MAX_CLIENTS)


class Refusal(Exception):
    """An answer that the caller of a request expects and acts on: its S3 error code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@contextmanager
def sorted_errors(uri: str, bucket: str, *expected: str) -> Iterator[None]:
    """Errors of one request to S3, sorted by who must act.

    Raises:
        Refusal: S3 answered with one of the ``expected`` codes.
        Unclear: no definite answer.
        ConfigurationError: the request can never succeed as things are.
    """
    try:
        yield
    except boto_errors.ClientError as error:
        _raise_sorted(uri, bucket, error.response, error.operation_name, expected)
    except boto_errors.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            raise Unclear("the TLS connection broke") from None
        raise ConfigurationError(
            f"{uri}: the server's certificate is not trusted. Name its authority by the variable AWS_CA_BUNDLE."
        ) from None
    except _PASSING_ERRORS as error:
        raise Unclear(without_credentials(str(error))) from None
    except botocore.parsers.ResponseParserError:
        raise Unclear("the answer could not be read") from None
    except _CREDENTIAL_ERRORS as error:
        raise ConfigurationError(
            f"{uri}: no usable AWS credentials on this machine ({error}). Set a profile, the variables "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage_options."
        ) from None
    except boto_errors.BotoCoreError as error:
        raise ConfigurationError(
            f"{uri}: S3 cannot be asked with these options: {without_credentials(str(error))}"
        ) from None


def _raise_sorted(uri: str, bucket: str, response: Any, operation: str, expected: tuple[str, ...]) -> NoReturn:
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(response.get("Error", {}).get("Code", "")) or str(status)
    # A HEAD has no body to name the code in, and says the status instead.
    code = {"404": "NoSuchKey", "412": "PreconditionFailed", "403": "AccessDenied"}.get(code, code)
    if code in expected:
        raise Refusal(code) from None
    what = f"{operation} was answered by {status} {code}"
    if status in (0, 200, 408, 409, 429) or (status >= 500 and status != 501) or code in _UNCLEAR_CODES:
        raise Unclear(what) from None
    if code == "NoSuchBucket":
        raise ConfigurationError(f"{uri}: the bucket {bucket} does not exist. Create it, or correct the URI.") from None
    if code in _CREDENTIAL_CODES:
        raise ConfigurationError(
            f"{uri}: S3 refuses the credentials ({code}). Renew them; if they are right, check this machine's clock."
        ) from None
    if status in (401, 403):
        raise OutputNotWritable(
            f"{uri}: no permission on bucket {bucket} ({what}). It takes s3:GetObject, s3:PutObject, s3:DeleteObject, "
            "s3:AbortMultipartUpload, s3:ListBucket and s3:ListBucketMultipartUploads, and the use of the KMS key if "
            "there is one."
        ) from None
    raise ConfigurationError(
        f"{uri}: S3 refuses this use of bucket {bucket}: {what}. Check region and storage_options."
    ) from None
