"""Merges keep lists short, writes few and bytes flat, batch after batch: a model of rows, without the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_exactly_once.state.compaction import OLD_AGE_BATCHES, Held, Merge, choose_merges

KEYS = 1_000_000
BATCHES = 2_500


@dataclass
class Section:
    """How often its keys were drawn, which says how many different ones it has; when it was written, into which object."""

    draws: float
    rows: int
    batch: int
    object: tuple[int, str]


@dataclass
class Model:
    """Slices of one bundle that get so many random rows a batch. Bases have objects of their own."""

    draws_a_batch: Sequence[float]
    keys_a_slice: float = 0
    slices: list[list[Section]] = field(default_factory=list)
    object_rows: dict[tuple[int, str], int] = field(default_factory=dict)
    left_over: list[float] = field(default_factory=list)
    written_rows: int = 0
    own_rows: int = 0
    most_references: int = 0

    def __post_init__(self) -> None:
        self.keys_a_slice = KEYS / len(self.draws_a_batch)
        self.left_over = [0.0] * len(self.draws_a_batch)
        for _ in self.draws_a_batch:
            self.slices.append([])
            self.slices[-1].insert(0, self.written(math.inf, 0, "base"))

    def different(self, draws: float) -> int:
        return max(1, round(self.keys_a_slice * -math.expm1(-draws / self.keys_a_slice)))

    def written(self, draws: float, batch: int, name: str) -> Section:
        section = Section(draws, self.different(draws), batch, (batch, name))
        self.object_rows[section.object] = self.object_rows.get(section.object, 0) + section.rows
        self.written_rows += section.rows
        return section

    def run(self, batch: int) -> int:
        """One batch; how many rows all objects have that are still needed."""
        drawn = {}
        for number, draws in enumerate(self.draws_a_batch):
            self.left_over[number] += draws
            if self.left_over[number] >= 1:
                drawn[number] = math.floor(self.left_over[number])
                self.left_over[number] -= drawn[number]
        own_rows = sum(map(self.different, drawn.values()))
        self.own_rows += own_rows
        held = [[Held(section.rows, 0, batch - section.batch) for section in sections] for sections in self.slices]
        for merge in choose_merges(held, own_rows):
            sections = self.slices[merge.slice_number]
            taken = sections[: merge.sections]
            draws = sum(section.draws for section in taken) + drawn.pop(merge.slice_number, 0)
            sections[: merge.sections] = [self.written(draws, batch, "base" if merge.is_base else "small")]
        for number, draws in drawn.items():
            self.slices[number].insert(0, self.written(draws, batch, "small"))
        needed = {section.object for sections in self.slices for section in sections}
        self.object_rows = {key: rows for key, rows in self.object_rows.items() if key in needed}
        self.most_references = max(self.most_references, *map(len, self.slices))
        return sum(self.object_rows.values())


@pytest.mark.parametrize(("slices", "batches"), [(16, BATCHES), (64, BATCHES), (300, 800)])
def test_one_bundle_keeps_up_with_all_its_slices(slices: int, batches: int) -> None:
    """Each batch touches 1 in 100 keys."""
    model = Model([KEYS / 100 / slices] * slices)
    model.written_rows = 0

    stored = [model.run(batch) for batch in range(1, batches + 1)]

    assert model.most_references <= 12
    assert model.written_rows <= 4 * model.own_rows
    assert max(stored[batches // 2 :]) <= 1.1 * max(stored[: batches // 2])


def test_bytes_stay_flat_where_keys_are_skewed_and_one_slice_is_cold() -> None:
    """A row in 200 batches would keep the whole object of its batch, for ever."""
    shares = [1 / (number + 1) ** 1.2 for number in range(15)]
    model = Model([*(KEYS / 100 * share / sum(shares) for share in shares), 1 / 200])

    stored = [model.run(batch) for batch in range(1, BATCHES + 1)]

    assert model.most_references <= 12
    assert max(stored[BATCHES // 2 :]) <= 1.1 * max(stored[: BATCHES // 2])
    assert max(stored) <= 3 * KEYS


@dataclass(slots=True)
class Aging:
    """A section that grows older by itself."""

    rows: int
    batch: int
    now: list[int]
    tombstones: int = 0

    @property
    def age_batches(self) -> int:
        return self.now[0] - self.batch


@pytest.mark.parametrize(("bundles", "batches"), [(1, 60), (1000, 300)], ids=["in one bundle", "in a bundle each"])
def test_slices_that_are_cut_for_more_workers_keep_up_as_well(bundles: int, batches: int) -> None:
    """A part lists the sections of the whole, with all their rows, until it has written its own."""
    now = [0]
    slices: list[list[Any]] = [[Aging(KEYS // 16, 0, now)] for _ in range(16)]
    most = 0
    for batch in range(1, batches + 1):
        now[0], workers = batch, (3, 7, 16, 1000)[batch % 4]
        if len(slices) < workers:
            slices = [one for one in slices for _ in range(-(-workers // len(slices)))]
        of_slice, parts = KEYS // len(slices), min(bundles, workers)
        for start, stop in pairwise(len(slices) * part // parts for part in range(parts + 1)):
            of_bundle = slices[start:stop]
            merge_of = {one.slice_number: one for one in choose_merges(of_bundle, of_slice // 100 * (stop - start))}
            for number, held in enumerate(of_bundle):
                merge = merge_of.get(number, Merge(number, 0, is_base=False))
                taken = sum(section.rows for section in held[: merge.sections])
                rows = of_slice if merge.is_base else min(taken + of_slice // 100, of_slice)
                slices[start + number] = [Aging(rows, batch, now), *held[merge.sections :]]
        most = max(most, *map(len, slices))
    assert len(slices) == 1008
    assert most <= 12


SECTIONS = st.builds(Held, st.integers(0, 1000), st.just(0), st.integers(0, 3 * OLD_AGE_BATCHES))


@given(st.lists(st.lists(SECTIONS, max_size=14), max_size=40), st.integers(0, 2000))
def test_a_bundle_never_merges_more_than_its_share(slices: list[list[Held]], batch_rows: int) -> None:
    merges = choose_merges(slices, batch_rows)

    assert len({merge.slice_number for merge in merges}) == len(merges)
    for merge in merges:
        held = slices[merge.slice_number]
        assert 1 <= merge.sections <= len(held)
        assert merge.is_base == (merge.sections == len(held))
    rows = sorted(sum(section.rows for section in slices[merge.slice_number][: merge.sections]) for merge in merges)
    share = math.ceil(len(slices) / 8) + 1
    assert sum(rows[:-share]) <= batch_rows / 4  # what was old


def test_no_section_and_one_section_are_left_alone() -> None:
    assert choose_merges([[], [Held(10, 0, 3)]], 100) == []


def test_half_as_many_pending_rows_make_a_new_base() -> None:
    assert choose_merges([[Held(49, 0, 1), Held(100, 0, 9)]], 100) == []
    assert choose_merges([[Held(50, 0, 1), Held(100, 0, 9)]], 100) == [Merge(0, 2, is_base=True)]


def test_of_many_bases_the_one_with_most_to_do_comes_first() -> None:
    slices = [[Held(60, 0, 1), Held(100, 0, 9)], [Held(90, 0, 1), Held(100, 0, 9)], [Held(70, 0, 1), Held(1, 0, 9)]]

    assert choose_merges(slices, 100) == [Merge(1, 2, is_base=True)]


def test_a_small_merge_leaves_what_is_large() -> None:
    newest = [Held(10, 0, age) for age in range(1, 8)]

    assert choose_merges([[*newest, Held(200, 0, 9), Held(9000, 0, 9)]], 100) == [Merge(0, 7, is_base=False)]


def test_what_is_old_is_written_again_if_it_is_small() -> None:
    old, new = OLD_AGE_BATCHES, OLD_AGE_BATCHES - 1

    assert choose_merges([[Held(1, 0, old), Held(500, 0, new)]], 100) == [Merge(0, 1, is_base=False)]
    assert choose_merges([[Held(5, 0, new), Held(20, 0, old)]], 100) == [Merge(0, 2, is_base=True)]
    assert choose_merges([[Held(1, 0, new), Held(500, 0, old)]], 100) == []
    assert choose_merges([[Held(26, 0, old), Held(500, 0, new)]], 100) == []
