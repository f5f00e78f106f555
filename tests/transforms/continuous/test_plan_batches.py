"""The step that plans: whoever asks for a part of it gets all of the rest, or nothing."""

from __future__ import annotations

from beam_exactly_once.transforms.continuous.plan_batches import _AllBatches, _Batches, _BatchesCoder, _Tracker


def test_one_batch_after_the_other() -> None:
    tracker = _Tracker(_AllBatches().initial_restriction(b""))
    assert tracker.try_claim(0)
    assert tracker.try_split(0.5) is None
    done, rest = tracker.try_split(0) or (None, None)
    assert (done, rest) == (_Batches(1, 1), _Batches(1))
    assert not tracker.try_claim(1)
    tracker.check_done()
    assert not tracker.is_bounded()


def test_the_rest_may_be_asked_for_before_a_batch_is_claimed() -> None:
    tracker = _Tracker(_Batches(4))
    done, rest = tracker.try_split(0) or (None, None)
    assert (done, rest) == (_Batches(4, 4), _Batches(4))
    assert not tracker.try_claim(4)
    assert tracker.try_split(0) is None


def test_what_is_left_travels() -> None:
    coder = _BatchesCoder()
    assert coder.decode(coder.encode(_Batches(7))) == _Batches(7)
