"""``GroupState``: what a function of ``MapGroupsWithState`` sees and changes of one key, in one call. Pure."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

from beam_exactly_once.errors import UnfitRow
from beam_exactly_once.state.run import NEVER

S = TypeVar("S")

_AS_BEFORE = object()


class GroupState(Generic[S]):
    """The state of one key, and its timeout, while the function is called for it.

    The idea is that of Spark's ``GroupState``.

    Attributes:
        timed_out: the call is that of a timeout: there are no values.
        now_ms: the time of the batch, in milliseconds since 1970 UTC: when it was planned, and without ``event_time_by`` never
            less than that of a batch before. The same in a replay.
        watermark_ms: how far event time has come in this batch, with ``event_time_by``; None without, and in the first batches,
            in which no source has a watermark yet.
    """

    __slots__ = ("_timeout_ms", "_updated", "_value", "now_ms", "timed_out", "watermark_ms")

    def __init__(
        self, value: S | None, *, now_ms: int, watermark_ms: int | None = None, timed_out: bool = False
    ) -> None:
        self.timed_out = timed_out
        self.now_ms = now_ms
        self.watermark_ms = watermark_ms
        self._value = value
        self._updated: Any = _AS_BEFORE
        self._timeout_ms: int | None = None

    @property
    def value(self) -> S | None:
        """The state; None where there is none. Behind :meth:`remove` it still is what was removed, until the call returns."""
        return self._value

    def update(self, value: S) -> None:
        """Keep ``value``. What is changed inside of a value is kept only if the value is given here.

        Raises:
            UnfitRow: it is None, which says that there is no state.
        """
        if value is None:
            raise UnfitRow(
                "GroupState.update(None): None says that there is no state. Call remove() to forget the key."
            )
        self._value = self._updated = value

    def remove(self) -> None:
        """Forget the state. A timeout that the call sets stays."""
        self._updated = None

    def set_timeout(self, at_ms: int | None) -> None:
        """Call the function for this key when ``at_ms`` has come, if no value comes for it before: by the watermark with
        ``event_time_by``, else by the clock.

        A call clears the timeout that was set before it, so one that is to stay is set again. A time that has come already is
        that of the next batch: a key is called once a batch.

        Args:
            at_ms: milliseconds since 1970 UTC; None: no timeout.

        Raises:
            UnfitRow: it is not such a number.
        """
        if at_ms is not None and (type(at_ms) is not int or not -NEVER < at_ms < NEVER):
            raise UnfitRow(
                f"GroupState.set_timeout takes whole milliseconds since 1970 UTC, and got a {type(at_ms).__name__}: "
                "state.set_timeout(state.now_ms + 60_000), or with event_time_by the time of a value and a span."
            )
        self._timeout_ms = at_ms


class Outcome(NamedTuple):
    """What a call leaves of its key."""

    is_updated: bool
    is_removed: bool
    value: Any
    """If it is updated."""
    timeout_ms: int | None


def outcome_of(state: GroupState[Any]) -> Outcome:
    """What the call to which ``state`` was given has made of it."""
    updated = state._updated
    return Outcome(updated is not _AS_BEFORE and updated is not None, updated is None, updated, state._timeout_ms)
