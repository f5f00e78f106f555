"""The example of ``deploy/receive``, really run: nginx, and a receiver of each partition that is killed while senders go on.

    python tests/wal_kills/behind_proxy.py --kills 20

Receivers get the flags of the example's unit, and nginx its configuration; only addresses, files and the location are of this
machine. A receiver that was killed with SIGKILL is started again a second later, as the unit says, without systemd. In the end
every record that was answered 200 is once in one of the two partitions, every other one with an id at most once. Exits with 1 if
not. The first run downloads Debian's nginx.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shlex
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its names are its own

from services.launch.debian import libraries, unpacked
from services.launch.server import Server, free_ports
from support.servers.certificates import Authority
from support.wal.receiver_process import TOKEN, ReceiverProcess, values_in
from wal_kills.run import SENDERS, progress
from wal_kills.senders import Senders, Told

EXAMPLE = Path(__file__).parents[2] / "deploy" / "receive"
PARTITIONS = (0, 1)
RESTART_S = 1.0
"""``RestartSec`` of the unit."""


@contextmanager
def nginx(folder: Path, certificate: Path, port: int, upstreams: dict[str, int]) -> Iterator[None]:
    """The example's proxy.

    Args:
        folder: for its files.
        certificate: and its key, as one PEM file.
        port: where it listens.
        upstreams: ports of receivers, by those that the example has.
    """
    root = unpacked("nginx")
    conf = (EXAMPLE / "nginx.conf").read_text().replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    conf = re.sub(r"/etc/receive/(cert|key)\.pem", str(certificate), conf)
    for old, new in upstreams.items():
        conf = conf.replace(f"server 127.0.0.1:{old} ", f"server 127.0.0.1:{new} ")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in kinds) + "    access_log off;\n"
    (folder / "nginx.conf").write_text(conf.replace("http {\n", f"http {{\n{own}"))
    command = [str(root / "usr/sbin/nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    server = Server("nginx")
    try:
        running = f"daemon off; pid {folder}/pid; user root;"
        server.start([*command, "-g", running], libraries(root), lambda: (folder / "pid").exists())
        yield
    finally:
        server.stop(keep_log=False)


class Receivers:
    """One of each partition, at the ports that the proxy knows."""

    def __init__(self, location: Path) -> None:
        unit = (EXAMPLE / "receiver@.service").read_text()
        (given,) = re.findall(r"^ExecStart=\S+ wal receive \S+ (.*)$", unit, re.MULTILINE)
        own = ("--partition", "--listen", "--token")
        self._flags = [flag for flag in shlex.split(given) if not flag.startswith(own)]
        self._location = location
        self.ports = dict(zip(PARTITIONS, free_ports(len(PARTITIONS)), strict=True))
        self.running: dict[int, ReceiverProcess] = {}

    def start(self, partition: int) -> None:
        flags = (*self._flags, f"--partition={partition}")
        one = ReceiverProcess(self._location, *flags, port=self.ports[partition])
        self.running[partition] = one.wait_until_it_listens()


async def run(folder: Path, kills: int, seed: int) -> tuple[Told, list[str]]:
    """What senders were told, and where the log is not as was told."""
    chance = random.Random(seed)
    certificate = Authority(folder, "ca").issue("proxy")
    trust = ssl.create_default_context(cafile=folder / "ca.pem")
    loop = asyncio.get_running_loop()
    receivers = Receivers(folder / "log")
    (port,) = free_ports(1)
    with ExitStack() as ending:
        for partition in PARTITIONS:
            receivers.start(partition)
            ending.callback(lambda partition=partition: receivers.running[partition].kill())
        upstreams = {f"844{partition}": receivers.ports[partition] for partition in PARTITIONS}
        ending.enter_context(nginx(folder, certificate, port, upstreams))
        senders = Senders(lambda: [port], random.Random(seed + 1), token=TOKEN, trust=trust)
        tasks = [asyncio.create_task(senders.send_for_ever()) for _ in range(SENDERS)]
        for _ in range(kills):
            await progress(senders, tasks)
            partition = chance.choice(PARTITIONS)
            receivers.running[partition].kill()
            await asyncio.sleep(RESTART_S)
            await loop.run_in_executor(None, receivers.start, partition)
        await progress(senders, tasks)
        senders.is_ending = True
        await asyncio.gather(*tasks)
        for one in receivers.running.values():
            assert await loop.run_in_executor(None, one.end) == 0
    logged = [values_in(folder / "log", partition) for partition in PARTITIONS]
    assert all(logged)
    return senders.told, senders.told.faults([value for values in logged for value in values])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told, faults = asyncio.run(run(Path(folder), given.kills, given.seed))
    print(
        f"seed {given.seed}: {given.kills} kills; {len(told.acknowledged)} records answered, {told.duplicates} as duplicates, "
        f"{told.unknown} requests without a 200"
    )
    print("; ".join(faults) or "0 lost, 0 twice: each is in one partition once, and no other with an id twice")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
