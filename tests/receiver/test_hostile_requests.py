"""Requests that mean no good, to a receiver that really runs: clear answers, bounded memory, no secret in what it says.

After each of them it takes a good request, and the log holds what was answered 200 and nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
from collections.abc import Callable, Iterator

import pytest

from support.wal.receiver_process import TOKEN, ReceiverProcess, answer_on, post, receiver_process, values_in

MEMORY_MB = 120
"""How much more a receiver may hold than at its start, with 8 MB of requests on their way in and 8 MB waiting."""
CONNECTIONS = 200
SIGNED_WITH = "a-secret-of-a-hub"


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReceiverProcess]:
    folder = tmp_path_factory.mktemp("receiver")
    (folder / "signed_with").write_text(SIGNED_WITH)
    signature = ("--signature=github", f"--signature-secret=hub=${{file:{folder / 'signed_with'}}}")
    flags = ("--max-request-bytes=1000000", "--max-pending-bytes=8000000", "--request-timeout-s=2", *signature)
    with receiver_process(folder / "log", *flags, "--max-connections=300") as one:
        yield one


@pytest.fixture(autouse=True)
def taken(receiver: ReceiverProcess) -> Iterator[list[bytes]]:
    """What a test was answered 200 for; all of it is in the log, and nothing else."""
    before, memory_mb = values_in(receiver.location), receiver.memory_mb()
    expected: list[bytes] = []
    yield expected
    assert receiver.post(b"good")[0] == 200
    assert values_in(receiver.location) == [*before, *expected, b"good"]
    assert receiver.memory_mb() < memory_mb + MEMORY_MB
    assert TOKEN not in receiver.log
    assert SIGNED_WITH not in receiver.log
    assert "Traceback" not in receiver.log


def until_closed(connection: socket.socket, data: Callable[[], bytes], most: int) -> None:
    """Send until the other side wants no more."""
    for _ in range(most):
        try:
            connection.sendall(data())
        except OSError:
            return


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50)),
        (400, b"POST /v1/records HTTP/9.9\r\n\r\n"),
        (400, b"POST /v1/records HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        (400, b"POST /v1/records HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"xyz\r\n"),
        (400, b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"),
        (401, b"POST /v1/records HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"),
        (404, post(b"x").replace(b"/v1/records", b"/v1/%2e%2e/records")),
        (405, b"DELETE /v1/records HTTP/1.1\r\n\r\n"),
        (413, post(b"").replace(b"Length: 0", b"Length: 99999999999999999")),
        (413, post(b"x" * 1_000_001)),
        (415, post(b"x", "Content-Encoding: gzip", "Content-Encoding: identity")),
        (400, post(b"1\n2\n" * 100_000 + b"{", "Content-Type: application/x-ndjson")),
        (400, post(b'"\xc3\x28"', "Content-Type: application/x-ndjson")),
        (413, post(b"1\n" * 50_001, "Content-Type: application/x-ndjson")),
        (400, post(b"x", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")),
        (400, post(b"x", "Idempotency-Key: " + "k" * 300)),
        (400, post(b"", "Idempotency-Key: k")),
    ],
    ids=range(20),
)
def test_what_is_no_good_request_is_refused(receiver: ReceiverProcess, status: int, data: bytes) -> None:
    assert receiver.send(data)[0] == status


def test_a_body_of_chunks_without_an_end_is_refused(receiver: ReceiverProcess) -> None:
    with receiver.connect() as connection:
        connection.sendall(post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        until_closed(connection, lambda: b"10000\r\n" + b"x" * 65_536 + b"\r\n", most=10_000)
        assert answer_on(connection)[0] in (413, 0)  # 0: it was closed with bytes on their way, which drops the answer


def test_a_head_without_an_end_is_refused(receiver: ReceiverProcess) -> None:
    with receiver.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        until_closed(connection, lambda: b"x" * 65_536, most=10_000)


def test_trailers_without_an_end_are_refused(receiver: ReceiverProcess) -> None:
    with receiver.connect() as connection:
        connection.sendall(post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"0\r\n")
        until_closed(connection, lambda: b"X: y\r\n" * 10_000, most=10_000)


def test_requests_that_do_not_come_to_their_end_are_given_up(receiver: ReceiverProcess) -> None:
    begun = [b"POST /v1/rec", post(b"x" * 100)[:-1], post(b"").replace(b"Content-Length: 0", b"Content-Length: 9")]
    silent = receiver.connect()
    connections = [receiver.connect() for _ in begun]
    for connection, data in zip(connections, begun, strict=True):
        connection.sendall(data)
    for connection in connections:
        assert answer_on(connection)[0] == 408
        assert connection.recv(1) == b""
        connection.close()
    assert silent.recv(1) == b""
    silent.close()


def test_tokens_that_are_guessed_are_all_refused(receiver: ReceiverProcess) -> None:
    guesses = ["", " ", f"{TOKEN}x", TOKEN.upper(), "x" * 10_000, "shop", "${file:token}"]
    byte_by_byte = [TOKEN[:right].ljust(len(TOKEN), "x") for right in range(len(TOKEN))]
    guesses += [*byte_by_byte, *(TOKEN[:right] for right in range(1, len(TOKEN)))]
    answers = [receiver.post(b"x", token=guess) for guess in guesses]

    assert {status for status, _ in answers} == {401}
    assert len({answer.partition(b"\r\n\r\n")[2] for _, answer in answers}) == 1


def test_a_body_with_the_signature_of_another_one_is_refused(receiver: ReceiverProcess, taken: list[bytes]) -> None:
    def send(body: bytes, signature: str) -> int:
        return receiver.post(body, f"X-Hub-Signature-256: sha256={signature}", token="none")[0]

    mine = hmac.digest(SIGNED_WITH.encode(), b"signed", hashlib.sha256).hex()
    guesses = [mine[:right].ljust(len(mine), "0") for right in range(0, len(mine), 8)]
    wrong = [(b"signed", guess) for guess in ["", mine[:-1], "\xff" * 64, *guesses]]

    assert {send(*one) for one in [(b"other", mine), (b"signed ", mine), *wrong]} == {401}
    assert send(b"signed", mine) == 200
    taken.append(b"signed")


def test_a_request_that_comes_byte_by_byte_is_given_up(receiver: ReceiverProcess) -> None:
    """Each byte comes soon after the one before, so it is never idle."""
    with receiver.connect() as connection:
        connection.sendall(post(b"x" * 900_000)[:-900_000])
        connection.settimeout(0.02)
        for _ in range(900_000):
            try:
                found = connection.recv(12)
                break
            except TimeoutError:
                connection.send(b"x")

    assert found == b"HTTP/1.1 408"


def test_many_requests_on_one_connection_before_the_first_answer_are_refused(
    receiver: ReceiverProcess, taken: list[bytes]
) -> None:
    """A few are answered in order; who sends thousands is closed."""
    with receiver.connect() as connection:
        connection.sendall(b"".join(post(b"%d" % number) for number in range(8)))
        for number in range(8):
            assert connection.recv(1, socket.MSG_PEEK)
            assert answer_of_pipelined(connection) == 200
            taken.append(b"%d" % number)
    with receiver.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n" * 2000)
        while connection.recv(1 << 16):
            pass


def answer_of_pipelined(connection: socket.socket) -> int:
    """Of the next answer, read to its last byte and no further."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    connection.recv(int(head.lower().partition(b"content-length: ")[2].split()[0]), socket.MSG_WAITALL)
    return int(head.split()[1])


def test_many_connections_share_what_may_be_held(receiver: ReceiverProcess) -> None:
    """Each sends nearly all of a megabyte, and then nothing."""
    connections = [receiver.connect() for _ in range(CONNECTIONS)]
    data = post(b"x" * 999_999)[:-1]
    for connection in connections:
        connection.settimeout(0.01)
        try:
            connection.sendall(data)
        except OSError:
            connection.settimeout(60)
    held = receiver.memory_mb()
    answers = []
    for connection in connections:
        connection.settimeout(60)
        answers.append(answer_on(connection)[0])
        connection.close()

    assert set(answers) <= {503, 408, 0}
    assert 503 in answers
    assert held < 300


def test_more_connections_than_it_may_have_are_refused(receiver: ReceiverProcess, taken: list[bytes]) -> None:
    connections = [receiver.connect() for _ in range(300)]
    status, answer = receiver.post(b"too many")
    assert (status, b"retry-after: 1" in answer) == (503, True)
    for connection in connections:
        connection.close()
    while receiver.post(b"room again")[0] != 200:
        pass
    taken.append(b"room again")
