"""Many runs into one: of each key, or key and subkey, the newest row stays. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from beam_exactly_once.state.hashing import offsets_of
from beam_exactly_once.state.ordering import order_of
from beam_exactly_once.state.run import TOMBSTONE, Run, empty_values
from beam_exactly_once.state.types.arrow_state import joined


def merged(runs_newest_first: Sequence[Run], *, drop_tombstones: bool = False) -> Run:
    """One run that says what these say together.

    It is made column by column: beside the runs and the result, one column of all rows is in memory, and their order.

    Args:
        runs_newest_first: at least one; values of several versions get the fields of all of them.
        drop_tombstones: leave out what is deleted. Only right if no older run remains: an older row would come back.
    """
    runs = runs_newest_first
    hashes = np.concatenate([run.hashes for run in runs])
    versions = np.concatenate([run.versions for run in runs])
    keys, subkeys = (pa.concat_arrays([getattr(run, name) for run in runs]) for name in ("keys", "subkeys"))
    order, repeats = order_of(hashes, keys, subkeys)
    stays = order[~repeats]  # of rows that are one, the newest comes first
    if drop_tombstones:
        stays = stays[versions[stays] != TOMBSTONE]
    del order, repeats
    at = pa.array(stays)
    hashes, versions, keys = hashes[stays], versions[stays], keys.take(at)
    subkeys = subkeys.take(at) if offsets_of(subkeys)[-1] else empty_values(len(at))  # most keys have one row, and none
    values = joined([run.values for run in runs]).take(at)
    expiry_ms = np.concatenate([run.expiry_ms for run in runs])[stays]
    return Run.of_sorted(hashes, keys, subkeys, values, expiry_ms, versions)
