"""The client of Google Cloud Storage: its options, one a process, and errors sorted by who must act."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import google.auth.exceptions
import requests
import requests.adapters
from google.api_core import exceptions as api_errors
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage  # type: ignore[attr-defined, import-untyped, unused-ignore]
from google.cloud.storage import exceptions as media_errors  # type: ignore[import-untyped, unused-ignore]

from beam_exactly_once.errors import ConfigurationError, OutputNotWritable
from beam_exactly_once.object_store.definite import Unclear
from beam_exactly_once.per_process import PerProcess

MAX_CONNECTIONS = 32
KNOWN_OPTIONS = ("user_project", "kms_key_name", "storage_class", "service_account_file")
ABSENT = 404

_VARIABLES = ("STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT")
"""What Google's client reads when it is made."""


class Refusal(Exception):
    """An answer that the caller of a request expects and acts on."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@contextmanager
def sorted_errors(uri: str, bucket: str, *expected: int) -> Iterator[None]:
    """Errors of one request, sorted by who must act.

    Raises:
        Refusal: GCS answered with one of the ``expected`` statuses.
        Unclear: no definite answer.
        ConfigurationError: the request can never succeed as things are.
    """
    try:
        yield
        return
    except api_errors.RetryError:
        raise Unclear("no answer in time") from None
    except api_errors.GoogleAPICallError as error:
        status = int(error.code or 0)
    except media_errors.InvalidResponse as error:  # of uploads in chunks
        status = int(error.response.status_code)
        if status in (ABSENT, 410) and "upload_id=" in (error.response.url or ""):
            raise Unclear("the upload's session is gone") from None
    except media_errors.DataCorruption:
        raise Unclear("an object arrived damaged") from None
    except requests.exceptions.SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            raise Unclear("the TLS connection broke") from None
        raise ConfigurationError(f"{uri}: the server's certificate is not trusted.") from None
    except (requests.exceptions.RequestException, ConnectionError) as error:
        raise Unclear(f"the connection failed: {type(error).__name__}") from None
    except google.auth.exceptions.GoogleAuthError as error:
        if isinstance(error, google.auth.exceptions.TransportError) or error.retryable:
            raise Unclear("the credentials could not be renewed") from None
        raise ConfigurationError(_no_credentials(uri, error)) from None
    _raise_sorted(uri, bucket, status, expected)


def _raise_sorted(uri: str, bucket: str, status: int, expected: tuple[int, ...]) -> None:
    if status in expected:
        raise Refusal(status)
    if status in (0, 408, 409, 429) or (status >= 500 and status != 501):
        raise Unclear(f"it was answered by {status}")
    if status == ABSENT:
        raise ConfigurationError(f"{uri}: the bucket {bucket} does not exist. Create it, or correct the URI.")
    if status in (401, 403):
        raise OutputNotWritable(
            f"{uri}: no permission on bucket {bucket} ({status}). It takes the role Storage Object Admin "
            "(storage.objects.create, get, list and delete), and the use of the KMS key if there is one."
        )
    raise ConfigurationError(f"{uri}: GCS refuses this use of bucket {bucket} ({status}). Check storage_options.")


def shared_client(service_account_file: str) -> Any:
    """The client of this process: making one costs much, and every batch opens its stores again."""
    return _clients.get((service_account_file, tuple(map(os.environ.get, _VARIABLES))))


def _new_client(key: tuple[str, tuple[str | None, ...]]) -> Any:
    service_account_file, _ = key
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        client = storage.Client(project=None, credentials=AnonymousCredentials())  # type: ignore[no-untyped-call]
    elif service_account_file:
        try:
            client = storage.Client.from_service_account_json(service_account_file)
        except (OSError, ValueError) as error:  # its text may quote the file
            raise ConfigurationError(_no_credentials(service_account_file, error)) from None
    else:
        client = storage.Client(project=None)
    for scheme in ("https://", "http://"):  # the usual pool is smaller than a test of the store needs, and says so
        client._http.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=MAX_CONNECTIONS))
    return client


_clients = PerProcess(_new_client)


def _no_credentials(where: str, error: Exception) -> str:
    return (
        f"{where}: no usable Google credentials on this machine ({type(error).__name__}). Set "
        "GOOGLE_APPLICATION_CREDENTIALS, run `gcloud auth application-default login`, or name a service_account_file in "
        "storage_options."
    )


def checked_options(uri: str, options: Mapping[str, Any] | None) -> dict[str, str]:
    """The options of a store.

    Raises:
        ConfigurationError: one is unknown, or is not text.
    """
    given = dict(options or {})
    unknown = sorted(set(given) - set(KNOWN_OPTIONS))
    if unknown:
        raise ConfigurationError(
            f"{uri}: unknown storage_options {', '.join(unknown)}. Known: {', '.join(KNOWN_OPTIONS)}."
        )
    for name, value in given.items():
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{uri}: {name} in storage_options must be a non-empty string.")
    return given
