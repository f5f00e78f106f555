"""Fixtures of the transforms' tests."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """URI of an output that does not exist yet, in each kind of store."""
    return str(tmp_path / "lake" / "orders") if request.param == "local" else f"memory://{tmp_path.name}/orders"
