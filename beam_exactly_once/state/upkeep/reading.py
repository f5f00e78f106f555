"""Reading sections beside a stream that may sweep them meanwhile."""

from __future__ import annotations

from beam_exactly_once.checkpoint import Checkpoint
from beam_exactly_once.errors import CheckpointHole, SweptMeanwhile
from beam_exactly_once.state.section import Fetch, fetch_from
from beam_exactly_once.state.state_list import state_lists


def fetch_behind(checkpoint: Checkpoint, batch_id: int) -> Fetch:
    """Reads what the marker of a batch names.

    What it returns raises ``CheckpointHole`` for an object that is gone and is missed; ``SweptMeanwhile`` where the stream has
    gone on meanwhile, and its newest batch does without that object.
    """
    fetch = fetch_from(checkpoint.store)

    def fetch_or_say(object_key: str, offset: int, size_bytes: int) -> bytes:
        try:
            return fetch(object_key, offset, size_bytes)
        except CheckpointHole:
            newest = checkpoint.newest_marker()
            named = {key for one in state_lists(newest).values() for key in one.object_keys}
            if newest is None or newest.batch_id <= batch_id or object_key in named:
                raise
            raise SweptMeanwhile(
                f"{checkpoint.store.uri}/{object_key}, of the state behind batch {batch_id}, is gone, and batch "
                f"{newest.batch_id} does not need it: the stream goes on, and sweeps what it does not retain. Look at a newer "
                "batch."
            ) from None

    return fetch_or_say
