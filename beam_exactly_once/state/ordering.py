"""The order of rows: by hash, then by the bytes of key and subkey. Pure.

Rows are sorted by hash alone. Bytes are looked at only where hashes are equal: rows of one key, and different keys of one hash.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_exactly_once.state.hashing import Hashes, Numbers

Flags: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"


def order_of(hashes: Hashes, keys: pa.LargeBinaryArray, subkeys: pa.LargeBinaryArray) -> tuple[Numbers, Flags]:
    """The rows in order, and which of them have the hash, key and subkey of the one before. Such rows keep their order."""
    order = np.argsort(hashes, kind="stable")  # quick where the rows are a few sorted runs
    ordered = hashes[order]
    repeats: Flags = np.zeros(len(order), np.bool_)
    np.equal(ordered[1:], ordered[:-1], out=repeats[1:])
    at = np.flatnonzero(repeats)
    if not len(at):
        return order, repeats
    same = _repeat(order, at, keys, subkeys)
    mixed = at[~same]
    if len(mixed) and not _rise(order[mixed - 1], order[mixed], keys, subkeys):
        _sort_mixed(order, ordered, mixed, keys, subkeys)
        same = _repeat(order, at, keys, subkeys)
    repeats[at] = same
    return order, repeats


def rises(hashes: Hashes, keys: pa.LargeBinaryArray, subkeys: pa.LargeBinaryArray) -> bool:
    """Whether rows are in order, and no two of them have the same hash, key and subkey."""
    if len(hashes) < 2:
        return True
    if not (hashes[1:] >= hashes[:-1]).all():
        return False
    at = np.flatnonzero(hashes[1:] == hashes[:-1])
    return not len(at) or _rise(at, at + 1, keys, subkeys)


def flags(compared: pa.Array) -> Flags:
    """The result of a comparison, for numpy."""
    found: Flags = compared.to_numpy(zero_copy_only=False)
    return found


def _rise(rows: Numbers, later: Numbers, keys: pa.LargeBinaryArray, subkeys: pa.LargeBinaryArray) -> bool:
    """Whether each of these rows, which have one hash with the later one, stands before that."""
    here, behind = pa.array(rows), pa.array(later)
    first, second = keys.take(here), keys.take(behind)
    is_before = pc.or_(
        pc.less(first, second),
        pc.and_(pc.equal(first, second), pc.less(subkeys.take(here), subkeys.take(behind))),
    )
    return bool(pc.all(is_before).as_py())


def _repeat(order: Numbers, at: Numbers, keys: pa.LargeBinaryArray, subkeys: pa.LargeBinaryArray) -> Flags:
    """Whether the rows ``at`` these places have the key and subkey of the row before, whose hash they have."""
    here, before = pa.array(order[at]), pa.array(order[at - 1])
    return flags(
        pc.and_(
            pc.equal(keys.take(here), keys.take(before)),
            pc.equal(subkeys.take(here), subkeys.take(before)),
        )
    )


def _sort_mixed(
    order: Numbers, ordered: Hashes, mixed_at: Numbers, keys: pa.LargeBinaryArray, subkeys: pa.LargeBinaryArray
) -> None:
    """Sort the rows of each hash that has more than one key or subkey, in place."""
    mixed = np.unique(ordered[mixed_at])
    place = np.minimum(np.searchsorted(mixed, ordered), len(mixed) - 1)
    at = np.flatnonzero(mixed[place] == ordered)
    rows = order[at]
    taken = pa.array(rows)
    table = pa.table({"hash": ordered[at], "key": keys.take(taken), "subkey": subkeys.take(taken)})
    by = [(name, "ascending") for name in table.column_names]
    order[at] = rows[pc.sort_indices(table, sort_keys=by).to_numpy()]
