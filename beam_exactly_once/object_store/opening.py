"""From a URI to its store."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.object_store.contract import ObjectStore, without_credentials
from beam_exactly_once.object_store.local import LocalStore
from beam_exactly_once.object_store.memory import MemoryStore

StoreFactory: TypeAlias = Callable[[str, Mapping[str, Any] | None], ObjectStore]

_URL_LETTERS = re.compile("[?#%]")

_OVERRIDES: list[StoreFactory] = []


class _Visible(threading.local):
    """How many overrides this thread sees: a factory sees only those that were there before it."""

    overrides: int | None = None


_VISIBLE = _Visible()


def open_object_store(uri: str, options: Mapping[str, Any] | None = None) -> ObjectStore:
    """The store at ``uri``; opening asks no server.

    Args:
        uri: ``/path``, ``file:///path``, ``memory://name``, ``s3://bucket/prefix`` (or ``s3a://``),
            ``gs://bucket/prefix``. After a scheme, without the letters that have a meaning in URLs: ?, # and %.
        options: the backend's own; see its class.

    Raises:
        ConfigurationError: an unknown scheme or option, or an extra that is not installed.
    """
    before = _VISIBLE.overrides
    visible = len(_OVERRIDES) if before is None else before
    if visible:
        _VISIBLE.overrides = visible - 1
        try:
            return _OVERRIDES[visible - 1](uri, options)
        finally:
            _VISIBLE.overrides = before
    scheme, separator, path = uri.partition("://")
    if separator and scheme != "memory":
        _refuse_url_letters(scheme, path)
    if not separator or scheme == "file":
        _no_options(uri, options)
        return LocalStore(_local_path(uri))
    if scheme == "memory":
        _no_options(uri, options)
        if not path.strip("/"):
            raise ConfigurationError(f"{uri} names no store; write memory://name.")
        return MemoryStore(uri.rstrip("/"))
    if scheme in ("s3", "s3a"):
        with _extra("s3", uri):
            from beam_exactly_once.object_store.s3 import S3Store
        return S3Store(uri, options)
    if scheme == "gs":
        with _extra("gcs", uri):
            from beam_exactly_once.object_store.gcs import GcsStore
        return GcsStore(uri, options)
    raise ConfigurationError(
        f"{without_credentials(uri)}: scheme {scheme!r} is not known; use a local path, file, memory, s3, s3a or gs."
    )


@contextmanager
def override_stores(factory: StoreFactory) -> Iterator[None]:
    """Let ``factory`` open every store of this process inside the block: for tests and crash kits. Nests."""
    _OVERRIDES.append(factory)
    try:
        yield
    finally:
        _OVERRIDES.remove(factory)


def _refuse_url_letters(scheme: str, path: str) -> None:
    """What others read as a query, a fragment or an encoded letter would be another place to them."""
    found = _URL_LETTERS.search(path)
    if found is not None:  # what follows a ? may be a password
        raise ConfigurationError(
            f"{without_credentials(f'{scheme}://{path[: found.start()]}')}… has a {found[0]} in its name, no letter in a "
            "URL: others would look elsewhere. Use a name without ?, # and %"
            + (", or write the path without file://." if scheme == "file" else ".")
        )


def _local_path(uri: str) -> str:
    path = uri.removeprefix("file://localhost").removeprefix("file://")
    if path != uri and not path.startswith("/"):
        raise ConfigurationError(
            f"{without_credentials(uri)} names a host or a relative path; write file:///path, or the path alone."
        )
    return path


def _no_options(uri: str, options: Mapping[str, Any] | None) -> None:
    if options:
        raise ConfigurationError(
            f"{without_credentials(uri)} takes no storage_options, but got {', '.join(sorted(options))}."
        )


@contextmanager
def _extra(name: str, uri: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"{without_credentials(uri)} needs an extra: pip install 'beam_exactly_once[{name}]' ({error})."
        ) from None
