"""How a receiver that really runs ends, and whom it lets connect."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from beam_exactly_once.errors import EXIT_DONE, EXIT_FENCED
from support.wal.receiver_process import ReceiverProcess, answer_on, post, receiver_process, values_in

SENDERS = 16


def test_a_request_that_was_sent_before_its_end_is_answered(tmp_path: Path) -> None:
    """Each sender sends one request after the other on one connection, until that is closed between two of them."""
    answered: list[bytes] = []
    unanswered: list[bytes] = []

    with receiver_process(tmp_path / "log", linger_s=0.005) as receiver:
        begun = threading.Barrier(SENDERS + 1)

        def send(sender: int) -> None:
            with receiver.connect() as connection:
                for number in range(100_000):
                    body = b"%d-%d" % (sender, number)
                    connection.sendall(post(body))
                    status, answer = answer_on(connection)
                    (answered if status == 200 else unanswered).append(body)
                    if number == 3:
                        begun.wait()
                    if status != 200 or b"connection: close" in answer:
                        return

        threads = [threading.Thread(target=send, args=(sender,)) for sender in range(SENDERS)]
        for thread in threads:
            thread.start()
        begun.wait()
        assert receiver.end() == EXIT_DONE
        for thread in threads:
            thread.join()

    assert unanswered == []
    assert sorted(values_in(tmp_path / "log")) == sorted(answered)


def test_a_receiver_that_is_fenced_answers_so_and_ends_with_3(tmp_path: Path) -> None:
    with receiver_process(tmp_path / "log") as old, receiver_process(tmp_path / "log") as new:
        status, answer = old.post(b"a", "Idempotency-Key: 1")
        assert (status, b"another receiver" in answer) == (503, True)
        assert new.post(b"a", "Idempotency-Key: 1")[0] == 200
        assert old.process.wait(60) == EXIT_FENCED
        assert "Fenced" in old.log

    assert values_in(tmp_path / "log") == [b"a"]


def test_certificates_of_clients_let_in_and_name_the_sender(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    mine, theirs = authority.issued(tmp_path / "receiver", "localhost"), authority.issued(tmp_path / "till", "till-1")
    foreign = Authority(tmp_path / "other").issued(tmp_path / "foreign", "till-1")
    flags = (f"--tls-cert={mine}.crt", f"--tls-key={mine}.key", f"--tls-client-ca={authority.file}.crt")

    with receiver_process(tmp_path / "log", *flags) as receiver:
        context = ssl.create_default_context(cafile=f"{authority.file}.crt")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            over_tls(receiver, context, b"x")
        context.load_cert_chain(f"{foreign}.crt", f"{foreign}.key")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            over_tls(receiver, context, b"x")
        context = ssl.create_default_context(cafile=f"{authority.file}.crt")
        context.load_cert_chain(f"{theirs}.crt", f"{theirs}.key")
        assert over_tls(receiver, context, b"a") == 200

    assert values_in(tmp_path / "log") == [b"a"]


def over_tls(receiver: ReceiverProcess, context: ssl.SSLContext, body: bytes) -> int:
    plain = socket.create_connection(receiver.address, timeout=60)
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(post(body))
        status, _ = answer_on(connection)
        if not status:
            raise ConnectionError("closed without an answer")
        return status


class Authority:
    """What signs certificates, in PEM files."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, file.name)])
        certificate = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(True, None), critical=True
        )
        _write(file, certificate.sign(self._key, hashes.SHA256()), self._key)

    def issued(self, file: Path, name: str) -> Path:
        """A certificate of this name and its key, in two files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        certificate = self._builder(subject, key).add_extension(names, critical=False)
        _write(file, certificate.sign(self._key, hashes.SHA256()), key)
        return file

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )


def _write(file: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    file.with_suffix(".crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    as_pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.with_suffix(".key").write_bytes(key.private_bytes(*as_pem))
