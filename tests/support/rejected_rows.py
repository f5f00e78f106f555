"""What a stream rejected, batch by batch, and what its markers say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from beam_exactly_once import read_batches
from beam_exactly_once.checkpoint import Marker
from support.stream_under_test import opened


def rejected_in(output: Path, *columns: str) -> list[list[tuple[Any, ...]]]:
    """Those of each batch."""
    return [
        sorted(
            (
                tuple(row[name] for name in columns)
                for file in batch.files
                for row in pq.read_table(file.uri.removeprefix("file://")).to_pylist()
            ),
            key=str,
        )
        for batch in read_batches(str(output))
    ]


def markers(location: str) -> list[Marker]:
    checkpoint = opened(location)
    found = [checkpoint.read_marker(batch_id) for batch_id in sorted(checkpoint.marker_ids())]
    return [marker for marker in found if marker is not None]
