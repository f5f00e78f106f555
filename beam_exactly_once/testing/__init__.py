"""A test kit for streams, sinks, stores and logs of your own.

Streams run in memory, and are killed where you choose. Stories are what every sink must survive; contracts are what every object
store and every log owes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from beam_exactly_once.testing.memory_kafka import MemoryKafka
from beam_exactly_once.testing.memory_stream import MemoryRun, run_in_memory

__all__ = [
    "STORIES",
    "LogContract",
    "LogUnderTest",
    "MemoryKafka",
    "MemoryRun",
    "ObjectStoreContract",
    "SinkUnderTest",
    "Story",
    "run_in_memory",
]

if TYPE_CHECKING:
    from beam_exactly_once.testing.conformance import STORIES, SinkUnderTest, Story
    from beam_exactly_once.testing.log_contract import LogContract, LogUnderTest
    from beam_exactly_once.testing.object_store_contract import ObjectStoreContract
else:
    _MODULES = {
        "LogContract": "log_contract",
        "LogUnderTest": "log_contract",
        "ObjectStoreContract": "object_store_contract",
    }

    def __getattr__(name: str) -> Any:
        """Load stories and contracts when they are used: contracts need pytest, and ``crashing`` is a part of the stories."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = f"{__name__}.{_MODULES.get(name, 'conformance')}"
        if name in _MODULES:
            import pytest

            pytest.register_assert_rewrite(module)  # so that a failed test shows its values
        return getattr(import_module(module), name)
