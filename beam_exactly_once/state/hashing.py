"""The hash of a key, which decides its slice and where its rows stand. Pure.

It is part of the storage format: one key with one seed has the same hash on every machine, for ever. It finds candidates, and
the bytes of the key decide: different keys of one hash cost a little time, and are never taken for each other. The seed is
random, so that nobody can send keys that all fall into one slice.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

SEED_BYTES = 16
MAX_BYTES_IN_WORDS = 256
"""Of longer keys a digest is hashed: each word of the longest key is one step for the whole chunk."""

Hashes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"
Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

_WORD_BYTES = 8
# Odd, with bits that look random: of the golden ratio, and of the plastic number.
_GOLDEN, _PLASTIC = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC13FA9A902A6328F)
_HALF = np.uint64(32)
_FIRST_BYTES = np.array([(1 << 8 * count) - 1 for count in range(_WORD_BYTES + 1)], np.uint64)
"""What keeps the first 0 to 8 bytes of a word."""


def hash_keys(keys: pa.LargeBinaryArray, seed: bytes) -> Hashes:
    """The hash of each key.

    It begins as the key's length times a constant, with the first half of the seed. It takes in the key word by word: 8 bytes
    in little-endian order, the last word filled up with zeros. Of a key of more than 256 bytes, it takes in a BLAKE2b digest.

    Args:
        keys: encoded keys, without nulls.
        seed: 16 bytes, random for each operator and never changed.
    """
    if len(seed) != SEED_BYTES or keys.null_count:
        raise ValueError(f"keys are without nulls, and a seed has {SEED_BYTES} bytes")
    first, second = np.frombuffer(seed, "<u8").astype(np.uint64)
    offsets = offsets_of(keys)
    lengths = offsets[1:] - offsets[:-1]
    hashes: Hashes = (lengths.astype(np.uint64) * _GOLDEN) ^ first
    is_long = lengths > MAX_BYTES_IN_WORDS
    if not is_long.any():
        return _with_keys(hashes, keys, second)
    digests = [
        hashlib.blake2b(keys[row].as_buffer(), digest_size=32, key=seed).digest()
        for row in np.flatnonzero(is_long).tolist()
    ]
    hashes[is_long] = _with_keys(hashes[is_long], pa.array(digests, pa.large_binary()), second)
    hashes[~is_long] = _with_keys(hashes[~is_long], keys.filter(pa.array(~is_long)), second)
    return hashes


def offsets_of(values: pa.LargeBinaryArray) -> Numbers:
    """Where each value begins in the buffer of its array; at last, where the last one ends."""
    buffer = values.buffers()[1]
    if not len(values):  # then there need not be a buffer
        return np.zeros(1, np.int64)
    return np.frombuffer(buffer, np.int64, count=len(values) + 1, offset=8 * values.offset)


def _with_keys(hashes: Hashes, keys: pa.LargeBinaryArray, second: np.uint64) -> Hashes:
    """``hashes``, each of which has taken in its key."""
    offsets = offsets_of(keys)
    begin, end = int(offsets[0]), int(offsets[-1])
    data = np.zeros(end - begin + _WORD_BYTES, np.uint8)
    if end > begin:
        data[:-_WORD_BYTES] = np.frombuffer(keys.buffers()[2], np.uint8, count=end - begin, offset=begin)
    words = np.ndarray((end - begin + 1,), "<u8", buffer=data.data, strides=(1,))  # one from each byte on
    taken = 0
    rows, lengths, starts = np.arange(len(keys)), offsets[1:] - offsets[:-1], offsets[:-1] - begin
    while True:
        goes_on = lengths > taken
        if not goes_on.all():
            rows, lengths, starts = rows[goes_on], lengths[goes_on], starts[goes_on]
        if not len(rows):
            return hashes
        word = words[starts + taken] & _FIRST_BYTES[np.minimum(lengths - taken, _WORD_BYTES)]
        hashes[rows] = _mixed(hashes[rows] ^ word) ^ second
        taken += _WORD_BYTES


def _mixed(state: Hashes) -> Hashes:
    """Every bit of it depends on every bit that it was, and no two become one."""
    for factor in (_GOLDEN, _PLASTIC):
        state ^= state >> _HALF
        state *= factor
    state ^= state >> _HALF
    return state
