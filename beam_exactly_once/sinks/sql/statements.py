"""How large a statement of MySQL or MariaDB may be: a server hangs up on one that is larger, and says nothing. Pure."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_BESIDE_ROWS, _BESIDE_A_VALUE = 200, 80
"""Bytes of a statement that are no text of a row, at most."""
_ESCAPED = b"\0\n\r\x1a\"'\\"
"""Characters that a driver writes as two."""


def larger_than(batch: pa.RecordBatch, max_bytes: int) -> int | None:
    """The bytes of a statement that writes one row, of the first row that needs one of more than ``max_bytes``."""
    beside = _BESIDE_ROWS + sum(_BESIDE_A_VALUE + 3 * len(name.encode()) for name in batch.schema.names)
    if 2 * batch.nbytes + beside <= max_bytes:
        return None
    texts = [one for one in batch.columns if pa.types.is_string(one.type) or pa.types.is_binary(one.type)]
    for row in range(batch.num_rows):
        lengths = [pc.binary_length(text[row]).as_py() or 0 for text in texts]
        if 2 * sum(lengths) + beside <= max_bytes:
            continue
        needed = beside + sum(lengths) + sum(map(_escapes, (text[row] for text in texts)))
        if needed > max_bytes:
            return needed
    return None


def _escapes(text: pa.Scalar) -> int:
    body = text.as_buffer()
    return 0 if body is None else sum(map(body.to_pybytes().count, (bytes([one]) for one in _ESCAPED)))
