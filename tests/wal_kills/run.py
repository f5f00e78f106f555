"""Kills, freezes and take-overs of a receiver that really runs, under senders that try again.

    python tests/wal_kills/run.py --kills 500 --seed 1

A kill is SIGKILL, and a new receiver. A freeze is SIGSTOP, and a new receiver; the frozen one is woken later, and is fenced. A
take-over is a new receiver beside the old one. In the end every record that was answered 200 is in the log once, every other one
with an id at most once, and nothing else is. Exits with 1 if not. The seed draws what is done; when, the machine decides.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder: its names are its own

from support.wal.receiver_process import values_in
from wal_kills.receivers import Receiver
from wal_kills.senders import Senders, Told

SENDERS = 16
ANSWERED_BETWEEN = 12
"""So many records are answered before the next receiver is killed: each has been at work."""


async def run(folder: Path, kills: int, seed: int, *, show: bool = False) -> tuple[Told, Counter[str], list[str]]:
    """What senders were told, what was done to receivers, and where the log is not as was told."""
    chance = random.Random(seed)
    loop = asyncio.get_running_loop()
    receivers = [await loop.run_in_executor(None, Receiver, folder)]
    senders = Senders(lambda: [one.port for one in receivers], random.Random(seed + 1))
    tasks = [asyncio.create_task(senders.send_for_ever()) for _ in range(SENDERS)]
    done: Counter[str] = Counter()
    for number in range(kills):
        await _progress(senders, tasks)
        await asyncio.sleep(chance.uniform(0, 0.02))
        what = chance.choices(["kill", "freeze", "take over"], [60, 30, 10])[0]
        done[what] += 1
        newest = receivers[-1]
        if what == "kill":
            newest.kill()
        elif what == "freeze":
            newest.freeze()
        receivers.append(await loop.run_in_executor(None, Receiver, folder))
        for one in receivers[:-1]:
            if one.is_frozen and chance.random() < 0.5:
                one.wake()
        receivers = [one for one in receivers if not one.has_ended]
        if show and number % 50 == 49:
            print(f"{number + 1} of {kills}: {len(senders.told.acknowledged)} records answered", flush=True)
    for one in receivers:
        one.wake()
    await _progress(senders, tasks)
    senders.is_ending = True
    await asyncio.gather(*tasks)
    for one in receivers:
        await loop.run_in_executor(None, one.end)
    return senders.told, done, senders.told.faults(values_in(folder / "log"))


async def _progress(senders: Senders, tasks: Sequence[asyncio.Task[None]]) -> None:
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
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told, done, faults = asyncio.run(run(Path(folder), given.kills, given.seed, show=True))
    print(
        f"seed {given.seed}: {dict(done)}; {len(told.acknowledged)} records answered, {told.duplicates} as duplicates"
    )
    print("; ".join(faults) or "each is in the log once, and no other with an id twice")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
