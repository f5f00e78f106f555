"""The options with which delta-rs reaches the same store, in the same way, as the library's own clients."""

from __future__ import annotations

import re

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.object_store.store_location import StoreLocation

_MISREAD = re.compile(r"%|\\")
_S3_WRITE_OPTIONS = {
    "ServerSideEncryption": "aws_server_side_encryption",
    "SSEKMSKeyId": "aws_sse_kms_key_id",
}


def check_storage(location: StoreLocation) -> None:
    """Refuse a store that delta-rs cannot reach as the library does.

    Raises:
        ConfigurationError: memory, a name that delta-rs reads as another one, or an option that it does not have.
    """
    if location.uri.startswith("memory://"):
        raise ConfigurationError(
            f"{location.uri} cannot be a Delta table: nothing but this library knows such a store. Use a path, s3:// or gs://."
        )
    if _MISREAD.search(location.uri):  # of a local path; others have none of these letters
        raise ConfigurationError(
            f"{location.uri} cannot be a Delta table: delta-rs reads %20 in a name as a space, and \\ as a slash, so the log "
            "would be in another place than the files. Use a name without them."
        )
    unknown = sorted({"user_project", "kms_key_name"} & set(location.options or {}))
    if unknown:
        raise ConfigurationError(
            f"{location.uri}: a Delta table on GCS takes no storage_options {', '.join(unknown)}. Set a default key of the "
            "bucket, or leave it out (storage_options={} takes none of the stream's)."
        )


def deltalake_options(location: StoreLocation) -> dict[str, str]:
    """Options of ``deltalake`` for now and here: they hold credentials. Never keep, log or pickle them.

    Raises:
        ConfigurationError: a secret cannot be read.
    """
    if location.uri.startswith("s3://"):
        return _s3_options(location)
    if location.uri.startswith("gs://"):
        file = (location.options or {}).get("service_account_file")
        return {} if file is None else {"google_service_account": file}
    return {}


def _s3_options(location: StoreLocation) -> dict[str, str]:
    from beam_exactly_once.object_store.s3_client import S3Options, client_key, options_of_others

    checked = S3Options.checked(location.uri, location.options)
    options = options_of_others(client_key(checked))
    options["AWS_CONDITIONAL_PUT"] = "etag"
    if options.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["AWS_ALLOW_HTTP"] = "true"
    options |= {_S3_WRITE_OPTIONS[name]: value for name, value in checked.write.items() if name in _S3_WRITE_OPTIONS}
    if checked.request:
        options["aws_request_payer"] = "true"
    return options
