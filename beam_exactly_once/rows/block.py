"""``Block``: many rows on their way to what a sink stages."""

from __future__ import annotations

from typing import Any, TypeAlias

Block: TypeAlias = Any
"""Rows on their way to a file: a ``pa.RecordBatch`` for Parquet and CSV; their number and their lines for JSON and text. A
plain tuple, which every coder knows, should a runner not fuse."""


def block_bytes(block: Block) -> int:
    """Size of a block in memory."""
    return len(block[1]) if isinstance(block, tuple) else int(block.nbytes)


def block_rows(block: Block) -> int:
    """Rows in a block."""
    return int(block[0]) if isinstance(block, tuple) else int(block.num_rows)
