"""Requests: an answer speaks of every record, so it waits for every batch that holds one."""

from __future__ import annotations

import random

import pytest

from beam_exactly_once.errors import IdReused, StoreUnavailable
from beam_exactly_once.wal.ids import IdWindow, content_of, entries_of, stored_id
from beam_exactly_once.wal.intake import Batch, Intake, Request
from beam_exactly_once.wal.new_records import NewRecord, NewRecords


def record(name: str) -> NewRecord:
    value = name.encode()
    return NewRecord(value, 0, stored_id("log", value), content_of(value))


def requested(*names: str) -> NewRecords:
    return NewRecords.of(record(name) for name in names)


class OneWriter:
    """An intake whose batches land when the test says so."""

    def __init__(self) -> None:
        self.window = IdWindow(1000)
        self.intake = Intake(self.window)
        self.under_way: Batch | None = None
        self.durable: list[bytes | None] = []

    def begin(self) -> None:
        if self.under_way is None and self.intake:
            self.under_way = self.intake.take()

    def land(self) -> None:
        if self.under_way is not None:
            base = len(self.durable)
            records, self.under_way, batch = self.under_way.records, None, self.under_way
            self.durable += records.values
            self.window.move(len(self.durable), entries_of(base, records.ids, records.contents))
            self.intake.landed(batch, base)


@pytest.mark.parametrize("seed", range(20))
def test_an_answer_means_that_every_record_is_durable(seed: int) -> None:
    """Requests over one to four of six ids: durable, under way and waiting, in every mixture; and each is there once."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    writer = OneWriter()
    open_: list[tuple[list[str], Request]] = []
    for step in range(120):
        act = chance.random()
        if act < 0.5:
            names = [f"{step // 20}.{number}" for number in chance.sample(range(6), chance.randint(1, 4))]
            open_.append((names, writer.intake.offer(requested(*names))))
        elif act < 0.75:
            writer.begin()
        else:
            writer.land()
        for names, request in open_:
            if request.is_settled:
                assert {name.encode() for name in names} <= set(writer.durable)
                assert request.offset == min(writer.durable.index(name.encode()) for name in names)
    while writer.intake or writer.under_way:
        writer.begin()
        writer.land()
    assert all(request.is_settled for _, request in open_)
    assert len(writer.durable) == len(set(writer.durable))


def test_a_request_fails_if_one_of_its_batches_does() -> None:
    writer = OneWriter()
    first = writer.intake.offer(requested("a"))
    writer.begin()
    both = writer.intake.offer(requested("a", "b"))
    assert writer.under_way is not None

    writer.intake.fail(writer.under_way, StoreUnavailable("away"))

    assert isinstance(first.error, StoreUnavailable)
    assert isinstance(both.error, StoreUnavailable)
    writer.under_way = writer.intake.take()  # lands all the same: that changes no answer
    writer.land()
    assert isinstance(both.error, StoreUnavailable)


def test_an_id_under_way_with_another_value_is_refused() -> None:
    intake = Intake(IdWindow(10))
    intake.offer(requested("a"))
    other = record("a")._replace(value=b"other", content=content_of(b"other"))

    with pytest.raises(IdReused):
        intake.offer(NewRecords.of([record("b"), other]))

    assert intake.take().records.values == [b"a"]
