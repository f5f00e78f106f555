"""A commit takes what was gathered only if it is all that there is."""

from __future__ import annotations

from typing import Any

import pytest

from beam_exactly_once.checkpoint import Attempt, Piece
from beam_exactly_once.errors import IncompleteBatch
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.transforms.batch_task import BatchTask
from beam_exactly_once.transforms.commit_batch import _sorted_out
from beam_exactly_once.transforms.reports import Committable, RejectedCount, ReportCoder, whose

SEED = BatchTask("stream", Attempt(1, 7, "nonce"), None)
STAGED = Committable("orders", {"rows": 2, "size_bytes": 9})
REJECTED = RejectedCount("decode", 3)
READ = Piece("kafka", OffsetRange("orders", 0, 3, 5), 2, 20)
COMPLETE = {whose(STAGED): 2, whose(REJECTED): 2}


def test_a_whole_batch_is_taken_in_any_order() -> None:
    batch = _sorted_out([STAGED, REJECTED, SEED, STAGED, REJECTED], COMPLETE)

    assert batch.task.attempt.batch_id == 7
    assert batch.committables == {"orders": [{"rows": 2, "size_bytes": 9}] * 2}
    assert batch.records_rejected == {"decode": 6}


def test_a_batch_of_which_a_sink_has_nothing_is_whole() -> None:
    assert _sorted_out([SEED], {}).committables == {}


@pytest.mark.parametrize(
    ("gathered", "words"),
    [
        ([], "0 tasks"),
        ([STAGED, STAGED, REJECTED, REJECTED], "0 tasks"),
        ([SEED, SEED, STAGED, STAGED, REJECTED, REJECTED], "2 tasks"),
        ([SEED, STAGED, REJECTED, REJECTED], "1 reports of sink 'orders' to the commit, where 2 are made"),
        ([SEED, REJECTED, REJECTED], "0 reports of sink 'orders' to the commit, where 2 are made"),
        (
            [SEED, STAGED, STAGED, STAGED, REJECTED, REJECTED],
            "3 reports of sink 'orders' to the commit, where 2 are made",
        ),
        ([SEED, STAGED, STAGED, REJECTED], "1 reports of rejecting step 'decode' to the commit, where 2 are made"),
        (
            [SEED, STAGED, STAGED, REJECTED, REJECTED, READ],
            "1 reports of source 'kafka' to the commit, where 0 are made",
        ),
    ],
)
def test_anything_else_is_not_committed(gathered: list[Any], words: str) -> None:
    with pytest.raises(IncompleteBatch, match=words) as refused:
        _sorted_out(gathered, COMPLETE)
    assert "Nothing was committed" in str(refused.value)


@pytest.mark.parametrize("report", [SEED, STAGED, REJECTED, READ], ids=lambda report: type(report).__name__)
def test_reports_travel_as_they_are(report: Any) -> None:
    assert ReportCoder().decode(ReportCoder().encode(report)) == report


def test_what_is_no_report_is_not_encoded() -> None:
    with pytest.raises(TypeError, match="str is not a Report"):
        ReportCoder().encode("text")
