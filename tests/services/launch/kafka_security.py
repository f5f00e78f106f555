"""A Kafka broker with TLS, credentials and access rules; a super user comes in by its plaintext port."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping, Sequence
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
    UserScramCredentialUpsertion,
)

from services.launch.kafka_broker import Kafka, Listener
from services.streams.topics import TIMEOUT_S, settle, wait_until
from support.servers.certificates import Authority

SCRAM = "SCRAM-SHA-512"
_LOGIN = "org.apache.kafka.common.security"
_SCRAM_LOGIN = f"{_LOGIN}.scram.ScramLoginModule required;"


class SecureKafka(Kafka):
    """One broker with the listeners ``TRUSTED``, ``EXPIRED`` (certificate) and ``ELSEWHERE`` (another host's one).

    Args:
        users: who may log in, by each mechanism at ``TRUSTED``, by SCRAM-SHA-512 at the others; nobody has a right yet.
    """

    def __init__(self, users: Sequence[str]) -> None:
        self.passwords = {user: secrets.token_hex(12) for user in users}
        self._folder = tempfile.TemporaryDirectory(prefix="beam-exactly-once-certificates-")
        folder = Path(self._folder.name)
        authority = Authority(folder, "authority")
        self.authority = authority.certificate
        """What a client must trust."""
        self.other_authority = Authority(folder, "stranger").certificate
        """One that has signed nothing here."""
        super().__init__(
            listeners=[
                _listener("TRUSTED", authority.issue("trusted"), self._logins()),
                _listener("EXPIRED", authority.issue("expired", expired=True), {SCRAM: _SCRAM_LOGIN}),
                _listener(
                    "ELSEWHERE",
                    authority.issue("elsewhere", host="elsewhere", address="192.0.2.1"),
                    {SCRAM: _SCRAM_LOGIN},
                ),
            ],
            properties={
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
            },
            scram_users=[
                f"{mechanism}=[name={user},password={password}]"
                for user, password in self.passwords.items()
                for mechanism in ("SCRAM-SHA-256", SCRAM)
            ],
        )
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})

    def _logins(self) -> dict[str, str]:
        users = " ".join(f'user_{user}="{password}"' for user, password in self.passwords.items())
        return {
            "PLAIN": f"{_LOGIN}.plain.PlainLoginModule required {users};",
            "SCRAM-SHA-256": _SCRAM_LOGIN,
            SCRAM: _SCRAM_LOGIN,
            "OAUTHBEARER": f"{_LOGIN}.oauthbearer.OAuthBearerLoginModule required "
            'unsecuredLoginStringClaim_sub="broker";',
        }

    def allow(self, user: str, operation: AclOperation, topic: str) -> None:
        """Let a user do this to a topic; whoever may read may describe."""
        settle(self._admin.create_acls([_rule(AclBinding, user, operation, topic)]))
        wait_until(lambda: self._rules(user, operation, topic) == 1)

    def forbid(self, user: str, operation: AclOperation, topic: str) -> None:
        """Take back what :meth:`allow` gave."""
        settle(self._admin.delete_acls([_rule(AclBindingFilter, user, operation, topic)]))
        wait_until(lambda: self._rules(user, operation, topic) == 0)

    def _rules(self, user: str, operation: AclOperation, topic: str) -> int:
        return len(self._admin.describe_acls(_rule(AclBindingFilter, user, operation, topic)).result(TIMEOUT_S))

    def set_password(self, user: str, password: str) -> None:
        """Let a user in by this password and SCRAM-SHA-512, from the next connection on."""
        iterations = self._iterations(user) + 1  # tells the new password from the old one
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, iterations)
        change = UserScramCredentialUpsertion(user, info, password.encode())
        settle(self._admin.alter_user_scram_credentials([change]))
        wait_until(lambda: self._iterations(user) == iterations)

    def _iterations(self, user: str) -> int:
        described = self._admin.describe_user_scram_credentials([user])[user].result(TIMEOUT_S)
        return next(
            int(info.iterations)
            for info in described.scram_credential_infos
            if info.mechanism == ScramMechanism.SCRAM_SHA_512
        )

    def stop(self, *, keep_log: bool = False) -> None:
        """End the broker and forget its certificates."""
        super().stop(keep_log=keep_log)
        self._folder.cleanup()


def _listener(name: str, certificate: Path, logins: Mapping[str, str]) -> Listener:
    properties = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificate),
        "sasl.enabled.mechanisms": ",".join(logins),
        **{f"{mechanism.lower()}.sasl.jaas.config": login for mechanism, login in logins.items()},
    }
    return Listener(name, "SASL_SSL", properties)


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
