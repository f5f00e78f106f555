"""Keys of windows, as state is sorted by them: the bytes of the user's key, then eight of the window's end. Pure.

They have the hash of the user's key alone, so that all windows of a key are with one worker, beside each other. The end is stored
as a big-endian number above the least one of 64 bits: bytes in order are ends in order.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.state.hashing import Numbers, offsets_of

END_BYTES = 8
_LEAST = np.uint64(1 << 63)


def with_ends(keys: pa.LargeBinaryArray, ends_ms: Numbers) -> pa.LargeBinaryArray:
    """The key of each window.

    Args:
        keys: of the user, encoded.
        ends_ms: of the windows.
    """
    data = (ends_ms.astype(np.uint64) ^ _LEAST).astype(">u8").tobytes()
    offsets = pa.py_buffer(np.arange(len(ends_ms) + 1, dtype=np.int64) * END_BYTES)
    ends = pa.Array.from_buffers(pa.large_binary(), len(ends_ms), [None, offsets, pa.py_buffer(data)])
    return pc.binary_join_element_wise(keys, ends, pa.scalar(b"", pa.large_binary()))


def ends_of(window_keys: pa.LargeBinaryArray) -> Numbers:
    """The ends of windows, by their keys."""
    if not len(window_keys):
        return np.zeros(0, np.int64)
    data = np.frombuffer(window_keys.buffers()[2], np.uint8)
    places = offsets_of(window_keys)[1:, None] + np.arange(-END_BYTES, 0)
    biased = np.ascontiguousarray(data[places]).view(">u8").ravel().astype(np.uint64)
    ends: Numbers = (biased ^ _LEAST).astype(np.int64)
    return ends


def user_keys(window_keys: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
    """The keys of the user, encoded."""
    return pc.binary_slice(window_keys, 0, -END_BYTES)
