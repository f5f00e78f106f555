"""A test kit for streams and sinks of your own: in memory, with crashes, and the stories that every sink must survive."""

from typing import TYPE_CHECKING, Any

from beam_exactly_once.testing.memory_kafka import MemoryKafka
from beam_exactly_once.testing.memory_stream import MemoryRun, run_in_memory

__all__ = ["STORIES", "MemoryKafka", "MemoryRun", "SinkUnderTest", "Story", "run_in_memory"]

if TYPE_CHECKING:
    from beam_exactly_once.testing.conformance import STORIES, SinkUnderTest, Story
else:

    def __getattr__(name: str) -> Any:
        """Load the stories when they are used: `python -m beam_exactly_once.testing.crashing` is a part of them."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from beam_exactly_once.testing import conformance

        return getattr(conformance, name)
