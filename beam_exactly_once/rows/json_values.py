"""What JSON cannot say, though a writer of JSON would say something: found, and refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_NAMES = {None: "null", True: "true", False: "false"}


def refuse_null_numbers(text: bytes, value: Any) -> None:
    """Refuse NaN and infinities, which orjson writes as ``null``.

    Args:
        text: the JSON that was made of ``value``: where it has no ``null``, nothing is looked for.

    Raises:
        ValueError: ``value`` holds one.
    """
    if b"null" in text and _holds_null_number(value):
        raise ValueError("NaN and infinities are not JSON")


def _holds_null_number(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(map(_holds_null_number, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_holds_null_number, value))


def refuse_equal_names(fields: Mapping[Any, Any]) -> None:
    """Refuse keys that become one name, such as ``1`` and ``"1"``.

    Raises:
        ValueError: two of them do.
    """
    names = {_NAMES.get(key, str(key)) if key is None or isinstance(key, bool) else str(key) for key in fields}
    if len(names) < len(fields):
        raise ValueError("two keys have one name in JSON")
