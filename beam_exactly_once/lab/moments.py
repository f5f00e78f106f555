"""The moments at which the designs are killed, and what each design is called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Design: TypeAlias = Literal["receiver", "logged_receiver", "offset_ranges"]

DESIGNS: dict[Design, str] = {
    "receiver": "receiver\nwithout a log",
    "logged_receiver": "receiver\nwith a log",
    "offset_ranges": "offset ranges\n(this library)",
}
"""Their titles, in two lines. The old ones first."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When a process gets SIGKILL.

    Attributes:
        name: the word in JSON.
        victim: who is killed in the old designs.
        text: what has happened by then.
        occurrence: of the old designs, at which time that the moment is reached, counted from 1.
        impossible: the old designs that have no such moment.
        kill: the flag that kills this library's pipeline at the moment that is most like it.
        kill_text: what has happened there by then.
        why: what becomes of the block, or the blocks, that are under way in the old designs.
    """

    name: str
    victim: Literal["nobody", "receiver", "application"]
    text: str
    occurrence: int = 0
    impossible: tuple[Design, ...] = ()
    kill: tuple[str, ...] = ()
    kill_text: str = ""
    why: str = "Without a kill all designs are exact."


NEVER = Moment("never", "nobody", "no kill")
FETCHED = Moment(
    "fetched",
    "receiver",
    "block fetched, nothing stored",
    occurrence=5,
    kill=("--kill_after", "stage::2"),
    kill_text="rows are being staged",
    why="Kafka was not told anything, and gives the block again.",
)
PROGRESS_ONLY = Moment(
    "progress_stored_data_not",
    "receiver",
    "progress stored, data not",
    occurrence=5,
    impossible=("logged_receiver",),
    kill=("--kill_after", "put_if_absent:offsets/:2"),
    kill_text="offsets planned, nothing read",
    why="Kafka took the offsets for done, and the memory that had the records is gone.",
)
DATA_ONLY = Moment(
    "data_stored_progress_not",
    "receiver",
    "data stored, progress not",
    occurrence=5,
    impossible=("receiver",),
    kill=("--kill_before", "put_if_absent:commits/:2"),
    kill_text="files staged, no marker",
    why="The log has the block, Kafka does not know of it and gives it again: it is written twice.",
)
BOTH = Moment(
    "data_and_progress_stored",
    "receiver",
    "data and progress stored",
    occurrence=5,
    kill=("--kill_after", "put_if_absent:commits/:2"),
    kill_text="marker there, nothing published",
    why="The replica, or the log, still has the block.",
)
WAITING = Moment(
    "blocks_wait_in_memory",
    "application",
    "blocks wait in memory",
    occurrence=2,
    kill=("--kill_before", "publish::2"),
    kill_text="marker read, no file published",
    why="Kafka took the offsets for done, and the memory of all processes is gone. A log is still there.",
)
WRITTEN = Moment(
    "output_written_progress_not",
    "application",
    "output written, progress not",
    occurrence=4,
    kill=("--kill_after", "publish::2"),
    kill_text="file published, no manifest",
    why="The output has a block that the list of written blocks lacks. What only memory had is gone.",
)
MOMENTS = (NEVER, FETCHED, PROGRESS_ONLY, DATA_ONLY, BOTH, WAITING, WRITTEN)
