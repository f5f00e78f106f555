"""What the streams that read a log say of how far they are: what keeps it, and what lets it go.

Each source of a stream has records of its own, by rising numbers: 0 *holds* all, a batch's id + 1 tells what is finished with,
and the last possible number says that nothing is held any more. The greatest number counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.wal.layout import MAX_NUMBER, number_in
from beam_exactly_once.wal.location import WalLocation
from beam_exactly_once.wal.sealed import Json, corrupt

HOLD, RELEASED = 0, MAX_NUMBER


@dataclass(frozen=True, slots=True)
class ReaderRecord:
    """The newest record of one source of a stream."""

    stream_id: str
    source: str
    number: int
    next_offsets: Mapping[int, int]
    older: list[str]
    """Keys of its older records, which nothing needs."""

    @property
    def is_released(self) -> bool:
        """Whether it holds nothing."""
        return self.number == RELEASED

    def next_offset(self, partition: int) -> int:
        """What is below is finished with. A partition that the record does not name may be newer than it: all of it is held."""
        return self.next_offsets.get(partition, 0)

    def of(self, location: WalLocation) -> WalReader:
        """The reader whose record it is."""
        return WalReader(location, self.stream_id, self.source)


class WalReader:
    """One source of a stream, as the log knows it.

    Args:
        location: the log.
        stream_id: of the stream.
        source: its name within the stream.

    Raises:
        ConfigurationError: a name that cannot be a part of a key.
    """

    def __init__(self, location: WalLocation, stream_id: str, source: str) -> None:
        self._location = location
        self._stream_id = stream_id
        self._source = source
        self._prefix = location.names.reader(stream_id, source)

    def hold(self) -> None:
        """Keep all that is there, before it is decided where the source begins. Harmless when repeated.

        Raises:
            ConfigurationError: somebody has released the log for this stream.
        """
        newest = self._location.newest_record(self._prefix)
        if newest == RELEASED:
            raise ConfigurationError(
                f"the log at {self._location.store.uri} was released for source {self._source!r} of stream {self._stream_id}: "
                "what it has not read may be gone. Start with a new checkpoint_location."
            )
        if newest is None:
            self._put(HOLD, {})

    def first_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """Where a new source may begin: asked for behind :meth:`hold`. A sweep that does not see the hold has said before how far
        it goes, and is seen here.
        """
        return {one: max(self._location.intent(one), self._location.floor(one)) for one in partitions}

    def finished(self, batch_id: int, next_offsets: Mapping[int, int]) -> None:
        """Let go of what is below the next offset of each partition.

        Args:
            batch_id: the oldest batch that the stream still may go back to: retained, and committed.
            next_offsets: those behind it. A partition that is left out is held as a whole.
        """
        self._put(batch_id + 1, {str(partition): offset for partition, offset in sorted(next_offsets.items())})

    def release(self) -> None:
        """Hold nothing any more, for ever."""
        self._put(RELEASED, {})

    def _put(self, number: int, next_offsets: Json) -> None:
        key = self._location.names.reader_record(self._stream_id, self._source, number)
        self._location.put_record(key, {"next_offsets": next_offsets})


def all_readers(location: WalLocation) -> list[ReaderRecord]:
    """The newest record of each source of each stream."""
    found = []
    for name, keys in _by_source(location):
        stream_id, _, source = name.partition("/")
        body = location.record(keys[0])
        if body is None:  # swept by another one, which has seen a newer record
            return all_readers(location)
        try:
            next_offsets = {int(partition): int(offset) for partition, offset in body["next_offsets"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise corrupt(f"{location.store.uri}/{keys[0]}", f"does not say how far a reader is ({error})") from None
        found.append(ReaderRecord(stream_id, source, number_in(keys[0]), next_offsets, keys[1:]))
    return found


def readers_of_stream(location: WalLocation, stream_id: str) -> list[ReaderRecord]:
    """Those of :func:`all_readers` that are of one stream.

    Raises:
        ConfigurationError: there are none.
    """
    readers = all_readers(location)
    found = [one for one in readers if one.stream_id == stream_id]
    if not found:
        known = ", ".join(sorted({one.stream_id for one in readers})) or "none"
        raise ConfigurationError(
            f"{location.store.uri} knows no stream {stream_id}. The streams that read it: {known}. Name one of them."
        )
    return found


def _by_source(location: WalLocation) -> Iterator[tuple[str, list[str]]]:
    """Stream and source, and the keys of its records, the newest first."""
    keys: dict[str, list[str]] = {}
    for entry in location.store.list(location.names.readers):
        keys.setdefault(entry.key.removeprefix(location.names.readers).rpartition("/")[0], []).append(entry.key)
    yield from keys.items()
