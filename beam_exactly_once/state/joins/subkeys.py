"""What tells the rows of one key apart, and sorts them: side, time, batch, and a number. Pure.

A subkey is 20 bytes::

    8 bytes  a bit of the side, 63 of the time: big-endian, so that bytes in order are sides, then times, in order
    8 bytes  the origin of the row: a digest of stream and batch
    4 bytes  a number among the rows of one key, side, time and origin, so that equal rows stay as many as they are

Batches of a stream have different origins, also where one stream goes on with the state of another. A replay has the same one.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from beam_exactly_once.state.hashing import Numbers
from beam_exactly_once.state.joins.interval import Sides
from beam_exactly_once.state.tagged import of_rows, rows_of

Places: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"
"""Side and time as one number."""

PLACE_BYTES = 8
ORIGIN_BYTES = 8
SUBKEY_BYTES = PLACE_BYTES + ORIGIN_BYTES + 4

_SIDE_BIT = np.uint64(63)
_ZERO = 1 << 62
"""As what the time 0 is stored: no time is less than 0 then."""


def places_of(sides: Sides, times_ms: Numbers) -> Places:
    """Side and time of each row."""
    places: Places = (sides.astype(np.uint64) << _SIDE_BIT) | (times_ms + _ZERO).astype(np.uint64)
    return places


def sides_of(places: Places) -> Sides:
    """The sides."""
    sides: Sides = (places >> _SIDE_BIT).astype(np.int64)
    return sides


def times_of(places: Places) -> Numbers:
    """The times."""
    times_ms: Numbers = (places & np.uint64((1 << 63) - 1)).astype(np.int64) - _ZERO
    return times_ms


def encoded(places: Places) -> pa.LargeBinaryArray:
    """Places as what subkeys begin with. In order, they stand before all subkeys of theirs."""
    return of_rows(_bytes_of(places, ">u8"))


def places_in(subkeys: pa.LargeBinaryArray) -> Places:
    """The places of rows, by their subkeys."""
    return decoded(subkeys, SUBKEY_BYTES)


def decoded(column: pa.LargeBinaryArray, width: int) -> Places:
    """The places that values begin with, all of which have so many bytes."""
    if not len(column):
        return np.zeros(0, np.uint64)
    first = np.ascontiguousarray(rows_of(column, width)[:, :PLACE_BYTES])
    return first.view(">u8").ravel().astype(np.uint64)


def origin_of(stream_id: str, batch_id: int) -> bytes:
    """Where the rows of a batch come from."""
    return hashlib.blake2b(f"{stream_id}/{batch_id}".encode(), digest_size=ORIGIN_BYTES).digest()


def subkeys_of(places: Places, origin: bytes, numbers: Numbers) -> pa.LargeBinaryArray:
    """The subkeys of rows of one batch."""
    rows = np.empty((len(places), SUBKEY_BYTES), np.uint8)
    rows[:, :PLACE_BYTES] = _bytes_of(places, ">u8")
    rows[:, PLACE_BYTES:-4] = np.frombuffer(origin, np.uint8)
    rows[:, -4:] = _bytes_of(numbers, ">u4")
    return of_rows(rows)


def _bytes_of(numbers: Places | Numbers, numpy_type: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    stored = numbers.astype(numpy_type)
    data: np.ndarray[Any, np.dtype[np.uint8]] = stored.view(np.uint8).reshape(len(stored), stored.itemsize)
    return data
