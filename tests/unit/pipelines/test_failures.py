"""The error of a failed batch, whatever the exception says and however a runner passes it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once import errors
from beam_exactly_once.checkpoint import Attempt, Marker, Plan, SourcePlan
from beam_exactly_once.errors import BeamExactlyOnceError, DataLoss, StepFailed, StoreUnavailable, UnfitRow
from beam_exactly_once.kafka import at_hand
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.pipelines.failures import batch_failure, failed_step
from beam_exactly_once.transforms.batch_task import BatchTask

READS = OffsetRange("orders", 0, 3, 9)
TEXTS = st.text(alphabet="ab:.'[]\n \t") | st.sampled_from(
    ["row\nid: 7", "Traceback (most recent call last):\n  File x\nRow: 7", "no [while running 'Other'] of ours"]
)


@pytest.fixture(autouse=True, scope="module")
def marked() -> Iterator[None]:
    """As the worker's errors are, once a graph was made."""
    before = errors._mark
    errors.mark_errors("0123456789abcdef")
    yield
    errors.mark_errors(before)


@pytest.fixture(autouse=True)
def nothing_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that other tests drove by hand, and left, are none of these batches'."""
    monkeypatch.setattr(at_hand, "_AT_HAND", {})


def task(*ranges: OffsetRange) -> BatchTask:
    plan = Plan(7, 1, 0, {"kafka": SourcePlan(ranges, (), {})})
    return BatchTask("stream", Attempt(1, 7, "nonce"), plan, None)


def failure_of(
    raised: Exception, failed: BatchTask | None = None, read: Callable[[int], Marker | None] = lambda _: None
) -> BeamExactlyOnceError:
    return batch_failure(raised, failed or task(READS), "s3://checkpoints/orders", read)


def as_beam_raises_it(error: Exception, step: str) -> Exception:
    """In one process: with the step behind its text, and the exception itself as context."""
    raised = RuntimeError(f"{error!r} [while running '{step}']")
    raised._tagged_with_step = True  # type: ignore[attr-defined]
    raised.__context__ = error
    return raised


def as_a_worker_sends_it(error: Exception, step: str) -> Exception:
    """From another process, or a thread that is called as one: a text, in which an error of the library has its mark."""
    error._tagged_with_step = True  # type: ignore[attr-defined]
    frames = 'Traceback (most recent call last):\n  File "orders.py", line 9, in parse\n    return json.loads(value)\n'
    kind = f"{type(error).__module__}.{type(error).__name__}"
    return RuntimeError(
        f"{frames}{kind}: {error}\n\nDuring handling of the above exception, another exception occurred:\n\n"
        f"{frames}RuntimeError: {kind}: {error} [while running '{step}']\n"
    )


LABELS = st.sampled_from(["Parse", "Bob's step", "Map(<lambda at orders.py:9>)/ParDo", 'Say "a" [b]'])


@given(TEXTS, st.sampled_from([as_beam_raises_it, as_a_worker_sends_it]), LABELS)
def test_nothing_of_what_the_exception_says_is_in_the_error(said: str, passed_on: object, label: str) -> None:
    raised = passed_on(ValueError(said), label)  # type: ignore[operator] # one of the two above
    failure = failure_of(raised)
    assert type(failure) is StepFailed
    assert str(failure) == (
        f"step {label!r} of batch 7 ended with ValueError. Batch 7 reads orders-0[3, 9). Nothing of it is committed, and each "
        "start runs it again. Mend the step; or have records that it cannot take rejected, by "
        'DecodeRecords(…, on_error="reject"); or pass the batch: beam-exactly-once resolve s3://checkpoints/orders --batch 7 '
        "--skip"
    )
    assert failed_step(failure) == failed_step(raised) == label


@pytest.mark.parametrize("passed_on", [as_beam_raises_it, as_a_worker_sends_it])
def test_an_error_of_the_library_keeps_its_type_and_text(passed_on: object) -> None:
    class_and_text = [(DataLoss, "orders-0: [3, 5) is gone."), (UnfitRow, "sink 'files': column 'n' is int64.")]
    for error_class, text in class_and_text:
        error = error_class(text)
        raised = passed_on(error, "Read")  # type: ignore[operator]
        failure = failure_of(raised)
        assert type(failure) is error_class
        where = " Batch 7 reads orders-0[3, 9)." if error_class is UnfitRow else ""
        assert str(failure) == text + where


def test_what_an_error_of_the_reader_came_of_is_not_taken_for_it() -> None:
    """Beam passes what leaves a splittable step as it is."""

    def read() -> None:
        with errors.leaving_step():
            try:
                raise OSError("the client's own words")
            except OSError:
                raise DataLoss("orders-0: [3, 5) is gone.") from None

    with pytest.raises(DataLoss) as raised:
        read()
    failure = failure_of(raised.value)
    assert (type(failure), str(failure)) == (DataLoss, "orders-0: [3, 5) is gone.")


def test_of_many_ranges_the_first_are_named() -> None:
    ranges = [OffsetRange("orders", partition, 0, 1) for partition in range(30)]
    text = str(failure_of(ValueError(), task(*ranges)))
    assert text.startswith("the run of batch 7 ended with ValueError. Batch 7 reads orders-0[0, 1), orders-1[0, 1)")
    assert "orders-7[0, 1) and 22 more ranges. " in text
    assert "orders-8" not in text


class Outer:
    class Oops(Exception):
        pass


def test_the_type_of_an_exception_of_a_class_in_a_class_or_function() -> None:
    class Inner(Exception):
        pass

    for kind in (Outer.Oops, Inner):
        kind.__name__, expected = kind.__qualname__, kind.__name__  # as a traceback says it
        failure = failure_of(as_a_worker_sends_it(kind("secret"), "Parse"))
        assert f"ended with {expected}." in str(failure)


@pytest.mark.parametrize("passed_on", [as_beam_raises_it, as_a_worker_sends_it])
def test_half_of_a_surrogate_pair_is_named(passed_on: Any) -> None:
    with pytest.raises(UnicodeEncodeError) as raised:
        "\ud800".encode()
    text = str(failure_of(passed_on(raised.value, "Parse")))
    assert text.startswith(
        r"step 'Parse' of batch 7 ended with UnicodeEncodeError. A text has half of a surrogate pair, as json.loads makes of an "
        r"escape such as \ud800, and no step can hand it on. Batch 7 reads orders-0[3, 9)."
    )


@pytest.mark.parametrize("step", ["CommitBatch/Commit", "CommitBatch/Publish", "Parse"])
def test_whether_a_batch_is_committed_is_looked_at(step: str) -> None:
    """Whatever step a runner blames: nothing is said that no look has shown."""

    def unavailable(batch_id: int) -> Marker | None:
        raise StoreUnavailable(f"no answer on batch {batch_id}.")

    raised = as_beam_raises_it(KeyError(), step)
    marker = Marker(7, "committed", Attempt(1, 7, "nonce"), 0, {}, {})
    assert "Nothing of it is committed" in str(failure_of(raised))
    assert "is committed, and perhaps not all of it is published" in str(failure_of(raised, read=lambda _: marker))
    assert "is not known, since its marker cannot be read (no answer on batch 7.)" in str(
        failure_of(raised, read=unavailable)
    )
