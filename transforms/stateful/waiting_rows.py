"""Rows of a shard that wait until their slice is changed: in memory, or where they are too many for it, in a file.

The file is of this machine's cache of state. Nobody else can see it, and it goes with the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beam_exactly_once.errors import Retryable
from beam_exactly_once.state.keyed_chunk import KeyedChunk, chunks_by_shard
from beam_exactly_once.state.near.cache import StateCache, section_cache
from beam_exactly_once.state.state_list import HASHES, Slice

PARTS = 16
"""A slice whose rows are too many is cut into so many at the most, which stay slices of their own."""
MOST_SLICES = 1024
"""None is cut that is smaller than this share of all hashes."""


class _Piece(NamedTuple):
    """What a chunk has of a part."""

    number: int
    """In the file."""
    size_bytes: int
    """Its share of the chunk: what is written of a few rows is mostly the names of columns."""


class WaitingRows:
    """The chunks of one shard of one batch. Their order does not matter.

    Args:
        cache: says how much may be in memory, and where files may be.
        coder: of chunks.
    """

    def __init__(self, cache: StateCache, coder: Any) -> None:
        folder = section_cache(cache).folder
        self._folder = None if folder is None else folder.path
        self._max_bytes = cache.max_memory_bytes
        self._coder = coder
        self._size_bytes = 0
        self._file: _ChunkFile | None = None
        self.in_memory: list[KeyedChunk] = []

    @property
    def are_on_disk(self) -> bool:
        """Whether they are too many for memory."""
        return self._file is not None

    def add(self, chunk: KeyedChunk) -> None:
        """
        Raises:
            Retryable: they are too many for memory, and the disk is full.
        """
        self._size_bytes += chunk.size_bytes
        if self._folder is None or self._size_bytes <= self._max_bytes:
            self.in_memory.append(chunk)
            return
        if self._file is None:
            self._file = _ChunkFile(self._folder, self._coder)
        self._file.append(chunk)

    def turns(self, slices: Sequence[Slice]) -> Iterator[tuple[Slice, list[KeyedChunk]]]:
        """Each slice of the shard with its rows; in parts, where its rows are too many. Those of one key are never cut.

        Raises:
            Retryable: the disk is full.
        """
        assert self._folder is not None
        with _ChunkFile(self._folder, self._coder) as cut:
            of_part = self._cut(cut, [part for one in slices for part in one.parts(PARTS)])
            for number, one in enumerate(slices):
                mine = of_part[number * PARTS : (number + 1) * PARTS]
                count = self._parts_of(one, [sum(piece.size_bytes for piece in of_one) for of_one in mine])
                for part, start in zip(
                    one.parts(count) if count > 1 else [one], range(0, PARTS, PARTS // count), strict=True
                ):
                    pieces = chain.from_iterable(mine[start : start + PARTS // count])
                    yield part, [cut.chunk(piece.number) for piece in pieces]

    def _cut(self, cut: _ChunkFile, parts: Sequence[Slice]) -> list[list[_Piece]]:
        """Write all rows by part; where those of each are."""
        firsts = np.array([part.first_hash for part in parts], np.uint64)
        of_part: list[list[_Piece]] = [[] for _ in parts]
        for chunk in self._all():
            rows_in = chunk.rows_in
            for number, piece in chunks_by_shard(chunk, firsts):
                size_bytes = chunk.size_bytes * int(piece.counts.sum()) // int(chunk.counts.sum())
                of_part[number].append(_Piece(cut.append(replace(piece, rows_in=rows_in)), size_bytes))
                rows_in = 0  # they were counted, and the whole is what counts
        return of_part

    def _all(self) -> Iterator[KeyedChunk]:
        while self.in_memory:
            yield self.in_memory.pop()
        assert self._file is not None
        with self._file as file:
            yield from map(file.chunk, range(len(file)))

    def _parts_of(self, one: Slice, sizes_bytes: Sequence[int]) -> int:
        """Into how many parts a slice must be cut for its rows to be few enough: a power of two."""
        count = 1
        while count < PARTS and one.end_hash - one.first_hash > HASHES // MOST_SLICES * count:
            length = PARTS // count
            if max(sum(sizes_bytes[start : start + length]) for start in range(0, PARTS, length)) <= self._max_bytes:
                break
            count *= 2
        return count


class _ChunkFile:
    """Chunks in a file without a name."""

    def __init__(self, folder: Path, coder: Any) -> None:
        self._folder = folder
        self._coder = coder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by who has made this)
        self._places: list[tuple[int, int]] = []

    def __enter__(self) -> _ChunkFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def append(self, chunk: KeyedChunk) -> int:
        """Write it; its number.

        Raises:
            Retryable: the disk is full.
        """
        encoded = self._coder.encode(chunk)
        at = sum(self._places[-1]) if self._places else 0
        try:
            self._file.seek(at)
            self._file.write(encoded)
            self._file.flush()
        except OSError as error:
            raise Retryable(
                f"the rows of one shard and batch are more than max_memory_bytes, and {self._folder} cannot hold them "
                f"({error.strerror}). Nothing was committed. Free space there, name another folder in StateCache(location=…), or "
                "give the step more shards=."
            ) from None
        self._places.append((at, len(encoded)))
        return len(self._places) - 1

    def chunk(self, number: int) -> KeyedChunk:
        """The chunk with this number."""
        at, size_bytes = self._places[number]
        self._file.seek(at)
        decoded: KeyedChunk = self._coder.decode(self._file.read(size_bytes))
        return decoded
