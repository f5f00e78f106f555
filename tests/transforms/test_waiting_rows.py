"""Rows of a shard that are too many for memory wait in a file, and come out as if they had not."""

from __future__ import annotations

import secrets
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from beam_exactly_once import StateCache
from beam_exactly_once.checkpoint import Attempt, Checkpoint, StreamWriter
from beam_exactly_once.errors import Retryable
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.object_store.store_location import StoreLocation
from beam_exactly_once.state.near import cache_folder
from beam_exactly_once.state.shard_seed import ShardSeed
from beam_exactly_once.state.state_list import StateList
from beam_exactly_once.state.updates import grouped, lifted
from beam_exactly_once.transforms.stateful import keyed_state
from beam_exactly_once.transforms.stateful.by_key import StatefulCombinePerKey, UpdateStateByKey
from beam_exactly_once.transforms.stateful.keyed_state import GatherPairs, UpdateShards, _KeyedChunkCoder

SEED = bytes(range(16)).hex()
OPERATORS = {
    "a function": UpdateStateByKey(lambda values, state: (state or 0) + sum(values), name="counts"),
    "columns": StatefulCombinePerKey(sum, name="counts"),
    "combined": StatefulCombinePerKey(lambda values: sum(values), name="counts"),
}


class Stream:
    """One operator, all of it one shard, batch by batch through the step of the graph."""

    def __init__(self, step: Any, folder: Path, max_memory_bytes: int) -> None:
        self.update = step._update()
        location = StoreLocation(f"memory://{secrets.token_hex(8)}", None)
        self.checkpoint = Checkpoint.open(open_object_store(location.uri))
        self.writer = StreamWriter.claim(self.checkpoint, owner="test", claimed_at_ms=0)
        cache = StateCache(str(folder), max_memory_bytes=max_memory_bytes)
        self.do_fn = UpdateShards("counts", self.update, location, cache)
        self.list = StateList.empty(slices=4)
        self.batch_id = 0

    def run(self, *parts: Sequence[tuple[Any, int]]) -> dict[Any, int]:
        attempt, coder = Attempt(self.writer.writer_epoch, self.batch_id, f"{self.batch_id:08x}"), _KeyedChunkCoder()
        seed = ShardSeed(self.checkpoint.stream_id, attempt, SEED, self.list.slices, 0, 0, 0)
        sent: list[Any] = []
        for part in parts:
            keys, values = ([pair[place] for pair in part] for place in (0, 1))
            chunk = lifted(self.update, grouped(self.update, (keys, values), SEED, "counts"))
            sent.append(coder.decode(coder.encode(chunk)))
        sent.insert(len(sent) // 2, seed)
        self.do_fn.start_bundle()
        emitted = list(self.do_fn.process((0, sent)))
        (report,) = self.do_fn.finish_bundle()
        change = report.value.value[1]
        rows = sum(map(len, parts))
        self.list = self.list.behind([change], operator="counts", attempt=attempt, fired_ms=0, rows_sent=rows)
        self.batch_id += 1
        assert len(emitted) == len(dict(emitted))
        return dict(emitted)


@pytest.fixture(autouse=True)
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_folder, "MOUNTS", tmp_path / "no mounts")


@pytest.mark.parametrize("step", OPERATORS.values(), ids=OPERATORS)
def test_rows_that_are_too_many_give_what_they_give_in_memory(step: Any, tmp_path: Path) -> None:
    """Slices are cut for them once; keys that came before are found again."""
    few = Stream(step, tmp_path / "few", max_memory_bytes=3000)
    totals: Counter[int] = Counter()
    for batch in range(3):
        parts = [[(key, key) for key in range(start, 900, 7 + batch)] for start in range(6)]
        for part in parts:
            totals.update(dict(part))
        keys = {key for part in parts for key, _ in part}
        assert few.run(*parts) == {key: totals[key] for key in keys}
    assert few.list.keys == len(totals)
    assert 4 < len(few.list.slices) <= 64
    assert few.run([(key, 0) for key in totals]) == totals


def test_rows_of_one_key_stay_together(tmp_path: Path) -> None:
    """However many they are: a function gets all of them at once."""
    calls: list[int] = []

    def total(values: list[int], state: int | None) -> int:
        calls.append(len(values))
        return (state or 0) + sum(values)

    stream = Stream(UpdateStateByKey(total, name="counts"), tmp_path, max_memory_bytes=1000)
    assert stream.run(*[[("hot", 1)] * 400 for _ in range(5)]) == {"hot": 2000}
    assert calls == [2000]


def test_a_full_disk_is_said_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        seek = flush = close = staticmethod(lambda *_: None)

        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    stream = Stream(OPERATORS["a function"], tmp_path, max_memory_bytes=100)
    with pytest.raises(Retryable, match=r"cannot hold them \(No space left on device\).*StateCache\(location=…\)"):
        stream.run([(key, 1) for key in range(50)])


def test_what_is_gathered_is_bounded_by_rows_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyed_state, "MAX_CHUNK_ROWS", 3000)
    monkeypatch.setattr(keyed_state, "MAX_CHUNK_BYTES", 100_000)

    def gathered(*values: Any) -> list[int]:
        gather = GatherPairs()
        gather.start_bundle()
        given = [keys for value in values for keys, _ in gather.process(("key", value)) or ()]
        return [len(keys) for keys in given] + [len(one.value[0]) for one in gather.finish_bundle()]

    assert gathered(*[1] * 7000) == [3000, 3000, 1000]
    assert gathered(*[b"x" * 200_000] * 3) == [1, 1, 1]
    sizes = gathered(*[b"x" * 1000] * 250)
    assert sum(sizes) == 250
    assert max(sizes) <= 100
    assert gathered(*[lambda: 1] * 5) == [5]  # what cannot travel may be combined where it is
