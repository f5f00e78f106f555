"""A forked child that runs one function."""

from __future__ import annotations

import os
from collections.abc import Callable


def succeeds_in_child(work: Callable[[], object]) -> bool:
    """Whether ``work``, run in a forked child, returns something true. The child runs nothing else, and does not clean up."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
