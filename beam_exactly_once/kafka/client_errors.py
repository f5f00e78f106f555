"""What the Kafka client says about its own troubles: who must act, in our words, without the secrets."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from confluent_kafka import KafkaError, ThrottleEvent

from beam_exactly_once.errors import KafkaRefused
from beam_exactly_once.kafka.listener import Listener, ask_listener

DENIED_CODES = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})
"""Errors that say that access rules forbid it."""

_LOGIN_CODES = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
    }
)
_CONNECTION_REFUSALS = _LOGIN_CODES | {KafkaError._SSL}

UNKNOWN_TOPIC_CODES = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
"""Errors that say that a topic or partition does not exist (or, for a moment, not yet), or cannot exist."""

GROUP_REFUSALS = frozenset(
    {KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.NON_EMPTY_GROUP} | DENIED_CODES
)
"""Errors that say that we may not look at a consumer group, or not commit for it: it may have members."""

REFUSAL_WAIT_S = 2.0
"""A refused connection is believed when nothing has gone well for so long: another broker may let us in."""
_ASK_TIMEOUT_S = 2.0
_MAX_ASKED = 3
# What the client puts around its reasons: where, and how long it took.
_DRESS = re.compile(r"^\w+://\S+?: |(?<=: )\w+://\S+?: | \(after \d+ms in state \w+\)")


class ClientErrors:
    """Remembers the client's last error; ``remember`` is its ``error_cb``."""

    def __init__(self) -> None:
        self._config: Mapping[str, Any] = {}
        self._secret_texts: Sequence[str] = ()
        self._last: str | None = None
        self._refusal: KafkaError | None = None
        self._is_throttled = False

    def concern(self, config: Mapping[str, Any], secret_texts: Sequence[str]) -> None:
        """Speak of a client with this configuration, and never show the texts."""
        self._config = config
        self._secret_texts = secret_texts

    def remember(self, error: KafkaError) -> None:
        """Keep this error's text as the last one."""
        # "All brokers are down" follows the error that says why, and says less.
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._last is not None:
            return
        self._last = self.text_of(error)
        if error.code() in _CONNECTION_REFUSALS:
            self._refusal = error

    def remember_throttle(self, event: ThrottleEvent) -> None:
        """Keep that a broker holds its answers back, or does not any more; the client's ``throttle_cb``."""
        self._is_throttled = event.throttle_time > 0

    def forget(self) -> None:
        """The client got on: what it said before explains nothing any more."""
        self._last = self._refusal = None
        self._is_throttled = False

    def text_of(self, error: KafkaError | str) -> str:
        """An error in words, its code's name first, secrets blotted out."""
        return self._hide(error if isinstance(error, str) else f"{error.name()}: {error.str()}")

    def describe(self) -> str:
        """The last error as the end of a sentence."""
        if self._is_throttled:
            return (
                "a quota of this client makes Kafka hold its answers back (consumer_byte_rate, producer_byte_rate or "
                "request_percentage); raise it, for it must at least let one batch of records pass"
            )
        if self._last is None:
            return "the client reported no error"
        return f"the client's last error was {self._last}"

    def raise_if_refused(self) -> None:
        """
        Raises:
            KafkaRefused: a broker did not let us in, and nothing went well since.
        """
        error = self._refusal
        if error is None:
            return
        listener = self._ask_listener()
        self._raise_if_contradicted(listener)
        reason = _DRESS.sub("", self._hide(error.str()))
        if error.code() in _LOGIN_CODES:
            raise KafkaRefused(
                f"Kafka at {self._servers} does not let {self._who} in: {reason}. Correct the credentials "
                "(sasl.username, sasl.password, sasl.mechanisms), or make them known to the brokers"
            )
        fault = None if listener is None else listener.certificate_fault
        raise KafkaRefused(
            f"the client does not trust Kafka at {self._servers}: {fault or reason}. Name the authority that signed the "
            "brokers' certificates in ssl.ca.location, call the brokers by a name that is in them, or have them renewed"
        )

    def raise_if_contradicted(self) -> None:
        """For a client that is not answered and not told why: find out whether it speaks what the brokers speak.

        Raises:
            KafkaRefused: ``security.protocol`` is not the broker's.
        """
        self._raise_if_contradicted(self._ask_listener())

    def denied(self, wish: Literal["see", "read"], subject: str, error: KafkaError | None = None) -> KafkaRefused:
        """The error for what access rules forbid; the subject is a topic or partition in words."""
        reason = "" if error is None else f" ({_DRESS.sub('', self.text_of(error))})"
        way_out = "Allow this user the operation Read on the topic"
        if wish == "see":
            way_out += ", which includes Describe, or correct its name: Kafka does not say whether it exists"
        return KafkaRefused(f"Kafka at {self._servers} does not let {self._who} {wish} {subject}{reason}. {way_out}")

    def group_refused(self, wish: Literal["see", "commit for"], group_id: str, error: KafkaError) -> KafkaRefused:
        """The error for what may not be done with a consumer group."""
        return KafkaRefused(
            f"Kafka at {self._servers} does not let {self._who} {wish} the consumer group {group_id} "
            f"({_DRESS.sub('', self.text_of(error))}). Allow the operation Read on the group, and end its members"
        )

    def _raise_if_contradicted(self, listener: Listener | None) -> None:
        contradiction = None if listener is None else listener.contradiction(self._protocol)
        if contradiction is not None:
            raise KafkaRefused(
                f"Kafka at {self._servers} cannot be spoken to: {contradiction}. Set security.protocol to what the port "
                "speaks, or name another port in bootstrap_servers"
            )

    def _ask_listener(self) -> Listener | None:
        """What the first broker that answers says of its port."""
        for address in self._servers.split(",")[:_MAX_ASKED]:
            listener = ask_listener(address.strip(), _trusted(self._config), _ASK_TIMEOUT_S)
            if listener is not None:
                return listener
        return None

    def _hide(self, text: str) -> str:
        for secret in self._secret_texts:
            text = text.replace(secret, "***")
        return text

    @property
    def _servers(self) -> str:
        return str(self._config.get("bootstrap.servers", "the given address"))

    @property
    def _protocol(self) -> str:
        return str(self._config.get("security.protocol", "plaintext")).upper()

    @property
    def _who(self) -> str:
        if not self._protocol.startswith("SASL_"):
            return "this client"
        user, mechanism = self._config.get("sasl.username"), self._config.get("sasl.mechanisms", "GSSAPI")
        return f"this client ({mechanism})" if user is None else self._hide(f"user {user} ({mechanism})")


def _trusted(config: Mapping[str, Any]) -> ssl.SSLContext:
    """Whom a client with this configuration trusts."""
    location = config.get("ssl.ca.location")
    folder = location if location and os.path.isdir(location) else None  # noqa: PTH112
    context = ssl.create_default_context()
    # Only asked about a certificate that the client has refused, so the client could read what is named here.
    with contextlib.suppress(OSError):
        context = ssl.create_default_context(
            cafile=None if folder else location, capath=folder, cadata=config.get("ssl.ca.pem")
        )
    context.check_hostname = config.get("ssl.endpoint.identification.algorithm", "https") == "https"
    return context
