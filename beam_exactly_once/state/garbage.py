"""No search for garbage while many small values are made that stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Python looks for cycles whenever some hundred containers were made, and now and then through all that there are.

    A batch makes a hundred thousand, none of which is in a cycle: to look for one takes five times as long as to make them. For
    plain values and accumulators; not for ``fn`` of ``UpdateStateByKey``, which may make cycles. Threads may overlap: then the
    first one to end switches it on again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
