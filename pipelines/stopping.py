"""Stopping at the end of a batch when asked by a signal, and in the middle of one that does not end."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from beam_exactly_once.errors import EXIT_RETRYABLE, Fenced, Retryable
from beam_exactly_once.pipelines.failures import GivenUp, failed_step

_LOGGER = logging.getLogger(__name__)

STOP_TIMEOUT_S = 60.0
"""How long the running batch may take once the stream was asked to stop: most take less, and a step that never returns does
not keep the process for ever."""
UNWIND_TIMEOUT_S = 10.0
"""How long a batch that is given up may take to end: a step in another thread or in C code cannot be interrupted."""


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set: the driver stops at the end of the batch.

    A second signal gives the batch up, and so does a batch that does not end in :data:`STOP_TIMEOUT_S`. That is safe at any
    moment: the next start goes on with it. If the batch cannot be interrupted either, the process ends.

    Signal handlers are the main thread's: elsewhere the event is never set.

    Raises:
        Retryable: the batch was given up. It names the step, if one was running.
        Fenced: a newer writer exists; whoever started this one must not start it again.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    asked, given_up = False, threading.Event()
    with contextlib.ExitStack() as ending:

        def on_signal(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            if not asked:
                asked = True  # first of all: the next signal may come while this function runs
                # In a thread: this one may be about to wait for the event, or to write to the log or to where it goes.
                threading.Thread(target=_stop, args=(stop, number), name="stop", daemon=True).start()
                ending.enter_context(_timer(STOP_TIMEOUT_S, lambda: os.kill(os.getpid(), signal.SIGTERM)))
                return
            if not given_up.is_set():
                given_up.set()
                ending.enter_context(_timer(UNWIND_TIMEOUT_S, _end_process))
            raise GivenUp(STOP_TIMEOUT_S)

        for number in (signal.SIGTERM, signal.SIGINT):
            ending.callback(signal.signal, number, signal.signal(number, on_signal))
        try:
            yield stop
        except BaseException as error:
            if not given_up.is_set() or isinstance(error, Fenced | Retryable):
                raise
            raise GivenUp(STOP_TIMEOUT_S).as_error(failed_step(error)) from error


def _stop(stop: threading.Event, number: int) -> None:
    stop.set()
    # A warning: whoever pressed Ctrl-C sees it without any configuration of logging.
    _LOGGER.warning(
        "%s: the stream stops when its running batch has ended, or in %g s. A second one stops it now; nothing is lost.",
        signal.Signals(number).name,
        STOP_TIMEOUT_S,
    )


@contextlib.contextmanager
def _timer(seconds: float, call: Callable[[], object]) -> Iterator[None]:
    """Calls ``call`` after that time, unless the block has ended."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_process() -> None:
    _LOGGER.error(
        "the batch that was given up cannot be interrupted: this process ends with code %d. Nothing is lost: start it again. "
        "Where each thread stands:",
        EXIT_RETRYABLE,
    )
    faulthandler.dump_traceback(all_threads=True)
    os._exit(EXIT_RETRYABLE)
