"""Streams that read a write-ahead log in a folder: filled by its writer, swept, and read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from beam_exactly_once import ExactlyOnceStream, ReadFromWal, WalWriter, WriteToFiles
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.sweeping import Sweeper

Place: TypeAlias = str | Path
"""The folder of all that belongs to a test, or a URI."""
LOG = "hooks"
"""The folder of the log, and so its topic."""


def append(work_dir: Place, values: Iterable[bytes], partition: int = 0, records_a_segment: int = 4) -> None:
    """One life of a writer. Its claim takes an offset, too. No ids are kept, so that a sweep may take all that was read."""
    waiting = list(values)

    async def write() -> None:
        async with WalWriter(f"{work_dir}/{LOG}", partition=partition, id_window=0) as writer:
            for first in range(0, len(waiting), records_a_segment):
                await writer.append(waiting[first : first + records_a_segment])

    asyncio.run(write())


def numbers(*several: range) -> list[bytes]:
    return [b"%d" % number for one in several for number in one]


def to_files(stream: ExactlyOnceStream, work_dir: Place, output: str = "output", **read: Any) -> None:
    """Log to files, thirty offsets a batch unless ``read`` says otherwise."""
    read = {"max_batch_offsets": 30, "as_arrow": True, **read}
    _ = stream | ReadFromWal(f"{work_dir}/{LOG}", **read) | WriteToFiles(f"{work_dir}/{output}")


def run_to_files(work_dir: Place, checkpoint: str = "checkpoint", output: str = "output", **arguments: Any) -> None:
    """One life in this process; ``arguments`` of the stream are those that begin with ``stream_``."""
    of_stream = {name.removeprefix("stream_"): value for name, value in arguments.items() if name.startswith("stream_")}
    of_source = {name: value for name, value in arguments.items() if not name.startswith("stream_")}
    with ExactlyOnceStream(f"{work_dir}/{checkpoint}", **of_stream) as stream:
        to_files(stream, work_dir, output, **of_source)


def location(work_dir: Place) -> WalLocation:
    return WalLocation.on(open_object_store(f"{work_dir}/{LOG}"))


def sweep(work_dir: Place) -> list[int]:
    """Sweep all partitions; where each begins now."""
    log = location(work_dir)
    sweeper = Sweeper(log)
    return [sweeper.sweep(partition).floor for partition in log.partitions()]


def values_of(found: Sequence[bytes]) -> list[int]:
    return sorted(int(value) for value in found)
