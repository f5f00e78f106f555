"""Sections of state kept near: as files on this machine's disk that any of its processes can map, else in memory.

A section never changes, and its name is its digest. So nothing in a cache can be out of date, and losing it costs time only.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from beam_exactly_once import arguments
from beam_exactly_once.clock import SYSTEM_CLOCK, Clock
from beam_exactly_once.errors import ConfigurationError
from beam_exactly_once.per_process import PerProcess
from beam_exactly_once.state.near.cache_file import file_name, run_of_file, write_file
from beam_exactly_once.state.near.cache_folder import MAPPED_FROM_BYTES, CacheFolder, Unusable, default_roots
from beam_exactly_once.state.run import Run
from beam_exactly_once.state.section import Fetch, read_section
from beam_exactly_once.state.state_list import Section

MAX_FETCHES = 8
"""Sections of a slice that are fetched at the same time: each is in memory twice while it is decoded."""
MAPPED_COUNTS_AS_BYTES = 1 << 20
"""What a mapped file counts as: the kernel takes its pages back when it needs them, but a process has few descriptors."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StateCache:
    """Where each machine keeps state that it has read or written, so that the next batch finds it there.

    The files are not encrypted, also if the checkpoint location is. They are of one user and closed to others, and go with the
    next start of the machine. Where the folder is in memory or on a network, or cannot be written, state is kept in the memory
    of each process, and a warning says so.

    Args:
        location: a folder of a local disk; None for the user's cache folder, else ``/var/tmp``.
        max_bytes: how much may lie there; 0 keeps state in memory alone.
        max_memory_bytes: how much a process may keep in its own memory. Rows of one shard and batch that are more, as they
            travel, wait in a file of that folder.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    location: str | None = None
    max_bytes: int = field(default=10 << 30, kw_only=True)
    max_memory_bytes: int = field(default=256 << 20, kw_only=True)

    def __post_init__(self) -> None:
        location = self.location
        if location is not None and (not isinstance(location, str) or not location or "://" in location):
            raise ConfigurationError(
                f"location={location!r} must be a folder of this machine's disk, or None for the user's cache folder."
            )
        arguments.whole_number("max_bytes", self.max_bytes, least=0)
        arguments.whole_number("max_memory_bytes", self.max_memory_bytes, least=0)


class SectionCache:
    """The sections that this process can have at once. May be used from many threads.

    Args:
        settings: where, and how much.
        clock: tells how old files are.
    """

    def __init__(self, settings: StateCache, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._settings = settings
        self.folder = _folder(settings, clock)
        """None if sections are kept in memory alone."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Run, int]] = OrderedDict()
        self._kept_bytes = 0

    def get(self, ref: Section, fetch: Fetch) -> Run:
        """A section: from memory, from the disk, else by ``fetch``, whose errors and those of what it fetched are raised."""
        run = self._near(ref)
        return self._fetched(ref, fetch) if run is None else run

    def get_all(self, refs: Sequence[Section], fetch: Fetch) -> list[Run]:
        """As :meth:`get`. What is not near is fetched at the same time, a few sections at once."""
        near = [self._near(ref) for ref in refs]
        far = [place for place, run in enumerate(near) if run is None]
        if len(far) > 1:
            with ThreadPoolExecutor(min(len(far), MAX_FETCHES), "state-fetch") as pool:
                fetched = list(pool.map(lambda place: self._fetched(refs[place], fetch), far))
        else:
            fetched = [self._fetched(refs[place], fetch) for place in far]
        found = dict(zip(far, fetched, strict=True))
        return [found[place] if run is None else run for place, run in enumerate(near)]

    def _near(self, ref: Section) -> Run | None:
        run = self._from_memory(ref)
        return self._from_disk(ref) if run is None else run

    def _fetched(self, ref: Section, fetch: Fetch) -> Run:
        return self._to_disk(ref, read_section(ref, fetch(ref.object_key, ref.offset, ref.size_bytes)))

    def put(self, ref: Section, run: Run) -> None:
        """Keep a section that was just written."""
        self._to_disk(ref, run)

    def _from_memory(self, ref: Section) -> Run | None:
        with self._lock:
            found = self._kept.get(ref.digest)
            if found is None:
                return None
            self._kept.move_to_end(ref.digest)
            return found[0]

    def _from_disk(self, ref: Section) -> Run | None:
        if self.folder is None:
            return None
        content = self.folder.read(file_name(ref))
        if content is None:
            return None
        is_mapped = content.size >= MAPPED_FROM_BYTES
        try:
            run = run_of_file(content, ref, whole=not is_mapped)
        except ValueError as error:
            logger.warning("a damaged file of the cache of state is removed: %s (%s)", file_name(ref), error)
            self.folder.remove(file_name(ref))
            return None
        self._keep(ref, run, MAPPED_COUNTS_AS_BYTES if is_mapped else run.size_bytes)
        return run

    def _to_disk(self, ref: Section, run: Run) -> Run:
        """Write it, and go on with the file where that is mapped: then its memory can be given back."""
        size_bytes = run.size_bytes
        if self.folder is not None and size_bytes <= self._settings.max_bytes:
            is_there = self.folder.write(file_name(ref), partial(write_file, ref=ref, run=run))
            if is_there and size_bytes >= MAPPED_FROM_BYTES:
                return self._from_disk(ref) or run
        self._keep(ref, run, size_bytes)
        return run

    def _keep(self, ref: Section, run: Run, size_bytes: int) -> None:
        if size_bytes > self._settings.max_memory_bytes:
            return
        with self._lock:
            _, before_bytes = self._kept.pop(ref.digest, (None, 0))
            self._kept[ref.digest] = run, size_bytes
            self._kept_bytes += size_bytes - before_bytes
            while self._kept_bytes > self._settings.max_memory_bytes:
                _, (_, dropped_bytes) = self._kept.popitem(last=False)
                self._kept_bytes -= dropped_bytes


def section_cache(settings: StateCache) -> SectionCache:
    """The cache of this process."""
    return _caches.get(settings)


def _folder(settings: StateCache, clock: Clock) -> CacheFolder | None:
    if settings.max_bytes == 0:
        return None
    if not hasattr(os, "getuid"):
        reasons = ["this system does not say whose files are"]
    else:
        roots = default_roots() if settings.location is None else [Path(settings.location).expanduser()]
        reasons = []
        for root in roots:
            try:
                return CacheFolder(root, settings.max_bytes, clock)
            except Unusable as unusable:
                reasons.append(str(unusable))
    logger.warning(
        "state is kept in memory, and each new process reads it from the checkpoint location: %s. "
        "Name a folder of a local disk: StateCache(location=…)",
        "; ".join(reasons),
    )
    return None


_caches = PerProcess(SectionCache)
