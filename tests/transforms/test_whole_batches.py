"""A commit takes what was gathered only if it is all that there is."""

from __future__ import annotations

import orjson
import pytest

from beam_exactly_once.checkpoint import Attempt
from beam_exactly_once.errors import IncompleteBatch
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.commit_batch import _sorted_out
from beam_exactly_once.transforms.stream_graph import COMMITTABLE, PIECE, REJECTED_COUNT, TASK

SEED = (TASK, "", BatchTask("stream", Attempt(1, 7, "nonce"), None).to_json())
STAGED = (COMMITTABLE, "orders", orjson.dumps({"rows": 2, "size_bytes": 9}).decode())
REJECTED = (REJECTED_COUNT, "decode", "3")
COMPLETE = {(COMMITTABLE, "orders"): 2, (REJECTED_COUNT, "decode"): 2}


def test_a_whole_batch_is_taken_in_any_order() -> None:
    batch = _sorted_out([STAGED, REJECTED, SEED, STAGED, REJECTED], COMPLETE)

    assert batch.task.attempt.batch_id == 7
    assert batch.committables == {"orders": [{"rows": 2, "size_bytes": 9}] * 2}
    assert batch.rejected == {"decode": 6}


def test_a_batch_of_which_a_sink_has_nothing_is_whole() -> None:
    assert _sorted_out([SEED], {}).committables == {}


@pytest.mark.parametrize(
    ("gathered", "words"),
    [
        ([], "0 tasks"),
        ([STAGED, STAGED, REJECTED, REJECTED], "0 tasks"),
        ([SEED, SEED, STAGED, STAGED, REJECTED, REJECTED], "2 tasks"),
        ([SEED, STAGED, REJECTED, REJECTED], "1 to the commit where 2 are made .committable of 'orders'."),
        ([SEED, REJECTED, REJECTED], "0 to the commit where 2 are made .committable of 'orders'."),
        ([SEED, STAGED, STAGED, STAGED, REJECTED, REJECTED], "3 to the commit where 2 are made"),
        ([SEED, STAGED, STAGED, REJECTED], "where 2 are made .rejected of 'decode'."),
        ([SEED, STAGED, STAGED, REJECTED, REJECTED, (PIECE, "", "{}")], "1 to the commit where 0 are made .piece."),
    ],
)
def test_anything_else_is_not_committed(gathered: list[tuple[str, str, str]], words: str) -> None:
    with pytest.raises(IncompleteBatch, match=words) as refused:
        _sorted_out(gathered, COMPLETE)
    assert "Nothing was committed" in str(refused.value)
