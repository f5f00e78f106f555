"""Where a step that failed behind a reader stood."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from beam_exactly_once.kafka import Chunk, Record
from beam_exactly_once.kafka.at_hand import all_given_out, as_a_whole, record_by_record, take_at_hand
from support.checkpoints import orders

PLANNED = orders(0, 0, 10)


class Reader:
    """Gives out the offsets 2, 3 and 5."""

    def __init__(self) -> None:
        self.chunk = Chunk.from_records([Record("orders", 0, offset) for offset in (2, 3, 5)], 2, 9)


@pytest.fixture
def reader() -> Iterator[Reader]:
    take_at_hand([orders(0, 0, 1 << 40)])  # of tests whose steps failed before, in this process
    reader = Reader()
    yield reader
    all_given_out(reader)


@pytest.mark.parametrize(("taken", "offset"), [(1, 2), (2, 3), (3, 5)])
def test_the_record_that_was_given_out_last_is_said_once(reader: Reader, taken: int, offset: int) -> None:
    offsets = record_by_record(reader, reader.chunk)
    assert [next(offsets) for _ in range(taken)][-1] == offset
    assert take_at_hand([orders(1, 0, 10)]) == []
    assert take_at_hand([PLANNED]) == [orders(0, offset, offset + 1)]
    assert take_at_hand([PLANNED]) == []


def test_of_a_chunk_that_is_given_out_as_a_whole_all_is_said(reader: Reader) -> None:
    as_a_whole(reader, reader.chunk)
    assert take_at_hand([PLANNED]) == [orders(0, 2, 9)]


class Meanwhile(list):  # type: ignore[type-arg]
    """Planned ranges; whoever looks at them lets another thread act first."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__([PLANNED])
        self._act = act

    def __iter__(self) -> Iterator[object]:
        self._act()
        return super().__iter__()


def test_a_reader_that_ends_while_others_ask_has_left_nothing(reader: Reader) -> None:
    as_a_whole(reader, reader.chunk)
    assert take_at_hand(Meanwhile(lambda: all_given_out(reader))) == []
