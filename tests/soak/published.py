"""What is published: when, as somebody sees who only looks at the output, and what, by value."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_exactly_once import read_batches
from beam_exactly_once.errors import Retryable
from beam_exactly_once.object_store import open_object_store
from beam_exactly_once.sinks.files.manifest import manifest_key

POLL_S = 0.05


class Publishes:
    """When batches are published, by the clock of who looks; in a thread, until it is ended.

    Args:
        output: a location of files.
    """

    def __init__(self, output: str) -> None:
        self._store = open_object_store(output)
        self._is_ending = threading.Event()
        self.at_s: list[float] = []
        """Of batch 0, 1, 2 …"""
        self._thread = threading.Thread(target=self._look, name="publishes", daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._is_ending.wait(POLL_S):
            try:
                while self._store.get(manifest_key(len(self.at_s))) is not None:
                    self.at_s.append(time.monotonic())
            except Retryable:
                continue

    def have_gone_on(self, at_s: float) -> bool:
        """Whether a batch was published behind this moment."""
        return bool(self.at_s) and self.at_s[-1] > at_s

    def end(self) -> None:
        """Look no more."""
        self._is_ending.set()
        self._thread.join()


def pauses(published_s: Sequence[float], at_s: float) -> tuple[float, float]:
    """How long after ``at_s`` the next batch was published, and the longest time without one since, both in seconds. Pure."""
    later = [one for one in published_s if one > at_s]
    return later[0] - at_s, max(after - before for before, after in pairwise([at_s, *later]))


def numbers_in(output: str) -> tuple[np.ndarray, list[str]]:
    """All numbers that manifests of an output name, and what is visible there that none does."""
    store = open_object_store(output)
    named: set[str] = set()
    found = [np.empty(0, np.int64)]
    for batch in read_batches(output):
        for file in batch.files:
            body = store.get(file.name)
            assert body is not None, f"{file.name} is named by a manifest, and is not there"
            named.add(file.name)
            values = pq.read_table(io.BytesIO(body), columns=["value"])["value"]
            found.append(pc.cast(pc.cast(values, "string"), "int64").to_numpy())
    visible = {entry.key for entry in store.list() if not entry.key.startswith("_batches/")}
    return np.concatenate(found), sorted(visible - named)


def faults(sent: int, found: np.ndarray, orphans: list[str]) -> list[str]:
    """Where an output is not the numbers below ``sent``, each once. Pure."""
    known = found[(found >= 0) & (found < sent)]
    times = np.bincount(known, minlength=sent)
    told = [
        ("lost", np.flatnonzero(times == 0)),
        ("more than once", np.flatnonzero(times > 1)),
        ("never sent", np.setdiff1d(found, known)),
    ]
    said = [f"{len(numbers)} {what}, such as {numbers[0]}" for what, numbers in told if len(numbers)]
    return [*said, *([f"{len(orphans)} files that no manifest names, such as {orphans[0]}"] if orphans else [])]
