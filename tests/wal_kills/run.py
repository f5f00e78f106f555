"""Kills, freezes and take-overs of a receiver that really runs, under senders that try again.

    python tests/wal_kills/run.py --kills 500 --seed 1
    python tests/wal_kills/run.py --store full --away-s 60
    python tests/services/run.py s3 -- python tests/wal_kills/run.py --store s3 --away-s 60

A kill is SIGKILL, and a new receiver. A freeze is SIGSTOP, and a new receiver; the frozen one is woken later, and is fenced. A
take-over is a new receiver beside the old one. With ``--store full`` the log is on a small disk, which gets full before some of
these. With ``s3`` and ``gcs`` the server is away before some of these, and at all times a proxy loses answers of writes, lets
writes land late, and refuses some.

In the end every record that was answered 200 is in the log once, every other one with an id at most once, and nothing else is.
Exits with 1 if not. The seed draws what is done; when, the machine decides.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its names are its own

from support.wal.receiver_process import values_in
from wal_kills.places import Place, place
from wal_kills.receivers import Receiver
from wal_kills.senders import Senders, Told

SENDERS = 16
ANSWERED_BETWEEN = 12
"""So many records are answered before the next receiver is killed: each has been at work."""


async def run(
    folder: Path, place: Place, kills: int, seed: int, *, away_s: float = 0.0, show: bool = False
) -> tuple[Told, Counter[str], list[str]]:
    """What senders were told, what was done to receivers and their store, and where the log is not as was told.

    Args:
        folder: for what is not the log.
        place: of the log; empty.
        kills: how often something is done to a receiver.
        seed: draws what.
        away_s: once the store fails so long.
        show: whether to say how far it is.
    """
    chance = random.Random(seed)
    loop = asyncio.get_running_loop()

    async def start() -> Receiver:
        return await loop.run_in_executor(None, Receiver, folder, place)

    receivers = [await start()]
    senders = Senders(lambda: [one.port for one in receivers], random.Random(seed + 1))
    tasks = [asyncio.create_task(senders.send_for_ever()) for _ in range(SENDERS)]
    done: Counter[str] = Counter()
    for number in range(kills):
        await progress(senders, tasks)
        await asyncio.sleep(chance.uniform(0, 0.02))
        what = chance.choices(["kill", "freeze", "take over"], [60, 30, 10])[0]
        done[what] += 1
        is_long = away_s > 0 and number == kills // 2
        if place.trouble and (is_long or chance.random() < 0.1):
            done[place.trouble] += 1
            place.fail()
            await asyncio.sleep(away_s if is_long else chance.uniform(0.1, 3))
        newest = receivers[-1]
        if what == "kill":
            newest.kill()
        elif what == "freeze":
            newest.freeze()
        if place.trouble:
            place.heal()
        receivers.append(await start())
        for one in receivers[:-1]:
            if one.is_frozen and chance.random() < 0.5:
                one.wake()
        receivers = [one for one in receivers if not one.has_ended]
        if show and number % 50 == 49:
            print(f"{number + 1} of {kills}: {len(senders.told.acknowledged)} records answered", flush=True)
    for one in receivers:
        one.wake()
    await progress(senders, tasks)
    senders.is_ending = True
    await asyncio.gather(*tasks)
    for one in receivers:
        await loop.run_in_executor(None, partial(one.end, is_newest=one is receivers[-1]))
    return senders.told, done, senders.told.faults(values_in(place.location))


async def progress(senders: Senders, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until some more records are answered."""
    wanted = len(senders.told.acknowledged) + ANSWERED_BETWEEN
    while len(senders.told.acknowledged) < wanted:
        for task in tasks:
            if task.done():
                task.result()
        await asyncio.sleep(0.001)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=["local", "full", "s3", "gcs"], default="local")
    parser.add_argument("--away-s", type=float, default=0.0, help="so long the store fails once, in the middle")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, place(given.store, Path(name)) as where:
        done_to = run(Path(name), where, given.kills, given.seed, away_s=given.away_s, show=True)
        told, done, faults = asyncio.run(done_to)
    print(
        f"seed {given.seed}, {given.store}: {dict(done)}; {len(told.acknowledged)} records answered, {told.duplicates} as "
        f"duplicates, {told.unknown} requests without a 200"
    )
    print("; ".join(faults) or "0 lost, 0 twice: each is in the log once, and no other with an id twice")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
