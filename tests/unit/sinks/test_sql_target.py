"""A table as a user names it, and as it is named back."""

from __future__ import annotations

import pytest

from beam_exactly_once.sinks.sql.target import SqlTarget, table_parts


@pytest.mark.parametrize(
    ("text", "name", "namespace", "full_name"),
    [
        ("orders", "orders", None, "orders"),
        ("sales.orders", "orders", "sales", "sales.orders"),
        ('"sales".orders', "orders", "sales", "sales.orders"),
        ('"orders.v2"', "orders.v2", None, '"orders.v2"'),
        ('"my.sales"."a ""b"""', 'a "b"', "my.sales", '"my.sales"."a ""b"""'),
        ("Orders of today", "Orders of today", None, "Orders of today"),
    ],
)
def test_a_table_with_its_namespace(text: str, name: str, namespace: str | None, full_name: str) -> None:
    assert table_parts(text) == (name, namespace)
    target = SqlTarget(*table_parts(text), None, "append", (), None, None, 1)
    assert target.full_name == full_name
    assert table_parts(full_name) == (name, namespace)


def test_what_is_compared() -> None:
    upsert = SqlTarget("orders", None, None, "upsert", ("id", "day"), "at", None, 1)
    assert upsert.compared_columns == ("id", "day", "at")
