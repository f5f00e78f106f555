"""Certificates made for one test run: authorities, and certificates of servers and of clients that they sign."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID = datetime.timedelta(days=1)
_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
"""Python 3.13 wants it of an authority, and identifiers of keys."""


class Authority:
    """Signs certificates; ``certificate`` is the PEM file that a client trusts it by."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        basics = x509.BasicConstraints(ca=True, path_length=None)
        unsigned = self._unsigned(self._name, self._key, _now() + VALID)
        signed = unsigned.add_extension(basics, critical=True).add_extension(_SIGNS, critical=True)
        self._pem = signed.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(self._pem)

    def issue(self, name: str, *, host: str = "localhost", address: str = "127.0.0.1", expired: bool = False) -> Path:
        """Key and certificate of a client, or of a server with this host and address: one PEM file, as Kafka takes it."""
        key = ec.generate_private_key(ec.SECP256R1())
        until = _now() - datetime.timedelta(hours=1) if expired else _now() + VALID
        names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(ipaddress.ip_address(address))])
        signed = self._unsigned(_named(name), key, until).add_extension(names, critical=False)
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
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime.datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_now() - 2 * VALID)
            .not_valid_after(until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
