"""Memory that allocators keep of rows that are gone."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pyarrow as pa

LARGE_ROWS = 1 << 17
"""Behind so many rows it is worth 5 to 15 ms of CPU; they took twenty times as long."""


def _trim_of_libc() -> Callable[[int], Any] | None:
    try:
        found: Callable[[int], Any] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # there is no library without a name on Windows
        return None
    return found


_TRIM = _trim_of_libc()  # glibc has it; other libraries give memory back by themselves


def give_back_memory(rows: int) -> None:
    """Let Arrow and libc give back to the system what they keep for the next rows, if there were many.

    Args:
        rows: that were in memory, and are gone.
    """
    if rows >= LARGE_ROWS:
        pa.default_memory_pool().release_unused()
        if _TRIM is not None:
            _TRIM(0)
