"""Every name in a write-ahead log. Nothing else spells one.

    wal.json                                            its log id; all other names hold it, so that who wrote to a log that
                                                        was wiped cannot touch the one that took its place
    partitions/<log id>/00000003.json                   partition 3 exists
    log/<log id>/00000003/99999999999999/987654.seg     the segment whose first offset is 12,345
    ids/<log id>/00000003/99999999999999934463.ids      an id page: the ids of a stretch that stops at 65,536
    readers/<log id>/<stream id>/<source>/…957.json     what this source of a stream has finished with
    sweeps/<log id>/00000003/99999999999999990000.json  an intent: what is below 9,999 may be deleted
    floors/<log id>/00000003/99999999999999990000.json  decided: the partition begins at 9,999
    wishes/<log id>/00000003/99999999999999990000.json  a hint: at offset 9,999 a newer writer was beaten to its claim again

Stores list upwards only, so numbers are written *inverted*: the greatest comes first. The newest segment is the first name of a
listing, and the segment that holds an offset is the first name behind that of the offset above it. There is no index to keep.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from beam_exactly_once.errors import ConfigurationError, CorruptObject

WAL = "wal.json"
MAX_NUMBER = 10**20 - 1
_DIGITS = re.compile(r"[0-9]{20}")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FOLDER_DIGITS = 14
"""A folder has the segments of a million offsets, so that none grows large on a disk."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one log."""

    log_id: str

    @property
    def partitions(self) -> str:
        """What all partitions' names begin with."""
        return f"partitions/{self.log_id}/"

    @property
    def readers(self) -> str:
        """What the names of all readers' records begin with."""
        return f"readers/{self.log_id}/"

    def partition(self, partition: int) -> str:
        """Says that a partition exists."""
        return f"{self.partitions}{partition:08d}.json"

    def segments(self, partition: int) -> str:
        """What the names of a partition's segments begin with."""
        return f"log/{self.log_id}/{partition:08d}/"

    def segment(self, partition: int, base: int) -> str:
        """The segment whose first offset is ``base``."""
        digits = inverted(base)
        return f"{self.segments(partition)}{digits[:_FOLDER_DIGITS]}/{digits[_FOLDER_DIGITS:]}.seg"

    def pages(self, partition: int) -> str:
        """What the names of a partition's id pages begin with."""
        return f"ids/{self.log_id}/{partition:08d}/"

    def page(self, partition: int, stop: int) -> str:
        """The id page of a stretch that stops there."""
        return f"{self.pages(partition)}{inverted(stop)}.ids"

    def sweeps(self, partition: int) -> str:
        """What the names of a partition's intents to sweep begin with."""
        return f"sweeps/{self.log_id}/{partition:08d}/"

    def sweep(self, partition: int, offset: int) -> str:
        """The intent to delete what is below an offset."""
        return f"{self.sweeps(partition)}{inverted(offset)}.json"

    def floors(self, partition: int) -> str:
        """What the names of a partition's floors begin with."""
        return f"floors/{self.log_id}/{partition:08d}/"

    def floor(self, partition: int, offset: int) -> str:
        """Says that a partition begins at an offset."""
        return f"{self.floors(partition)}{inverted(offset)}.json"

    def wishes(self, partition: int) -> str:
        """What the names of wishes to claim a partition begin with."""
        return f"wishes/{self.log_id}/{partition:08d}/"

    def wish(self, partition: int, offset: int) -> str:
        """The wish of a writer that could not claim at an offset, since records came first."""
        return f"{self.wishes(partition)}{inverted(offset)}.json"

    def reader(self, stream_id: str, source: str) -> str:
        """What the names of the records of one source of a stream begin with: two sources on one log finish apart.

        Raises:
            ConfigurationError: one of the two cannot be a part of a name.
        """
        return f"{self.readers}{_checked('stream_id', stream_id)}/{_checked('source', source)}/"

    def reader_record(self, stream_id: str, source: str, number: int) -> str:
        """A record of one source of a stream."""
        return f"{self.reader(stream_id, source)}{inverted(number)}.json"


def inverted(number: int) -> str:
    """20 digits that fall as ``number`` rises."""
    if not 0 <= number <= MAX_NUMBER:
        raise ValueError(f"{number} has no name: it must be from 0 to {MAX_NUMBER}")
    return f"{MAX_NUMBER - number:020d}"


def number_in(key: str) -> int:
    """The number in the name of a segment, page, reader's record, sweep, floor or wish.

    Raises:
        CorruptObject: the name is not one that this library writes.
    """
    parts = key.rpartition(".")[0].split("/")
    digits = "".join(parts[-2:]) if key.endswith(".seg") else parts[-1]
    if _DIGITS.fullmatch(digits) is None:
        raise CorruptObject(
            f"{key} is not an object of a write-ahead log. Nothing but this library may write below its location: move the "
            "object away, then start again."
        )
    return MAX_NUMBER - int(digits)


def _checked(what: str, part: str) -> str:
    if _PART.fullmatch(part) is None:
        raise ConfigurationError(
            f"{what}={part!r} cannot name a reader of a write-ahead log: use 1 to 100 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit."
        )
    return part
