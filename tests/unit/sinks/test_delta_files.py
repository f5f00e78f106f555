"""Whose data file a name in a Delta table is, and of which batch."""

from __future__ import annotations

import pytest

from beam_exactly_once.sinks.delta.files import batch_id_of_file


@pytest.mark.parametrize(
    ("name", "batch_id"),
    [
        ("part-00000000000000000007-00aa11bb22cc33dd-0123456789abcdef-00000.0a1b.parquet", 7),
        ("a=x%20y/b=1/part-00000000000000000007-00aa11bb22cc33dd-0123456789abcdef-00000.0a1b.parquet", 7),
        ("part-00000000000000000007-00aa11bb22cc33dd-0123456789abcdef-00000.ffff.parquet", None),
        ("part-00000000000000000007-00aa11bb22cc33dd-0123456789abcdef-00000.parquet", None),
        ("part-00001-e2c0.0a1b.parquet", None),
        ("_delta_log/00000000000000000007.json", None),
    ],
)
def test_whose_file_it_is(name: str, batch_id: int | None) -> None:
    assert batch_id_of_file(name, "0a1b") == batch_id
