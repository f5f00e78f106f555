"""Copying what an operator of another stream remembers into this one's checkpoint, slice by slice.

The other stream is only read. What is read is checked, so a copy is whole, or there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from beam_exactly_once.checkpoint import layout
from beam_exactly_once.checkpoint.records import Attempt
from beam_exactly_once.errors import CheckpointHole
from beam_exactly_once.object_store import ObjectStore
from beam_exactly_once.randomness import new_token
from beam_exactly_once.state.merging import merged
from beam_exactly_once.state.run import Run
from beam_exactly_once.state.section import Fetch, fetch_from, pack, runs_of
from beam_exactly_once.state.state_list import Slice, StateList

MAX_OBJECT_BYTES = 64 << 20
"""Slices are gathered into objects of about this size in memory; a larger slice has one of its own."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A slice, and all that it holds in one run."""

    slice: Slice
    run: Run | None
    """None if it holds nothing."""


def copy_state(
    operator: str,
    carried: StateList,
    attempt: Attempt,
    *,
    source: ObjectStore,
    target: ObjectStore,
    max_object_bytes: int = MAX_OBJECT_BYTES,
) -> StateList:
    """Write each slice as one section, its base, without what was deleted. What has expired stays: a timer may call for it.

    A crash leaves objects that nobody names, which a sweep removes.

    Args:
        operator: its name, in both streams.
        carried: what it remembers in the other one.
        attempt: of the batch that the copies are of.
        source: the other stream's checkpoint location.
        target: this stream's.
        max_object_bytes: how much is held in memory, apart from one slice.

    Returns:
        What it remembers here: of the first generation, with timers as they stood.

    Raises:
        CheckpointHole: an object is gone: the other stream still runs, and swept it.
        CorruptObject: an object is damaged.
    """
    copied: list[Slice] = []
    for together in _gathered(carried.slices, fetch_from(source), max_object_bytes):
        key = layout.state_key(operator, attempt.batch_id, attempt.nonce, new_token())
        body, sections = pack(key, [one.run for one in together if one.run is not None])
        if sections:
            target.put_if_absent(key, body)
        left = iter(sections)
        copied += [replace(one.slice, sections=() if one.run is None else (next(left),)) for one in together]
    return replace(carried, generation=1, slices=tuple(copied))


def _gathered(slices: Sequence[Slice], fetch: Fetch, max_object_bytes: int) -> Iterator[list[_Read]]:
    """The slices in their order, so many together as make an object."""
    together: list[_Read] = []
    size_bytes = 0
    for one in slices:
        read = _Read(one, _read(one, fetch))
        together.append(read)
        size_bytes += 0 if read.run is None else read.run.size_bytes
        if size_bytes >= max_object_bytes:
            yield together
            together, size_bytes = [], 0
    if together:
        yield together


def _read(one: Slice, fetch: Fetch) -> Run | None:
    if not one.sections:
        return None
    try:
        runs = runs_of(one, fetch)
    except CheckpointHole as error:
        raise CheckpointHole(
            f"continue_from: {error} If the other stream still runs, it swept the object. Stop it, and start this one with an "
            "empty checkpoint_location; nothing was written to its outputs."
        ) from None
    run = merged(runs, drop_tombstones=True)
    return run if len(run) else None
