"""The hash of keys is fixed by the storage format, and spreads them evenly."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.state.hashing import MAX_BYTES_IN_WORDS, hash_keys
from support.state_rows import SEED, large

ALL_BITS = (1 << 64) - 1


def spelled_out(key: bytes, seed: bytes) -> int:
    """The hash as the storage format says it, one key at a time."""
    first, second = (int.from_bytes(half, "little") for half in (seed[:8], seed[8:]))
    state = (len(key) * 0x9E3779B97F4A7C15) & ALL_BITS ^ first
    if len(key) > MAX_BYTES_IN_WORDS:
        key = hashlib.blake2b(key, digest_size=32, key=seed).digest()
    for at in range(0, len(key), 8):
        state ^= int.from_bytes(key[at : at + 8], "little")
        for factor in (0x9E3779B97F4A7C15, 0xC13FA9A902A6328F):
            state = ((state ^ state >> 32) * factor) & ALL_BITS
        state ^= state >> 32 ^ second
    return state


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"", 0x0706050403020100),
        (b"\0", 0xE0950E7B4E5F7EB6),
        (b"a", 0x01B0CA4B5D726964),
        (b"12345678", 0xE658601741F7A427),
        (b"123456789", 0xFB85AC9544030CEA),
        (b"x" * 256, 0x3C24111E287EC972),
        (b"x" * 257, 0xB66C1497563D7FD3),
        (bytes(range(256)) * 4096, 0xEFE6432C27F31113),
    ],
)
def test_hashes_never_change(key: bytes, expected: int) -> None:
    assert hash_keys(large([key]), SEED).tolist() == [expected]


@given(
    st.lists(st.binary(max_size=20) | st.binary(min_size=250, max_size=600), max_size=20),
    st.binary(min_size=16, max_size=16),
)
def test_keys_are_hashed_together_as_one_by_one(keys: list[bytes], seed: bytes) -> None:
    assert hash_keys(large(keys), seed).tolist() == [spelled_out(key, seed) for key in keys]


@given(st.lists(st.binary(max_size=20) | st.just(b"x" * 300), max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_a_slice_of_keys_has_the_hashes_of_its_own(keys: list[bytes], start: int, stop: int) -> None:
    hashes = hash_keys(large([b"before", *keys]).slice(1 + min(start, len(keys))).slice(0, stop), SEED)
    assert hashes.tolist() == hash_keys(large(keys[start:][:stop]), SEED).tolist()


def test_no_keys_have_no_hashes() -> None:
    assert hash_keys(large([]), SEED).tolist() == []
    assert hash_keys(large([b"a", b"b"]).slice(1, 0), SEED).tolist() == []


def test_another_seed_makes_other_hashes() -> None:
    keys = large([b"a", b"b", b"x" * 300])
    for position in range(16):
        seed = bytearray(SEED)
        seed[position] ^= 1
        assert not (hash_keys(keys, bytes(seed)) == hash_keys(keys, SEED)).any()


@pytest.mark.parametrize("form", ["{}", "user-{:012}", "{:x}"])
def test_keys_that_count_up_fall_into_all_slices_alike(form: str) -> None:
    hashes = hash_keys(large(form.format(number).encode() for number in range(65_536)), SEED)

    in_slice = np.bincount((hashes >> np.uint64(56)).astype(np.int64), minlength=256)
    assert len(np.unique(hashes)) == 65_536
    assert in_slice.min() > 256 * 0.7
    assert in_slice.max() < 256 * 1.3


def test_a_seed_of_another_length_and_nulls_are_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        hash_keys(large([b"a"]), b"short")
    with pytest.raises(ValueError, match="without nulls"):
        hash_keys(large([b"a", None]), SEED)
