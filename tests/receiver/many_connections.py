"""Very many connections that send nothing, or little, and good requests beside them.

    python tests/receiver/many_connections.py --connections 10000

Prints what the receiver holds, and how long good requests took. Exits with 1 if one was not answered 200, or if the log holds
anything else. Needs as many open files in each of two processes: ulimit -n.
"""

from __future__ import annotations

import argparse
import resource
import socket
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its names are its own

from support.wal.receiver_process import post, receiver_process, values_in

GOOD = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    given = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    flags = (f"--max-connections={given.connections + 100}", "--request-timeout-s=600")
    with tempfile.TemporaryDirectory() as folder, receiver_process(Path(folder) / "log", *flags) as receiver:
        before_mb = receiver.memory_mb()
        begun = post(b"x" * 1000)[:-1]
        connections: list[socket.socket] = []
        for number in range(given.connections):
            connections.append(receiver.connect())
            if number % 2:
                connections[-1].sendall(begun)
        times_s = []
        answers = set()
        for number in range(GOOD):
            began_s = time.perf_counter()
            answers.add(receiver.post(b"%d" % number, f"Idempotency-Key: {number}")[0])
            times_s.append(time.perf_counter() - began_s)
        grown_mb = receiver.memory_mb() - before_mb
        logged = values_in(receiver.location)
    print(f"{given.connections} connections: {grown_mb:.0f} MB more, {1000 * grown_mb / given.connections:.1f} KB each")
    print(
        f"good requests: {sorted(times_s)[GOOD // 2] * 1000:.0f} ms in the median, {max(times_s) * 1000:.0f} ms at most"
    )
    is_right = answers == {200} and logged == [b"%d" % number for number in range(GOOD)]
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
