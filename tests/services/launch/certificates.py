"""Certificates made for one test run: authorities, and servers' certificates that they sign."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID = datetime.timedelta(days=1)


class Authority:
    """Signs certificates; ``certificate`` is the PEM file that a client trusts it by."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        basics = x509.BasicConstraints(ca=True, path_length=None)
        signed = _unsigned(self._name, self._name, self._key, _now() + VALID).add_extension(basics, critical=True)
        self._pem = signed.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(self._pem)

    def issue(self, name: str, *, host: str = "localhost", address: str = "127.0.0.1", expired: bool = False) -> Path:
        """A server's key and certificate for this host and address, in one PEM file as Kafka takes it."""
        key = ec.generate_private_key(ec.SECP256R1())
        until = _now() - datetime.timedelta(hours=1) if expired else _now() + VALID
        names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ipaddress.ip_address(address))])
        signed = _unsigned(_named(name), self._name, key, until).add_extension(names, critical=False)
        store = self._folder / f"{name}.pem"
        store.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + signed.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
            + self._pem
        )
        return store


def _unsigned(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - 2 * VALID)
        .not_valid_after(until)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
