"""What the Kafka client says about its own troubles, kept for our messages without the secrets."""

from __future__ import annotations

from collections.abc import Sequence

from confluent_kafka import KafkaError

REFUSED_CODES = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    }
)
"""Errors that waiting does not cure."""

UNKNOWN_TOPIC_CODES = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
"""Errors that say that a topic or partition does not exist (or, for a moment, not yet), or cannot exist."""


class ClientErrors:
    """Remembers the client's last error; ``remember`` is its ``error_cb``."""

    def __init__(self) -> None:
        self._secret_texts: Sequence[str] = ()
        self._last: str | None = None

    def hide(self, secret_texts: Sequence[str]) -> None:
        """Never show these texts in a message."""
        self._secret_texts = secret_texts

    def remember(self, error: KafkaError) -> None:
        """Keep this error's text as the last one."""
        # "All brokers are down" follows the error that says why, and says less.
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._last is not None:
            return
        self._last = self.text_of(error)

    def forget(self) -> None:
        """The client got on: what it said before explains nothing any more."""
        self._last = None

    def text_of(self, error: KafkaError | str) -> str:
        """An error in words, its code's name first, secrets blotted out."""
        text = error if isinstance(error, str) else f"{error.name()}: {error.str()}"
        for secret in self._secret_texts:
            text = text.replace(secret, "***")
        return text

    def describe(self) -> str:
        """The last error as the end of a sentence."""
        if self._last is None:
            return "the client reported no error"
        return f"the client's last error was {self._last}"
