"""What ready-made pipelines share: flags, the stream and its listeners, exit codes.

A ready-made pipeline says what it writes with, and how it goes on from its source; see
:mod:`beam_exactly_once.pipelines.kafka_to_files`. Its flags are the arguments of the stream and the source by their names, those
of the sink behind ``--output-``, those of a step that remembers behind ``--count-``, and those of the sinks of rejected records
and of late rows behind ``--rejected-`` and ``--late-``.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from beam_exactly_once.errors import EXIT_DONE, BeamExactlyOnceError
from beam_exactly_once.pipelines.flags.arguments import Argument, flags_of
from beam_exactly_once.pipelines.flags.parsing import FlagParser
from beam_exactly_once.pipelines.flags.values import Kinds
from beam_exactly_once.pipelines.stream import ExactlyOnceStream
from beam_exactly_once.rows.rejected import OnError
from beam_exactly_once.transforms.read_kafka import ReadFromKafka
from beam_exactly_once.transforms.reading.read_log import ReadLog
from beam_exactly_once.transforms.write_files import WriteToFiles

_LOGGER = logging.getLogger(__name__)

_NEVER = frozenset({"name", "runner"})
"""No flags: a step has one name, and Beam has a flag for its runner."""
_NOT_OF_SOURCES = frozenset({"stop", "storage_options"})
"""No flags: a stream refuses the one, and gives the other."""


@dataclass(frozen=True, slots=True)
class Given:
    """What flags say, by the names of the arguments."""

    stream: dict[str, Any]
    source: dict[str, Any]
    output: dict[str, Any]
    rejected: dict[str, Any]
    step: dict[str, Any] = field(default_factory=dict)
    """Of the step that remembers, if there is one."""
    late: dict[str, Any] = field(default_factory=dict)
    """Of the sink of rows that came too late, if the step gives such."""
    reader: type[ReadLog] = ReadFromKafka
    """What reads: Kafka or a write-ahead log."""

    def read(self, **more: Any) -> ReadLog:
        """The source that flags say; ``more`` are arguments that no flag says, or not here."""
        return self.reader(**{**self.source, **more})

    @property
    def on_error(self) -> OnError:
        """What becomes of records that do not fit: they are rejected if there is a place for them."""
        return "reject" if self.rejected else "fail"

    def write_rejected(self, *rejected: Any) -> None:
        """Write what steps rejected, if they were told to reject."""
        if self.rejected:
            _ = rejected | "Rejected" >> beam.Flatten() | WriteToFiles(**self.rejected, name="rejected")


@dataclass(frozen=True, slots=True)
class ReadyMade:
    """A job by flags.

    Attributes:
        name: with hyphens, as ``beam-exactly-once run`` takes it.
        description: one line for ``--help``.
        sink: what writes.
        wire: puts the graph into the stream.
        source: what reads.
        source_set, sink_set, step_set: arguments that ``wire`` sets itself: they are not flags.
        sink_optional: arguments of the sink that ``wire`` takes from elsewhere unless they are given.
        other_sink: what may write instead. Then the flags of both are taken, and ``wire`` says which are missing.
        formats: further words of the sink's ``format``, and what writes then instead. Its flags are taken, too.
        step: the step that remembers; its flags begin with ``--count-``.
        kinds: the value objects that arguments of the source take, where their types do not name them.
        step_kinds: the same of the step.
        gives_late: whether the step gives rows that came too late; the flags of their sink begin with ``--late-``.
    """

    name: str
    description: str
    sink: type[Any]
    wire: Callable[[ExactlyOnceStream, Given], None]
    source: type[ReadLog] = ReadFromKafka
    source_set: Collection[str] = ("as_arrow", "decoder")
    sink_set: Collection[str] = ()
    sink_optional: Collection[str] = ()
    other_sink: type[Any] | None = None
    formats: Mapping[str, type[Any]] = field(default_factory=dict)
    step: type[Any] | None = None
    step_set: Collection[str] = ()
    kinds: Mapping[str, Kinds] = field(default_factory=dict)
    step_kinds: Mapping[str, Kinds] = field(default_factory=dict)
    gives_late: bool = False

    @property
    def flags(self) -> dict[str, list[Argument]]:
        """The flags, by what they are arguments of."""
        of_source = {*_NEVER, *_NOT_OF_SOURCES, *self.source_set}
        of_step = {}
        if self.step is not None:
            less = {*_NEVER, *self.step_set}
            of_step["step"] = flags_of(self.step, "count-", less=less, kinds=self.step_kinds)
        if self.gives_late:
            of_step["late"] = flags_of(WriteToFiles, "late-", less=_NEVER, optional=["location"])
        return {
            "stream": flags_of(ExactlyOnceStream, less=_NEVER),
            "source": flags_of(self.source, less=of_source, kinds=self.kinds),
            **of_step,
            "output": self._of_sinks(),
            "rejected": flags_of(WriteToFiles, "rejected-", less=_NEVER, optional=["location"]),
        }

    def _of_sinks(self) -> list[Argument]:
        less = {*_NEVER, *self.sink_set}
        words = {"format": list(self.formats)} if self.formats else None
        of_sink = flags_of(self.sink, "output-", less=less, optional=self.sink_optional, words=words)
        others = [*self.formats.values(), *([] if self.other_sink is None else [self.other_sink])]
        if not others:
            return of_sink
        of_others = [argument for other in others for argument in flags_of(other, "output-", less=less)]
        all_of_them = {argument.name: argument for argument in (*of_others, *of_sink)}
        return [replace(argument, is_required=False) for argument in all_of_them.values()]

    def parser(self, program: str | None = None) -> FlagParser:
        """What reads the flags; ``program`` is how the pipeline was called."""
        module = self.name.replace("-", "_")
        return FlagParser(program or f"python -m beam_exactly_once.pipelines.{module}", self.description, self.flags)

    def main(self, argv: Sequence[str] | None = None, *, program: str | None = None) -> int:
        """Run the pipeline by its flags; returns the exit code, see :mod:`beam_exactly_once.errors`.

        Args:
            argv: flags; those of the process if None.
            program: how it was called, for ``--help``.
        """
        logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("beam_exactly_once").setLevel(logging.INFO)
        parser = self.parser(program)
        try:
            values, beam_flags = parser.parse(sys.argv[1:] if argv is None else argv)
            given = Given(**values, reader=self.source)
            for what, place in (("rejected records", given.rejected), ("late rows", given.late)):
                if place and "location" not in place:
                    parser.refuse(f"--{what.split()[0]}-location must be given: where do {what} go?")
            with contextlib.ExitStack() as listening:
                _add_live_bar(given.stream, listening)
                with ExactlyOnceStream(**given.stream, options=PipelineOptions(beam_flags)) as stream:
                    self.wire(stream, given)
        except BeamExactlyOnceError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            _LOGGER.debug("the whole traceback", exc_info=True)
            return error.exit_code
        return EXIT_DONE


def _add_live_bar(stream: dict[str, Any], listening: contextlib.ExitStack) -> None:
    """A live bar when a person watches, besides the listeners that were asked for."""
    if sys.stderr.isatty():
        # What draws takes its time to import; a start that nobody watches goes without.
        from beam_exactly_once.pipelines.progress.bar import live_bar

        stream["listeners"] = [*stream.get("listeners", ()), listening.enter_context(live_bar())]
