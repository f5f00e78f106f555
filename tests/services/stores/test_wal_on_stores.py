"""A write-ahead log on an S3 server and on a GCS server.

What only they can show is the order of their listings, and that one request decides about a segment of full size.
"""

from __future__ import annotations

import asyncio
import secrets

import pytest

from beam_exactly_once import TopicPartition, WalWriter
from beam_exactly_once.errors import Fenced
from beam_exactly_once.logs import Record
from beam_exactly_once.object_store import ObjectStore, open_object_store
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.log import WalLog
from beam_exactly_once.wal.readers import WalReader
from beam_exactly_once.wal.sweeping import Sweeper

WAL = TopicPartition("wal", 0)
LARGE = [bytes([number]) * 990_000 for number in range(8)]


@pytest.fixture(params=["bucket", "gcs_bucket"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    return open_object_store(f"{request.getfixturevalue(request.param)}/{secrets.token_hex(8)}")


def records(store: ObjectStore) -> list[Record]:
    log = WalLog(store, "wal")
    bounds = log.bounds([WAL])[WAL]
    position, found = bounds.earliest, list[Record]()
    while position < bounds.latest:
        chunk = log.next_chunk(WAL, position, bounds.latest)
        found += chunk.records()
        position = chunk.stop
    return found


def test_a_log_on_a_real_store(store: ObjectStore) -> None:
    """Segments, one of them of full size; a newer writer that knows the ids and fences; retention."""
    names = [b"%d" % number for number in range(12)]

    async def write() -> None:
        async with WalWriter(store.uri) as old:
            for name in names[:6]:
                await old.append([name], ids=[name])
            await old.append(LARGE)
            async with WalWriter(store.uri) as new:
                with pytest.raises(Fenced):
                    await old.append([b"late"], ids=[b"late"])
                again = await asyncio.gather(*(new.append([name], ids=[name]) for name in names))
                assert sum(one.duplicates for one in again) == 6

    asyncio.run(write())
    assert [one.value for one in records(store)] == [*names[:6], *LARGE, *names[6:]]

    location = WalLocation.on(store)
    reader = WalReader(location, "stream", "source")
    reader.hold()
    reader.finished(0, {0: 10})
    assert Sweeper(location).sweep(0).segments == 0  # ids are needed

    async def claim_again() -> None:
        async with WalWriter(store.uri, id_window=100_000) as wal:
            wal._writer.page_offsets = 1
            await wal.append([b"last"])

    asyncio.run(claim_again())  # its page has the ids
    assert Sweeper(location).sweep(0).floor == 7
    assert [one.value for one in records(store)] == [*LARGE, *names[6:], b"last"]
