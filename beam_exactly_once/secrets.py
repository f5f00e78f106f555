"""Secrets by reference: a configuration holds where a secret is, never the secret.

A :class:`Secret` is safe to print, to pickle and to store. It is resolved on the machine that opens the
connection, so every worker needs the variable or the file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.properties import property_lines, read_text

_SECRET_ENDINGS = (
    *("password", "passwd", "pwd", "passphrase", "secret", "token", "credential", "credentials"),
    *("apikey", "accesskey", "secretkey", "privatekey", "clientkey", "serverkey", "keystorekey", "keypem"),
    *("accountkey", "masterkey", "saskey", "sharedkey", "authkey", "signingkey", "encryptionkey", "customerkey"),
    *("customerkeybase64", "connectionstring", "assertion", "jaasconfig", "oauthbearerconfig"),
)
"""Of names without what stands between their words. A key by itself is also one of a table, or the place of a file."""
_SECRET_WORDS = re.compile(r"(?:(?:^|[^a-zA-Z0-9])(?i:pass|pw|sas)|(?<=[a-z0-9])(?:Pass|Pw|Sas))$")
"""Last words that are the ends of others, too."""
_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")


@dataclass(frozen=True, slots=True)
class Secret:
    """A reference to a secret; make one with :func:`secret_from_env` or :func:`secret_from_file`.

    Args:
        source: What ``name`` is: an environment variable or a file.
        name: The variable's name or the file's path.
        key: For a file of ``key=value`` lines, which value; None means the whole file.
    """

    source: Literal["env", "file"]
    name: str
    key: str | None = None

    def resolve(self) -> str:
        """The secret itself, read now, here.

        Raises:
            ConfigurationError: the variable is not set, or the file cannot be read or lacks the key.
        """
        if self.source == "env":
            return _resolve_env(self.name)
        return _resolve_file(self.name, self.key)


def secret_from_env(name: str) -> Secret:
    """A secret that the environment variable ``name`` holds on the machine that uses it.

    Raises:
        ConfigurationError: ``name`` is empty.
    """
    if not name:
        raise ConfigurationError("secret_from_env needs the name of an environment variable, got an empty string")
    return Secret("env", name)


def secret_from_file(path: str | os.PathLike[str], key: str | None = None) -> Secret:
    """A secret that a file holds on the machine that uses it.

    Args:
        path: The file, in UTF-8. Without ``key`` its whole text is the secret, less one trailing newline.
        key: Take the value of this key from a Java-style properties file instead.

    Raises:
        ConfigurationError: ``path`` is empty.
    """
    name = os.fspath(path)
    if not name:
        raise ConfigurationError("secret_from_file needs the path of a file, got an empty string")
    return Secret("file", name, key)


def is_secret_name(name: str) -> bool:
    """Whether the value under this name, of a property, an option or a part of a URL, must never be plain text."""
    joined = re.sub(r"[^a-z0-9]", "", name.lower())
    return joined.endswith(_SECRET_ENDINGS) or _SECRET_WORDS.search(name) is not None


def referenced(text: str) -> Secret | str:
    """What a flag or a property says: ``${env:NAME}`` and ``${file:/path}`` are secrets, other text is itself."""
    reference = _REFERENCE.fullmatch(text)
    if reference is None:
        return text
    source, name = reference.groups()
    return secret_from_env(name) if source == "env" else secret_from_file(name)


def _resolve_env(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise ConfigurationError(
            f"the environment variable {name}, which a configuration names as a secret, is not set on this machine; "
            "set it for the driver and for every worker"
        )
    return value


def _resolve_file(path: str, key: str | None) -> str:
    if key is None:
        return read_text(path).removesuffix("\n").removesuffix("\r")
    found = [line.value for line in property_lines(path) if line.key == key]
    if not found:
        raise ConfigurationError(f"the file {path}, which a configuration names as a secret, has no line for {key}")
    return found[-1]
