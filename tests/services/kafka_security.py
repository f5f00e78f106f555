"""A Kafka broker with TLS, credentials and access rules; a super user comes in by its plaintext port."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from beam_exactly_once.kafka import ConfigValue
from beam_exactly_once.secret_values import secret_from_env
from services.certificates import Authority
from services.kafka_broker import Kafka, Listener

TIMEOUT_S = 30.0
_LOGIN = "org.apache.kafka.common.security"
_MECHANISMS = {
    "PLAIN": f"{_LOGIN}.plain.PlainLoginModule required {{users}};",
    "SCRAM-SHA-256": f"{_LOGIN}.scram.ScramLoginModule required;",
    "SCRAM-SHA-512": f"{_LOGIN}.scram.ScramLoginModule required;",
    "OAUTHBEARER": f'{_LOGIN}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
}


class SecureKafka(Kafka):
    """One broker with the listeners ``TRUSTED``, ``EXPIRED`` (certificate) and ``ELSEWHERE`` (another host's one).

    Args:
        passwords: of users who may log in, by each mechanism; none has a right yet.
    """

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="beam-exactly-once-certificates-")
        folder = Path(self._folder.name)
        authority, stranger = Authority(folder, "authority"), Authority(folder, "stranger")
        self.authority = authority.certificate
        """What a client must trust."""
        self.other_authority = stranger.certificate
        """One that has signed nothing here."""
        users = " ".join(f'user_{user}="{password}"' for user, password in passwords.items())
        super().__init__(
            listeners=[
                _listener("TRUSTED", authority.issue("trusted"), users),
                _listener("EXPIRED", authority.issue("expired", expired=True), users),
                _listener("ELSEWHERE", authority.issue("elsewhere", host="elsewhere", address="192.0.2.1"), users),
            ],
            properties={
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
            },
            scram_users=[
                f"{mechanism}=[name={user},password={password}]"
                for user, password in passwords.items()
                for mechanism in _MECHANISMS
                if mechanism.startswith("SCRAM")
            ],
        )
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})

    def allow(self, user: str, operation: AclOperation, topic: str) -> None:
        """Let a user do this to a topic; whoever may read may describe."""
        self._settle(self._admin.create_acls([_rule(AclBinding, user, operation, topic)]))

    def forbid(self, user: str, operation: AclOperation, topic: str) -> None:
        """Take back what :meth:`allow` gave."""
        self._settle(self._admin.delete_acls([_rule(AclBindingFilter, user, operation, topic)]))

    def set_password(self, user: str, password: str) -> None:
        """For SCRAM-SHA-512."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(user, info, password.encode())
        self._settle(self._admin.alter_user_scram_credentials([change]))

    def stop(self, *, keep_log: bool = False) -> None:
        """End the broker and forget its certificates."""
        super().stop(keep_log=keep_log)
        self._folder.cleanup()

    @staticmethod
    def _settle(futures: Mapping[Any, Any]) -> None:
        for future in futures.values():
            future.result(TIMEOUT_S)


def _listener(name: str, store: Path, users: str) -> Listener:
    logins = {
        f"{mechanism.lower()}.sasl.jaas.config": module.format(users=users) for mechanism, module in _MECHANISMS.items()
    }
    certificate = {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(store)}
    mechanisms = {"sasl.enabled.mechanisms": ",".join(_MECHANISMS)}
    return Listener(name, "SASL_SSL", {**certificate, **mechanisms, **logins})


def _rule(kind: Any, user: str, operation: AclOperation, topic: str) -> Any:
    return kind(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        operation,
        AclPermissionType.ALLOW,
    )
