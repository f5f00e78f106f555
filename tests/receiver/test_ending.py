"""How a receiver that really runs ends, and whom it lets connect."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest

from beam_exactly_once.errors import EXIT_DONE, EXIT_FENCED
from support.servers.certificates import Authority
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
        assert old.process.wait(180) == EXIT_FENCED
        assert "Fenced" in old.log

    assert values_in(tmp_path / "log") == [b"a"]


def test_certificates_of_clients_let_in_and_name_the_sender(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    mine, theirs, foreign = (
        authority.issue("receiver"),
        authority.issue("till-1"),
        Authority(tmp_path, "other").issue("till-2"),
    )
    flags = (f"--tls-cert={mine}", f"--tls-key={mine}", f"--tls-client-ca={authority.certificate}")

    with receiver_process(tmp_path / "log", *flags) as receiver:
        context = ssl.create_default_context(cafile=authority.certificate)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            over_tls(receiver, context, b"x")
        context.load_cert_chain(foreign)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            over_tls(receiver, context, b"x")
        context = ssl.create_default_context(cafile=authority.certificate)
        context.load_cert_chain(theirs)
        assert over_tls(receiver, context, b"a") == 200

    assert values_in(tmp_path / "log") == [b"a"]


def over_tls(receiver: ReceiverProcess, context: ssl.SSLContext, body: bytes) -> int:
    plain = socket.create_connection(receiver.address, timeout=180)
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(post(body))
        status, _ = answer_on(connection)
        if not status:
            raise ConnectionError("closed without an answer")
        return status
