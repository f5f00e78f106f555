"""Why a batch failed: which step, at which records, and the way out, in one line that holds no value of a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import TracebackType

from beam_exactly_once.checkpoint import Marker, Plan
from beam_exactly_once.errors import BeamExactlyOnceError, Retryable, StepFailed, UnfitRow, known_error
from beam_exactly_once.kafka.at_hand import take_at_hand
from beam_exactly_once.offsets import OffsetRange
from beam_exactly_once.transforms.batch_task import BatchTask

MAX_RANGES = 8
"""Ranges of offsets that a message names."""
_IN_STEP = re.compile(r" ?\[while running '([^\n]+?)'\]")
"""What Beam adds to the text of an exception, behind whatever the exception says itself."""
_TYPE_IN_TEXT = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)+(?:[\w<>]+\.)*(\w+)")
"""The type that a traceback ends with. The first one of a text stands above all that exceptions say; where an exception was
raised from another one, it is that of the other."""
_HALF_A_PAIR = "surrogates not allowed"
"""What Python says of a text that UTF-8 cannot say."""
_OF_HALF_A_PAIR = (
    r"A text has half of a surrogate pair, as json.loads makes of an escape such as \ud800, and no step can hand it on."
)


class GivenUp(BaseException):
    """Ends a batch where it stands, since the stream was asked to stop and it did not end. Beam makes an exception of it that
    names the step.

    Args:
        stop_timeout_s: how long it had.
    """

    def __init__(self, stop_timeout_s: float) -> None:
        super().__init__(stop_timeout_s)
        self._stop_timeout_s = stop_timeout_s

    def as_error(self, step: str | None) -> Retryable:
        """What the stream ends with."""
        return Retryable(
            f"the batch was given up {f'in step {step!r}' if step else 'where it stood'}: it did not end within "
            f"{self._stop_timeout_s:g} s of the signal to stop, or before a second one. Nothing is lost: the next start goes on "
            "with it. If the batch is not a large one, the step does not return: look at what it waits for."
        )


def failed_step(error: BaseException) -> str | None:
    """The step that a runner, or a :class:`StepFailed`, blames, if it blames one."""
    if isinstance(error, StepFailed):
        return error.step
    found = _IN_STEP.findall(str(error))
    return found[-1] if found else None


def batch_failure(
    error: Exception, task: BatchTask, checkpoint_uri: str, read_marker: Callable[[int], Marker | None]
) -> BeamExactlyOnceError:
    """The error of a batch, to be raised instead of what a runner made of it.

    Its cause is the exception of the user's code, from its own line on, where that is known; else what the runner raised.

    Args:
        error: what a run of the graph raised.
        task: what was run.
        checkpoint_uri: of the stream.
        read_marker: of a batch; None where there is none. Only a look tells what a failed run has left.
    """
    own = _as_raised(error)
    if isinstance(own, GivenUp):
        given_up = own.as_error(failed_step(error))
        given_up.__cause__ = error
        return given_up
    known = known_error(error) if own is error else own if isinstance(own, BeamExactlyOnceError) else None
    at_hand = take_at_hand([] if task.plan is None else _ranges(task.plan))
    failure: BeamExactlyOnceError
    cause: BaseException | None
    if known is None:
        failure, cause = StepFailed(_step_failed(error, own, task, at_hand, checkpoint_uri, read_marker)), own
        failure.step = failed_step(error)
    else:
        text = _IN_STEP.sub("", str(known))
        is_of_row = isinstance(known, UnfitRow) and task.plan is not None
        failure = type(known)(f"{text}{_where(task.plan, at_hand) if is_of_row and task.plan else ''}")
        cause = known.__cause__ if own is known else error
    failure.__cause__ = cause if cause is None else cause.with_traceback(_of_the_step(cause.__traceback__))
    return failure


def _as_raised(error: Exception) -> BaseException:
    """What code of the pipeline raised: Beam makes another exception of it, to add the step.

    An error of the library keeps its type then, and is passed on as it is where it leaves a splittable step.
    """
    original = error.__context__
    if original is None or not getattr(error, "_tagged_with_step", False):
        return error
    if isinstance(error, BeamExactlyOnceError) and type(original) is not type(error):
        return error
    return original


def _step_failed(
    error: Exception,
    own: BaseException,
    task: BatchTask,
    at_hand: Sequence[OffsetRange],
    checkpoint_uri: str,
    read_marker: Callable[[int], Marker | None],
) -> str:
    batch_id, step, kind = task.attempt.batch_id, failed_step(error), _type_of(error, own)
    failed = f"{'the run' if step is None else f'step {step!r}'} of batch {batch_id} ended with {kind}."
    if kind == UnicodeEncodeError.__name__ and _HALF_A_PAIR in str(error):
        failed += f" {_OF_HALF_A_PAIR}"
    try:
        is_committed = task.plan is None or read_marker(batch_id) is not None
    except BeamExactlyOnceError as unread:
        return (
            f"{failed} Whether the batch is committed is not known, since its marker cannot be read ({unread}) Start again: "
            "it is published if it is committed, and else run again."
        )
    if task.plan is None or is_committed:
        return (
            f"{failed} The batch is committed, and perhaps not all of it is published. Mend what failed there, or what it calls, "
            "and start again: every start publishes the newest batch before it reads on."
        )
    return (
        f"{failed}{_where(task.plan, at_hand)} Nothing of it is committed, and each start runs it again. Mend the step; or "
        'have records that it cannot take rejected, by DecodeRecords(…, on_error="reject"); or pass the batch: '
        f"beam-exactly-once resolve {checkpoint_uri} --batch {batch_id} --skip"
    )


def _type_of(error: Exception, own: BaseException) -> str:
    """The type of the exception that code of the pipeline raised: its own, or what a worker's text says."""
    found = _TYPE_IN_TEXT.search(str(error)) if own is error else None
    return type(own).__name__ if found is None else found[1]


def _where(plan: Plan, at_hand: Sequence[OffsetRange]) -> str:
    """A sentence: what the batch reads, and what was read of it last."""
    last = f" Read last: {', '.join(map(_named, at_hand))}." if at_hand else ""
    ranges = _ranges(plan)
    more = f" and {len(ranges) - MAX_RANGES} more ranges" if len(ranges) > MAX_RANGES else ""
    return f"{last} Batch {plan.batch_id} reads {', '.join(map(str, ranges[:MAX_RANGES]))}{more}."


def _ranges(plan: Plan) -> list[OffsetRange]:
    return [one for source in plan.sources.values() for one in source.ranges]


def _named(given_out: OffsetRange) -> str:
    return f"{given_out.topic_partition} at offset {given_out.start}" if given_out.size == 1 else str(given_out)


def _of_the_step(traceback: TracebackType | None) -> TracebackType | None:
    """What is left of a traceback below the frames of the runner, and of what calls functions for it: those of the step; all
    of it where there are none."""
    below = one = traceback
    while one is not None:
        path = one.tb_frame.f_code.co_filename.replace("\\", "/")
        if "apache_beam/runners/" in path or path.endswith("/transforms/in_lists/functions.py"):
            below = one.tb_next
        one = one.tb_next
    return traceback if below is None else below
