"""What another time to live at a later start does to keys that are remembered already."""

from __future__ import annotations

from typing import Any

from beam_exactly_once.transforms.stateful.by_key import DeduplicateByKey
from support.simulation.operator_batches import OperatorBatches


def test_another_time_to_live_holds_for_what_is_stored_from_then_on() -> None:
    operator = OperatorBatches(DeduplicateByKey(ttl_s=60)._update(), slices=1, shards=1)

    def new_at(at_s: int, ttl_s: int | None, *keys: str) -> list[Any]:
        operator.update = DeduplicateByKey(ttl_s=ttl_s)._update()
        return sorted(key for key, _ in operator.run((list(keys), list(keys)), now_ms=1000 * at_s))

    assert new_at(0, 60, "old") == ["old"]
    assert new_at(1, 600, "young", "old") == ["young"]
    assert new_at(60, 600, "young", "old") == ["old"]  # it was stored with a minute
    assert new_at(90, 1, "young", "old") == []  # they were stored with ten
    assert new_at(700, None, "young", "old") == []  # nothing is forgotten
    assert new_at(701, 60, "young", "old") == ["old", "young"]
