"""A test kit for streams of your own: in memory, and with crashes."""

from beam_exactly_once.testing.memory_kafka import MemoryKafka
from beam_exactly_once.testing.memory_stream import MemoryRun, run_in_memory

__all__ = ["MemoryKafka", "MemoryRun", "run_in_memory"]
