"""``ReduceByKeyAndWindow``: values reduced by key and sliding window of event time, slide by slide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apache_beam.transforms.window import SlidingWindows

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.rows.event_times import By, checked_by
from beam_exactly_once.state.windows.slide_bundle import SlideBundle
from beam_exactly_once.state.windows.slides import SlideEach
from beam_exactly_once.transforms.stateful.by_key import SHARDS
from beam_exactly_once.transforms.stateful.event_time import OnLate
from beam_exactly_once.transforms.stateful.windowed import WindowedTransform, windows_of


class ReduceByKeyAndWindow(WindowedTransform):
    """Reduces the values of each key in sliding windows of event time, over all batches.

    Bounded a batch; works only in an ``ExactlyOnceStream``, behind sources with ``event_time=``. Guarantee: exactly once, as of
    :class:`AggregateByWindow`. What it gives of rows that are not late does not depend on where batches are cut, if ``fn`` is
    associative, commutative and exact.

    At each slide, when the watermark, less ``allowed_lateness_s``, has come to it, each key is given that has values in the
    window that ends there, also if they are those of the window before. A batch that passes many slides gives all of them. A key
    without values in the window is not given, and forgotten. Which rows are late, and what becomes of them, is as of
    :class:`AggregateByWindow`.

    A key keeps one value a slide. With ``inverse_fn`` a window costs two calls: what comes is added to the result before, what
    leaves is taken away. Without, it costs as many as there are slides. A result that is, or holds, a float or a Decimal always
    costs these: taking away does not undo that it was rounded, and an infinity would stay for ever. ``inverse_fn`` may come and
    go from start to start.

    The idea is that of Spark's ``reduceByKeyAndWindow``; its windows are of processing time, and with an inverse it keeps empty
    keys.

    Parallelism: values are reduced where they are made, then by up to ``shards`` workers, any number at any start. A shard's rows
    of one batch are in memory, and of a sixteenth of all keys the slides that come and leave.

    Input: ``(key, value)``; a key is None, a bool, an int, a str, bytes, or a tuple of these. Output: a
    :class:`~beam_exactly_once.WindowResult` each, and late rows as they came.

    Args:
        fn: of two values, or reduced values, makes one. It must not change those that it is given. Its values are stored: None,
            bool, int, float, str, bytes, Decimal, date, datetime, or tuples, lists, dicts and sets of such.
        inverse_fn: takes away: ``inverse_fn(fn(a, b), b) == a``.
        window: ``SlidingWindows(size, period)`` of Beam, in whole milliseconds, whose size is a multiple of the period.
        event_time_by: when a value happened: a column, or a function of the value, that gives milliseconds since 1970 UTC or a
            datetime with a zone.
        on_late: ``"keep"``: the step returns ``rows, late``. ``"drop"``: it returns rows alone, and only counts late ones.
        allowed_lateness_s: seconds that windows stay open behind the watermark.
        name: identifies the state in the checkpoint; may be left out for one such step.
        renamed_from: the name that it had before: the step goes on with what it remembers under that. It may stay.
        shards: the most workers.

    Raises:
        ConfigurationError: an argument is not possible.
        UnsupportedPipeline: applied outside of a stream, to windowed rows, behind a source without event time, or behind a
            ``MapGroupsWithState``.

    Raises (while running):
        UnfitRow: a row has no time, or a key or a value cannot be stored; nothing of its batch is committed.
        CheckpointHole, CorruptObject: state is gone, or damaged.
        Anything that ``fn`` or ``inverse_fn`` raises.
    """

    def __init__(
        self,
        fn: Callable[[Any, Any], Any],
        inverse_fn: Callable[[Any, Any], Any] | None = None,
        *,
        window: SlidingWindows,
        event_time_by: By,
        on_late: OnLate = "keep",
        allowed_lateness_s: float = 0.0,
        name: str | None = None,
        renamed_from: str | None = None,
        shards: int = SHARDS,
    ) -> None:
        for argument, given in (("fn", fn), ("inverse_fn", inverse_fn)):
            if not callable(given) and not (argument == "inverse_fn" and given is None):
                raise ConfigurationError(
                    f"{argument}={given!r} of ReduceByKeyAndWindow must be a function of two values, such as operator.add."
                )
        if not isinstance(window, SlidingWindows):
            raise ConfigurationError(
                f"window={window!r} of ReduceByKeyAndWindow must be SlidingWindows(3600, 60) of Beam. For others, "
                "AggregateByWindow combines by window."
            )
        windows = windows_of(window)
        if windows.size_ms % windows.period_ms:
            raise ConfigurationError(
                f"window={window!r} of ReduceByKeyAndWindow must have a size that is a multiple of its period. "
                "AggregateByWindow takes any."
            )
        each = SlideEach(fn, inverse_fn, windows, checked_by("event_time_by", event_time_by))
        how: dict[str, Any] = {
            "allowed_lateness_s": allowed_lateness_s,
            "on_late": on_late,
            "name": name,
            "renamed_from": renamed_from,
            "shards": shards,
        }
        super().__init__(each, SlideBundle, **how)
