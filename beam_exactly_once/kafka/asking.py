"""Asks one cluster until it has settled: a leader changes, a topic is new, a controller is dead."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from beam_exactly_once.clock import Clock
from beam_exactly_once.errors import BeamExactlyOnceError, ConfigurationError
from beam_exactly_once.kafka.client_errors import REFUSAL_WAIT_S, UNKNOWN_TOPIC_CODES, ClientErrors
from beam_exactly_once.kafka.owned_admin import OwnedAdmin
from beam_exactly_once.kafka.settings import KafkaSettings
from beam_exactly_once.patience import Patience

UNKNOWN_TOPIC_WAIT_S = 5.0
"""A broker may not know a topic or partition yet that another one's metadata already names."""
PAUSE_S = 0.2
_MIN_REQUEST_TIMEOUT_S = 0.1
# While a request runs, the client does not say what is wrong with its connections. Doubled for each further request.
_FIRST_REQUEST_TIMEOUT_S = 0.6

Client = TypeVar("Client")
Answer = TypeVar("Answer")


class NoAnswer(Exception):
    """A request failed; says what it was about."""

    def __init__(self, error: KafkaError, subject: str) -> None:
        super().__init__(subject)
        self.error = error
        self.subject = subject


def open_client(
    client: Callable[[dict[str, Any]], Client],
    config: dict[str, Any],
    errors: ClientErrors,
    secret_texts: Sequence[str],
) -> Client:
    """A client that tells ``errors`` of its troubles.

    Raises:
        ConfigurationError: it refuses its configuration.
    """
    errors.concern(config, secret_texts)
    try:
        return client({**config, "error_cb": errors.remember, "throttle_cb": errors.remember_throttle})
    except KafkaException as exception:
        text = errors.text_of(exception.args[0])
    # Outside of the handler: the client's own exception may quote the configuration.
    raise ConfigurationError(f"the Kafka client does not accept its configuration: {text}")


class Asker(abc.ABC):
    """One cluster, for one thread at a time. Who asks says what a failure means."""

    def __init__(self, settings: KafkaSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._errors = ClientErrors()
        self._admin: OwnedAdmin | None = None

    def close(self) -> None:
        """End the connections. Twice does no harm."""
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()

    @abc.abstractmethod
    def _unknown(self, subject: str) -> Exception:
        """The cluster has no such topic or partition."""

    @abc.abstractmethod
    def _refused(self, subject: str, error: KafkaError) -> BeamExactlyOnceError | None:
        """To ask again would not help; None if it may."""

    @abc.abstractmethod
    def _unavailable(self, subject: str, error: KafkaError) -> BeamExactlyOnceError:
        """Time is up."""

    def _open(self, client: Callable[[dict[str, Any]], Client], settings: KafkaSettings | None = None) -> Client:
        settings = settings or self._settings
        config = settings.client_config()
        return open_client(client, config, self._errors, settings.secret_texts(config))

    def _ask_admin(
        self, ask: Callable[[OwnedAdmin, float], Answer], unknown_wait_s: float = UNKNOWN_TOPIC_WAIT_S
    ) -> Answer:
        """As :meth:`_ask`, and after a failure by a new client: one that knows a dead controller, or has met an old leader,
        would ask that one again and again."""

        def ask_once(timeout_s: float) -> Answer:
            if self._admin is None:
                self._admin = OwnedAdmin(lambda: self._open(AdminClient))
            try:
                return ask(self._admin, timeout_s)
            except NoAnswer:
                self._admin.ask(lambda client: client.poll(0))  # lets the client say why
                Asker.close(self)
                raise

        return self._ask(ask_once, unknown_wait_s)

    def _ask(self, ask: Callable[[float], Answer], unknown_wait_s: float = UNKNOWN_TOPIC_WAIT_S) -> Answer:
        """Ask until the cluster has settled.

        Args:
            ask: takes its timeout; raises :class:`NoAnswer`.
            unknown_wait_s: a topic is believed to be missing when it has been for so long.
        """
        timeout_s, request_timeout_s = self._settings.timeout_s, _FIRST_REQUEST_TIMEOUT_S
        patience = Patience(self._clock, timeout_s=timeout_s, first_pause_s=PAUSE_S)
        listener_asked = False
        while True:
            try:
                answer = ask(max(_MIN_REQUEST_TIMEOUT_S, min(patience.left_s, request_timeout_s)))
            except NoAnswer as exception:
                error, subject = exception.error, exception.subject
            else:
                self._errors.forget()
                return answer
            if error.code() in UNKNOWN_TOPIC_CODES and patience.next_s >= min(timeout_s, unknown_wait_s):
                raise self._unknown(subject)
            refused = self._refused(subject, error)
            if refused is not None:
                raise refused
            if patience.next_s >= min(timeout_s, REFUSAL_WAIT_S):
                self._errors.raise_if_refused()
                if not listener_asked:
                    self._errors.raise_if_contradicted()
                listener_asked = True
            if patience.is_over:
                raise self._unavailable(subject, error)
            request_timeout_s *= 2
            patience.wait()
