"""Rows of state as plain Python values: what runs are made of and compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from beam_exactly_once.state.hashing import Hashes, hash_keys
from beam_exactly_once.state.run import NEVER, TOMBSTONE, Run

SEED = bytes(range(16))


class Row(NamedTuple):
    """One row; its value is None where its key is deleted."""

    key: bytes
    subkey: bytes
    value: bytes | None
    expiry_ms: int = NEVER

    @property
    def name(self) -> tuple[bytes, bytes]:
        return self.key, self.subkey


def large(values: Iterable[bytes | None]) -> pa.LargeBinaryArray:
    return pa.array(list(values), pa.large_binary())


def hashes_of(keys: pa.LargeBinaryArray, bits: int = 64) -> Hashes:
    """Of few bits, so that different keys have one hash."""
    return hash_keys(keys, SEED) & np.uint64(((1 << bits) - 1) << (64 - bits))


def run_of(rows: Sequence[Row], bits: int = 64) -> Run:
    keys = large(row.key for row in rows)
    return Run.of(
        hashes_of(keys, bits),
        keys,
        large(row.value for row in rows),
        np.array([TOMBSTONE if row.value is None else 1 for row in rows], np.uint8),
        subkeys=large(row.subkey for row in rows),
        expiry_ms=np.array([row.expiry_ms for row in rows], np.int64),
    )


def rows_of(run: Run) -> list[Row]:
    """In the run's order."""
    columns = (run.keys.to_pylist(), run.subkeys.to_pylist(), run.values.to_pylist(), run.expiry_ms.tolist())
    return [Row(*row) for row in zip(*columns, strict=True)]


def rows_with(subkeys: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[Row]]:
    """Rows of few keys that differ in length and in their last bytes alone, each key and subkey once."""
    keys = st.sampled_from([b"", b"\0", b"a", b"a\0", b"a\0\0", b"b", b"\xff" * 8, b"\xff" * 9, b"k" * 300, b"k" * 299])
    values = st.none() | st.sampled_from([b"", b"value", b"\0" * 20])
    expiries = st.just(NEVER) | st.integers(0, 6)
    row = st.builds(Row, keys, subkeys, values, expiries)
    return st.lists(row, max_size=20, unique_by=lambda row: row.name)
