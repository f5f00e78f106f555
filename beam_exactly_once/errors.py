"""The errors of this library, arranged by who must act::

    BeamExactlyOnceError
    ├── StepFailed              the author of the pipeline: code of a step raised an exception
    ├── ConfigurationError      the author of the pipeline: change code or flags, then start again
    │   ├── UnknownTopic        a topic or partition that Kafka does not have
    │   ├── KafkaRefused        Kafka does not let us in, or not at a topic: credentials, certificates, access rules
    │   ├── UnsupportedPipeline a graph whose result a stream cannot promise
    │   ├── PipelineChanged     the checkpoint knows a source, sink or operator that the pipeline no longer has, or has otherwise
    │   ├── UnfitRow            a row that a step cannot take, and was not told to reject; a key or state that cannot be kept
    │   │   └── IdReused        a record for a write-ahead log whose id is known with another value
    │   ├── OutputNotWritable   a place that refuses writes
    │   │   └── RowsRefused     rows of a committed batch that the system behind a sink refuses
    │   └── UnsuitableStore     a store that ignores conditional writes
    ├── Fenced                  nobody: a newer writer goes on with this stream
    ├── DataLoss                the operator: the log no longer has offsets that were not read yet
    ├── CheckpointError         the operator: the checkpoint is not what it should be
    │   ├── CorruptObject       truncated, or its checksum is wrong
    │   ├── ForeignObject       it belongs to another stream
    │   ├── NewerFormat         written by a newer version of this library
    │   ├── OlderFormat         written by an older version, which this one does not read
    │   ├── CheckpointHole      an object that must exist does not
    │   ├── SinkAhead           a sink holds output that this checkpoint does not know
    │   ├── SinkBehind          a sink lost output that this checkpoint has published
    │   ├── ReplayDiffers       a direct sink holds other rows of a batch than its replay makes
    │   └── StagedOutputMissing a marker names staged output that is gone
    └── Retryable               nobody: start the same command again
        ├── KafkaUnavailable    no broker answers
        ├── ReadStalled         a partition makes no progress
        ├── StoreUnavailable    the object store does not answer; the outcome of a write is unknown
        ├── SweptMeanwhile      what was looked at of a batch is gone, since its stream went on
        ├── SinkUnavailable     the system behind a sink does not answer
        ├── RunnerUnavailable   the job server, the cluster or its workers do not answer, or were lost in a batch
        └── IncompleteBatch     the readers' pieces do not tile the plan: nothing was committed

Nothing is lost on any of them: what was not committed is run again at the next start.

Runners rebuild exceptions in other processes from their text, so every class takes exactly one message, and
:func:`find_in_text` recovers the class from a traceback's text. The text of an error that left a step carries a mark which
only this process and its workers know: what a record says is never taken for an error.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
EXIT_FENCED = 3
EXIT_DATA_LOSS = 4
EXIT_CHECKPOINT = 5
EXIT_RETRYABLE = 75
"""``EX_TEMPFAIL`` of sysexits.h: run the same command again."""


class BeamExactlyOnceError(Exception):
    """Root of the tree. ``exit_code`` is what a ready-made pipeline exits with."""

    exit_code = EXIT_FAILED
    _tagged_with_step = False
    """Beam sets it where an error leaves a step; from there on often only the text travels."""

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def __str__(self) -> str:
        message = super().__str__()
        return f"{_mark} {message}" if _mark and self._tagged_with_step else message


class StepFailed(BeamExactlyOnceError):
    """A step raised an exception of its own. ``__cause__`` is that exception, or what the runner made of it."""

    step: str | None = None
    """Its full label, where the runner says it."""


class ConfigurationError(BeamExactlyOnceError):
    """The pipeline or its flags must change."""

    exit_code = EXIT_CONFIGURATION


class UnknownTopic(ConfigurationError):
    """Kafka has no such topic or partition."""


class KafkaRefused(ConfigurationError):
    """Kafka does not let us in, or not at a topic; waiting does not help."""


class UnsupportedPipeline(ConfigurationError):
    """The graph has a step whose result would silently be wrong in a stream."""


class PipelineChanged(ConfigurationError):
    """The checkpoint knows a source, sink or operator that this pipeline does not have, or has otherwise."""


class UnfitRow(ConfigurationError):
    """A step cannot take a row: it cannot be decoded, a sink cannot write it, or its key or state cannot be kept."""


class IdReused(UnfitRow):
    """A record for a write-ahead log has an id that is known with another value."""


class OutputNotWritable(ConfigurationError):
    """The output or checkpoint location refuses writes."""


class RowsRefused(OutputNotWritable):
    """The system behind a sink refuses rows of a committed batch, and takes others."""


class UnsuitableStore(ConfigurationError):
    """The store ignores conditional writes, so nothing can be decided on it."""


class Fenced(BeamExactlyOnceError):
    """A newer writer has claimed this stream. Stop; never retry."""

    exit_code = EXIT_FENCED


class DataLoss(BeamExactlyOnceError):
    """Kafka no longer has offsets that the stream has not read."""

    exit_code = EXIT_DATA_LOSS


class CheckpointError(BeamExactlyOnceError):
    """The checkpoint, or an output it decides, is not what it should be."""

    exit_code = EXIT_CHECKPOINT


class CorruptObject(CheckpointError):
    """An object is truncated, is not JSON, or fails its checksum."""


class ForeignObject(CheckpointError):
    """An object was written by another stream."""


class NewerFormat(CheckpointError):
    """An object needs a newer version of this library."""


class OlderFormat(CheckpointError):
    """An object was written by an older version of this library, in a format that this one no longer reads."""


class CheckpointHole(CheckpointError):
    """An object that must exist does not."""


class SinkAhead(CheckpointError):
    """A sink already holds a batch that this checkpoint has not decided, or decided otherwise."""


class SinkBehind(CheckpointError):
    """A sink no longer holds a batch that this checkpoint has published."""


class ReplayDiffers(CheckpointError):
    """A direct sink holds rows of an earlier attempt at a batch, and a replay of the batch makes others."""


class StagedOutputMissing(CheckpointError):
    """A marker names staged output that is neither staged nor published."""


class Retryable(BeamExactlyOnceError):
    """A passing fault; the same command may be started again."""

    exit_code = EXIT_RETRYABLE


class KafkaUnavailable(Retryable):
    """No broker answers."""


class ReadStalled(Retryable):
    """A partition delivered neither a record nor its end for too long."""


class StoreUnavailable(Retryable):
    """The object store does not answer. Whether the last write happened is unknown."""


class SweptMeanwhile(Retryable):
    """What was looked at of a batch is gone: its stream went on, and no longer retains that batch."""


class SinkUnavailable(Retryable):
    """The system behind a sink (a database, a broker) does not answer. What was not published is published by the next start."""


class RunnerUnavailable(Retryable):
    """The job server, the cluster or its workers do not answer, or were lost while they ran a batch."""


class IncompleteBatch(Retryable):
    """What the readers reported does not tile the plan, so the batch was not committed."""


_mark = ""


def mark_errors(mark: str) -> None:
    """Put a mark into the text of each error that leaves a step, by which :func:`find_in_text` knows it.

    Args:
        mark: random, the same in a driver and its workers, and nowhere in the input.
    """
    global _mark
    _mark = mark


def mark_of_errors() -> str:
    """The mark that errors of this process carry now; empty if none was put."""
    return _mark


@contextlib.contextmanager
def leaving_step() -> Iterator[None]:
    """Mark errors that leave a splittable DoFn, where Beam does not set its own sign."""
    try:
        yield
    except BeamExactlyOnceError as error:
        error._tagged_with_step = True
        raise


def known_error(error: Exception) -> BeamExactlyOnceError | None:
    """The error of this library that a runner raised, as it is or as text; None if it raised another one."""
    if not isinstance(error, BeamExactlyOnceError):
        return find_in_text(str(error))
    error._tagged_with_step = False
    return error


def find_in_text(text: str) -> BeamExactlyOnceError | None:
    """The last error of this library that a traceback's text names, or None.

    A runner that runs DoFns in other processes raises ``RuntimeError`` with the worker's traceback as text. A name without the
    mark is somebody's text.
    """
    if not _mark:
        return None
    for name, message in reversed(re.findall(rf"beam_exactly_once\.errors\.(\w+): {_mark} (.*)", text)):
        candidate = globals().get(name)
        if isinstance(candidate, type) and issubclass(candidate, BeamExactlyOnceError):
            return candidate(message)
    return None
