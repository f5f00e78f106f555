"""Another name of :mod:`beam_exactly_once.sinks.files.manifest`, for code that imports by it."""

from beam_exactly_once.sinks.files.manifest import PublishedBatch, PublishedFile, read_batches

__all__ = ["PublishedBatch", "PublishedFile", "read_batches"]
