"""What a stream tells about its batches, and to whom."""

from beam_exactly_once.pipelines.progress.listeners import BatchProgress, JsonLinesListener, ProgressListener, fan_out

__all__ = ["BatchProgress", "JsonLinesListener", "ProgressListener", "fan_out"]
